"""Samples and outputs with as many rows as they have: few, many, or none."""

from __future__ import annotations

from functools import partial

import coremltools as ct
import numpy as np
import pytest
import torch
from coremltools.converters.mil.mil import Builder as mb
from coremltools.converters.mil.mil import get_new_symbol

import mlpass
from mlpass import Config, Percentile
from mlpass.errors import CalibrationError
from mlpass.finetune import Polish, Regions, finetune, polish, to_module, tune
from mlpass.finetune.apart import run_apart
from mlpass.finetune.feeding import batches, outputs_of
from tests.finetune.networks import FIXTURES
from tests.runtime.programs import convert, program

CONFIG = Config(global_config=Percentile(0.5), weight_threshold=0)
FIRST, SECOND = np.random.default_rng(0).standard_normal((2, 16, 16)).astype(np.float32) / 4
POLISH = Polish(steps=4, batch_size=4, learning_rate=1e-3, held_out=0.5)
ALIKE = ("digits_ios15", "silero_vad", "stateful_lm")
REGIONS = Regions(epochs=2, batch_size=4, learning_rate=1e-3, held_out=0.5)


def layers(x):
    x = mb.relu(x=mb.linear(x=x, weight=FIRST, name="first"))
    return mb.linear(x=x, weight=SECOND, name="second")


def samples(*rows):
    generator = np.random.default_rng(1)
    return [{"x": generator.standard_normal((n, 16)).astype(np.float32)} for n in rows]


def test_samples_without_a_fixed_leading_axis_do_not_become_one(tmp_path):
    """What a model does across rows it does within a sample, as many as it might take."""

    def build(x):
        return layers(mb.sub(x=x, y=mb.reduce_mean(x=x, axes=[0], keep_dims=True)))

    source = mb.program([mb.TensorSpec((get_new_symbol(), 16))], opset_version=ct.target.iOS17)(
        build
    )
    inputs = [ct.TensorType("x", shape=(ct.RangeDim(1, 64, default=4), 16))]
    convert(source, inputs=inputs).save(str(tmp_path / "m.mlpackage"))
    module = to_module(tmp_path / "m.mlpackage")
    given = samples(3, 3, 5)
    alone = [module(**one)["second"] for one in given]
    found = [outputs_of(module, batch) for batch in batches(module, given, range(3))]
    assert [step["second"].shape for (step,) in found] == [(6, 16), (5, 16)]
    made = torch.cat([step["second"] for (step,) in found])
    torch.testing.assert_close(made, torch.cat(alone))


def found(x):
    """Returns those rows of `x` whose first element is above 0."""
    first = mb.slice_by_index(x=x, begin=[0, 0], end=[4, 1], squeeze_mask=[False, True])
    chosen = mb.non_zero(x=mb.cast(x=mb.greater(x=first, y=0.0), dtype="int32"))
    return mb.gather_nd(x=x, indices=chosen)


@pytest.fixture
def saved(tmp_path):
    def save(build):
        source, small = tmp_path / "m.mlpackage", tmp_path / "small.mlpackage"
        convert(program(build, (4, 16))).save(str(source))
        mlpass.prune(source, small, CONFIG)
        return source, small

    return save


def ways(source, small, output, given):
    """Each way to train a model, to be called."""
    return [
        partial(polish, small, output, source, given, POLISH, force=True),
        partial(tune, small, output, source, given, REGIONS, force=True),
        partial(finetune, source, output, CONFIG, given, steps=4, batch_size=4, force=True),
    ]


def test_outputs_that_depend_on_values_for_their_shape_are_told_of(saved, tmp_path):
    source, small = saved(lambda x: found(layers(x)))
    for train in ways(source, small, tmp_path / "o.mlpackage", samples(*[4] * 6)):
        with pytest.raises(CalibrationError, match=r"shape \(\d, 16\)"):
            train()


def test_a_sample_in_which_nothing_is_found_says_nothing(saved, tmp_path):
    """Nor need samples in which more or less is found run alone at the user's word."""
    source, small = saved(lambda x: layers(found(x)))
    given = samples(*[4] * 8)
    for one in given[::2]:
        one["x"][:, 0] = -1
    for train in ways(source, small, tmp_path / "o.mlpackage", given):
        train()
        before, after = (
            mlpass.compare(source, path, given[1::2]).outputs[0].snr
            for path in (small, tmp_path / "o.mlpackage")
        )
        assert np.isfinite(after)
        assert after > before or train.func is finetune


def test_branches_and_what_is_found_keep_samples_apart(saved):
    source, _ = saved(lambda x: layers(found(x)))
    assert run_apart(to_module(source))
    assert run_apart(to_module(FIXTURES / "branches.mlpackage"))
    assert not any(run_apart(to_module(FIXTURES / f"{name}.mlpackage")) for name in ALIKE)


def test_what_is_found_in_what_is_stated_or_in_shapes_is_alike(saved):
    def build(x):
        ways = mb.shape(x=x)
        x = mb.gather(x=x, indices=mb.squeeze(x=mb.non_zero(x=ways), axes=[-1]), axis=0)
        return layers(x)

    assert not run_apart(to_module(saved(build)[0]))


def test_outputs_that_do_not_follow_from_weights_are_told_of(saved, tmp_path):
    """What is rounded to whole numbers has no slope."""

    def build(x):
        return mb.cast(x=mb.cast(x=layers(x), dtype="int32"), dtype="fp32", name="whole")

    source, small = saved(build)
    polishing, tuning, training = ways(source, small, tmp_path / "o.mlpackage", samples(*[4] * 6))
    for train in (polishing, training):
        with pytest.raises(CalibrationError, match="not one that is a float follows from"):
            train()
    assert tuning().notes[-1].endswith("as it was")
