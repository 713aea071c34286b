"""Weights that hang on what a model is given: listed with their reason, and left as they are."""

from __future__ import annotations

import re
from copy import deepcopy

import coremltools as ct
import numpy as np
import pytest
from coremltools.converters.mil.mil import Builder as mb

import mlpass
from mlpass import Config, Percentile
from mlpass.errors import MlpassError
from tests.program.packages import operations, read_spec, write_spec
from tests.runtime.programs import convert, program

GENERATOR = np.random.default_rng(0)
ONE = np.float32(1)


def normal(*shape):
    return GENERATOR.standard_normal(shape).astype(np.float32)


def is_positive(x):
    return mb.greater(x=mb.reduce_sum(x=x, axes=[0, 1]), y=np.float32(0))


def number(x):
    """The place of the largest of three, (1,)."""
    return mb.reduce_argmax(x=mb.slice_by_size(x=x, begin=[0, 0], size=[1, 3]), axis=1)


def begun(x):
    return mb.concat(values=(mb.expand_dims(x=mb.squeeze(x=number(x)), axes=[0]), [0, 0]), axis=0)


def by_branch(x):
    outside = mb.transpose(x=normal(48, 64), perm=[1, 0])
    return mb.cond(
        pred=is_positive(x),
        _true_fn=lambda: mb.identity(x=outside),
        _false_fn=lambda: mb.mul(x=outside, y=np.float32(2)),
    )


def quantized():
    return mb.constexpr_affine_dequantize(
        quantized_data=GENERATOR.integers(-9, 9, (64, 48)).astype(np.int8),
        zero_point=np.int8(0),
        scale=np.float32(0.1),
        axis=0,
    )


def expert(x):
    return mb.slice_by_size(x=normal(3, 64, 48), begin=begun(x), size=[1, 64, 48])


CHOSEN = {
    "cond": by_branch,
    "select": lambda x: mb.select(cond=is_positive(x), a=normal(64, 48), b=normal(64, 48)),
    "slice_by_size": lambda x: mb.squeeze(x=expert(x), axes=[0]),
    "gather_nd": lambda x: mb.gather_nd(x=normal(3, 64, 48), indices=number(x)),
    "mul": lambda x: mb.transpose(x=mb.mul(x=normal(48, 64), y=x), perm=[1, 0]),
    "real_div": lambda x: mb.transpose(x=mb.real_div(x=normal(48, 64), y=x), perm=[1, 0]),
    "compressed": lambda x: mb.select(cond=is_positive(x), a=quantized(), b=quantized()),
}
COUNTS = {"cond": 1, "select": 2, "slice_by_size": 3, "gather_nd": 3, "mul": 1, "real_div": 1}


def told(source, out, made):
    """Returns what is said of the one weight of a model, which stays as it is."""
    config = Config(global_config=Percentile(0.5), weight_threshold=0)
    reports = [mlpass.inspect(source), mlpass.prune(source, out, config)]
    reports.append(mlpass.prune(made, config))
    for report in reports:
        (layer,) = report.layers
        assert layer.shape == (64, 48)
        assert layer.op_type == "matmul"
        assert layer.zeros is None
    assert reports[1].layers[0].skipped == reports[2].layers[0].skipped
    x = {"x": normal(1, 64)}
    before, after = (mlpass.Interpreter(path).predict(x)["out"] for path in (source, out))
    assert np.array_equal(before, after)
    return reports[1].layers[0]


@pytest.mark.slow_but_every(2)
@pytest.mark.parametrize("name", CHOSEN)
def test_they_are_listed_and_left_alone(tmp_path, name):
    source, out = tmp_path / "in.mlpackage", tmp_path / "out.mlpackage"
    made = program(lambda x: mb.matmul(x=x, y=CHOSEN[name](x), name="out"), (1, 64))
    convert(made, pass_pipeline=ct.PassPipeline.EMPTY).save(str(source))
    layer = told(source, out, made)
    if name == "compressed":
        assert layer.skipped == (
            "it is already compressed, by constexpr_affine_dequantize, and read through select"
        )
        return
    ops = rf"by [a-z_, ]*\b{name}\b[a-z_, ]* of constants and of what it is given"
    assert re.search(ops, layer.skipped)
    assert layer.skipped.endswith("it is not one stored weight")
    assert layer.bytes_before >= 4 * 64 * 48 * COUNTS[name]


