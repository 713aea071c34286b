"""What packages in a row hand on must be what the next one takes."""

from __future__ import annotations

import re

import coremltools as ct
import numpy as np
import pytest
from coremltools.converters.mil.mil import Builder as mb
from coremltools.converters.mil.mil import types

import mlpass
from mlpass import ConfigError, Percentile
from mlpass.runtime.chain import in_a_row
from mlpass.runtime.description import Description, Feature, Shapes
from tests.runtime.programs import convert


def package(path, takes, makes, shape, dtype="fp32"):
    """Writes a linear layer of 64 rows under the names of its input and output."""
    weight = np.random.default_rng(0).standard_normal((64, shape[-1])).astype(np.float32)
    spec = mb.TensorSpec(shape, dtype=getattr(types, dtype))

    @mb.program(input_specs=[spec], opset_version=ct.target.iOS17)
    def model(x):
        x = mb.cast(x=x, dtype="fp32") if dtype != "fp32" else x
        return mb.linear(x=x, weight=weight, name=makes)

    made = convert(model, minimum_deployment_target=ct.target.iOS17)
    described = made.get_spec()
    ct.utils.rename_feature(described, "x", takes)
    ct.utils.save_spec(described, str(path), weights_dir=made.weights_dir)
    return path


@pytest.mark.parametrize(
    ("shape", "dtype", "told"),
    [
        ((1, 64), "fp32", "fp32 (1, 64)"),
        ((2, 32), "fp32", "fp32 (2, 32)"),
        ((1, 2, 64), "fp32", "fp32 (1, 2, 64)"),
        ((2, 64), "int32", "int32 (2, 64)"),
        ((2, 64), "fp16", None),
    ],
)
def test_the_packages_are_named_not_the_samples(shape, dtype, told, tmp_path):
    first = package(tmp_path / "a.mlpackage", "x", "h", (2, 48))
    second = package(tmp_path / "b.mlpackage", "h", "y", shape, dtype)
    outputs = [tmp_path / "a2.mlpackage", tmp_path / "b2.mlpackage"]
    samples = [{"x": row} for row in np.random.default_rng(1).standard_normal((3, 2, 48))]
    if told is None:
        report = mlpass.prune([first, second], outputs, Percentile(0.5), sample_data=samples)
        assert all(layer.error is not None for layer in report.layers)
        return
    text = f"takes 'h' as {told}, and those before it make fp32 (2, 64); convert them"
    with pytest.raises(ConfigError, match=f"source: .*b.mlpackage {re.escape(text)}"):
        mlpass.prune([first, second], outputs, Percentile(0.5), sample_data=samples)
    assert not any(path.exists() for path in outputs)


LISTED = {"listed": ((1, 4), (2, 4))}


@pytest.mark.parametrize(
    ("made", "taken", "fits"),
    [
        ({}, {"ranges": ((1, 1),)}, True),
        ({"ranges": ((1, 1),)}, {}, True),
        ({"ranges": ((1, 8), (4, 4))}, {"ranges": ((8, None), (1, 4))}, True),
        ({"ranges": ((1, 8), (4, 4))}, {"ranges": ((9, None), (1, 4))}, False),
        ({"ranges": ((9, None), (4, 4))}, {"ranges": ((1, 8), (4, 4))}, False),
        ({"ranges": ((1, None), (4, 4))}, {"ranges": ((1, None),)}, False),
        (LISTED, {"ranges": ((2, 9), (4, 4))}, True),
        (LISTED, {"ranges": ((3, 9), (4, 4))}, False),
        ({"ranges": ((2, 9), (4, 4))}, LISTED, True),
        ({"ranges": ((3, 9), (4, 4))}, LISTED, False),
        (LISTED, {"listed": ((2, 4), (3, 4))}, True),
        (LISTED, {"listed": ((3, 4),)}, False),
    ],
)
def test_shapes_that_may_meet_are_left_to_the_samples(made, taken, fits):
    def described(takes, makes):
        return Description((takes,), (makes,), ())

    x, z = Feature("x", "array", "fp32"), Feature("z", "array", "fp32")
    y, same = (Feature("y", "array", "fp32", (), Shapes(**each)) for each in (made, taken))
    models = [("a", described(x, y)), ("b", described(same, z))]
    if fits:
        assert in_a_row(models).inputs == (x,)
    else:
        with pytest.raises(ConfigError, match="b takes 'y' as .*, and those before it make"):
            in_a_row(models)


def test_integers_become_floats_and_not_the_other_way():
    def described(takes, made, dtype):
        inputs = tuple(Feature(takes, "array", each) for each in [dtype])
        return Description(inputs, (Feature(made, "array", dtype),), ())

    whole, floats = described("x", "y", "int32"), described("y", "z", "fp32")
    assert in_a_row([("a", whole), ("b", floats)]).outputs[0].name == "z"
    floats, whole = described("x", "y", "fp16"), described("y", "z", "int32")
    with pytest.raises(ConfigError, match="b takes 'y' as int32 any shape, and those before it"):
        in_a_row([("a", floats), ("b", whole)])
