"""Weights that the model makes of constants as it runs: listed, in a file and in a program."""

from __future__ import annotations

import re

import coremltools as ct
import numpy as np
import pytest
from coremltools.converters.mil.mil import Builder as mb

import mlpass
from mlpass import Percentile
from tests.runtime.programs import convert, program

GENERATOR = np.random.default_rng(0)


def normal(*shape):
    return GENERATOR.standard_normal(shape).astype(np.float32)


def multiplied(make):
    """Returns what builds x (1, 64) @ weight (64, 48), the weight made by `make`."""
    return lambda x: mb.matmul(x=x, y=make(), name="out")


def convolved(make):
    """Returns what builds a convolution of x with a weight (32, 8, 1) that `make` makes."""
    return lambda x: mb.conv(x=mb.reshape(x=x, shape=[1, 8, 8]), weight=make(), name="out")


def quantized():
    codes = GENERATOR.integers(-9, 9, (32, 8)).astype(np.int8)
    return mb.constexpr_affine_dequantize(
        quantized_data=codes, zero_point=np.int8(0), scale=np.float32(0.1), axis=0
    )


def halved():
    first, second = mb.split(x=normal(64, 96), num_splits=2, axis=1)
    return mb.add(x=first, y=second)


RUN = r"the model makes it as it runs, by {} of constants: convert it again with .*const_elimin"
COMPUTED = {
    "mul": (multiplied(lambda: mb.mul(x=normal(64, 48), y=np.float32(0.3))), RUN),
    "mul, transpose": (
        multiplied(lambda: mb.transpose(x=mb.mul(x=normal(48, 64), y=normal(48, 1)), perm=[1, 0])),
        RUN,
    ),
    "split, add": (multiplied(halved), RUN),
    "tile": (multiplied(lambda: mb.tile(x=normal(8, 48), reps=[8, 1])), RUN),
    "expand_dims": (
        convolved(lambda: mb.expand_dims(x=quantized(), axes=[2])),
        "it is already compressed, by constexpr_affine_dequantize, and read through {}",
    ),
}


@pytest.mark.parametrize("ops", COMPUTED)
def test_they_are_listed_with_their_reason(tmp_path, ops):
    build, reason = COMPUTED[ops]
    source = tmp_path / "in.mlpackage"
    made = program(build, (1, 64))
    convert(made, pass_pipeline=ct.PassPipeline.EMPTY).save(str(source))
    in_file = mlpass.prune(source, tmp_path / "out.mlpackage", Percentile(0.5))
    in_program = mlpass.prune(made, Percentile(0.5))
    for report in (in_file, in_program, mlpass.inspect(source)):
        (layer,) = report.layers
        assert layer.mode is layer.zeros is None
        assert layer.op_type == ("conv" if ops == "expand_dims" else "matmul")
        assert layer.encoding == ("quantized" if ops == "expand_dims" else "dense")
    for report in (in_file, in_program):
        assert re.match(reason.format(ops), report.layers[0].skipped)


def test_what_they_take_is_what_the_program_stores(tmp_path):
    source = tmp_path / "in.mlpackage"
    build, _ = COMPUTED["mul, transpose"]
    convert(program(build, (1, 64)), pass_pipeline=ct.PassPipeline.EMPTY).save(str(source))
    (layer,) = mlpass.inspect(source).layers
    assert layer.bytes_before == layer.bytes_after == 4 * (48 * 64 + 48)


MAKERS = {
    "gather": lambda: mb.gather(
        x=normal(99, 48), indices=np.arange(64, dtype=np.int32), axis=0, validate_indices=False
    ),
    "gather twice": lambda: mb.gather(
        x=mb.gather(x=normal(99, 48), indices=np.arange(70, dtype=np.int32), axis=0),
        indices=np.arange(64, dtype=np.int32),
        axis=0,
    ),
    "matmul": lambda: mb.add(x=normal(64, 48), y=mb.matmul(x=normal(64, 50), y=normal(50, 48))),
    "linear": lambda: mb.transpose(
        x=mb.linear(x=normal(48, 50), weight=normal(64, 50)), perm=[1, 0]
    ),
    "conv": lambda: mb.reshape(
        x=mb.conv(x=normal(1, 48, 64), weight=normal(48, 48, 1)), shape=[64, 48]
    ),
}


@pytest.mark.parametrize("name", MAKERS)
def test_what_they_are_made_of_is_left_alone(tmp_path, name):
    source, out = tmp_path / "in.mlpackage", tmp_path / "out.mlpackage"
    made = program(multiplied(MAKERS[name]), (1, 64))
    convert(made, pass_pipeline=ct.PassPipeline.EMPTY).save(str(source))
    for report in (mlpass.prune(source, out, Percentile(0.5)), mlpass.prune(made, Percentile(0.5))):
        *others, last = sorted(report.layers, key=lambda layer: "runs" in str(layer.skipped))
        assert re.match(RUN.format(".*"), last.skipped)
        assert others
        for layer in others:
            told = f"a weight is made of it, by {name.split()[0]}"
            assert layer.skipped == told or re.match(RUN.format(".*"), layer.skipped)
    x = {"x": normal(1, 64)}
    before, after = (mlpass.Interpreter(path).predict(x)["out"] for path in (source, out))
    assert np.array_equal(before, after)


def test_what_is_made_of_an_input_or_at_random_is_no_weight(tmp_path):
    def build(x):
        noise = mb.random_normal(shape=[64, 48], mean=0.0, stddev=1.0, seed=1)
        return mb.matmul(x=x, y=noise), mb.matmul(x=x, y=mb.transpose(x=x, perm=[1, 0]))

    source = tmp_path / "in.mlpackage"
    convert(program(build, (1, 64)), pass_pipeline=ct.PassPipeline.EMPTY).save(str(source))
    assert mlpass.inspect(source).layers == ()