def test_what_a_loop_carries_along_is_listed_but_not_what_it_changes(tmp_path):
    def loop(kept):
        def body(count, made, weight):
            made = mb.tanh(x=mb.matmul(x=made, y=weight))
            weight = mb.identity(x=weight) if kept else mb.matmul(x=weight, y=weight)
            return mb.add(x=count, y=ONE), made, weight

        def build(x):
            weight = mb.transpose(x=normal(64, 64), perm=[1, 0])
            return mb.while_loop(
                _cond=lambda count, *_: mb.less(x=count, y=np.float32(3)),
                _body=body,
                loop_vars=(np.float32(0), x, weight),
            )[1]

        return program(build, (1, 64))

    layers = []
    for kept in (True, False):
        source = tmp_path / f"{kept}.mlpackage"
        convert(loop(kept), pass_pipeline=ct.PassPipeline.EMPTY).save(str(source))
        layers.append(
            mlpass.prune(source, tmp_path / f"{kept}-out.mlpackage", Percentile(0.5)).layers
        )
    ((layer,), changed) = layers
    assert "by while_loop of constants and of what it is given" in layer.skipped
    assert changed == ()


def test_what_attention_scales_is_no_weight(tmp_path):
    """Factors of an activation, or of scores, are as large as it, or smaller."""

    def build(x):
        heads = mb.reshape(x=x, shape=[2, 4, 8])
        turned = mb.mul(x=heads, y=normal(1, 4, 8))
        scores = mb.matmul(x=turned, y=turned, transpose_y=True)
        return mb.matmul(x=mb.softmax(x=mb.mul(x=scores, y=normal(1, 1, 4)), axis=-1), y=heads)

    source = tmp_path / "in.mlpackage"
    convert(program(build, (1, 64)), pass_pipeline=ct.PassPipeline.EMPTY).save(str(source))
    assert mlpass.inspect(source).layers == ()


def _broken(spec):
    """Yields the same with an input, a block or the ends of a block of one op missing."""

    for place, op in enumerate(operations(spec)):
        edits = [lambda one, name=name: one.inputs.pop(name) for name in op.inputs]
        edits += [lambda one, name=name: one.inputs[name].Clear() for name in op.inputs]
        for number in range(len(op.blocks)):
            edits.append(lambda one, number=number: one.blocks.pop(number))
            edits.append(lambda one, number=number: one.blocks[number].ClearField("inputs"))
            edits.append(lambda one, number=number: one.blocks[number].ClearField("outputs"))
        edits += [
            lambda one, other=other: setattr(one, "type", other)
            for other in ("while_loop", "cond", "select", "identity", "slice_by_index", "cast")
        ]
        for edit in edits:
            changed = deepcopy(spec)
            edit(operations(changed)[place])
            yield changed


def carried(x):
    """A weight that a branch chooses goes through a loop as it is."""
    return mb.while_loop(
        _cond=lambda count, *_: mb.less(x=count, y=np.float32(3)),
        _body=lambda count, made, weight: (
            mb.add(x=count, y=ONE),
            mb.add(x=made, y=mb.matmul(x=x, y=weight)),
            mb.identity(x=weight),
        ),
        loop_vars=(np.float32(0), np.zeros((1, 48), np.float32), by_branch(x)),
    )[1]


@pytest.mark.slow
def test_a_program_that_lacks_something_ends_in_a_result_or_an_error_of_ours(tmp_path):
    source, out = tmp_path / "in.mlpackage", tmp_path / "out.mlpackage"
    convert(program(carried, (1, 64)), pass_pipeline=ct.PassPipeline.EMPTY).save(str(source))
    (layer,) = mlpass.inspect(source).layers
    assert layer.shape == (64, 48)
    calibrated = {"method": mlpass.SparseGPT(), "sample_data": [{"x": normal(1, 64)}]}
    refused = 0
    for changed in _broken(read_spec(source)):
        write_spec(source, changed)
        for options in ({}, calibrated):
            try:
                mlpass.prune(source, out, Percentile(0.5), force=True, **options)
            except MlpassError:
                refused += 1
    assert refused
