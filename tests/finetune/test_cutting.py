"""Regions: each op is in one, few values cross, and one after another they are the program."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from coremltools.converters.mil.mil import Builder as mb

import mlpass
from mlpass.finetune.cutting import cut, windows
from mlpass.program.ir import StateType, TensorType
from mlpass.runtime.execute import Run, Values
from mlpass.runtime.features import read_input
from mlpass.runtime.function_plan import reads
from mlpass.runtime.interpreter import bind
from mlpass.runtime.steps import steps_of
from tests.conftest import PACKAGES
from tests.finetune.networks import FIXTURES
from tests.finetune.samples import samples_of
from tests.runtime.programs import program

BUDGET = 1 << 30


def weights_of(part):
    """Every constant that is not tiny stands for a weight."""
    return {
        value: value.type.size
        for value in part.plan.makers
        if isinstance(value.type, TensorType) and value.type.size > 64
    }


def regions_of(interpreter, budget=BUDGET):
    return [(part, cut(part.plan, weights_of(part), budget)) for part in interpreter.parts]


@pytest.mark.parametrize("name", PACKAGES)
@pytest.mark.parametrize("budget", [1, BUDGET])
def test_every_step_is_in_one_region_that_says_what_crosses(name, budget):
    interpreter = mlpass.Interpreter(FIXTURES / name, partial=True)
    for part, regions in regions_of(interpreter, budget):
        steps, plan = part.plan.block.steps, part.plan
        assert [regions[0].start, *(region.end for region in regions)] == [
            *(region.start for region in regions),
            len(steps),
        ]
        for region, after in pairwise([*regions, None]):
            inside = steps[region.start : region.end]
            made = {value for step in steps[: region.end] for value in step.op.outputs}
            later = {value for step in steps[region.end :] for value in reads(step.op)}
            later |= set(plan.block.outputs)
            own = {value for step in inside for value in step.op.outputs}
            assert set(region.outputs) == own & later
            read = {value for step in inside for value in reads(step.op)}
            before = (made - own) | set(plan.block.inputs)
            assert set(region.inputs) == read & before
            if after is not None:
                assert all(isinstance(value.type, TensorType) for value in region.outputs)
                assert not any(isinstance(value.type, StateType) for value in region.inputs) or all(
                    not isinstance(value.type, StateType) for value in after.inputs
                )
        again = cut(plan, weights_of(part), budget)
        assert again == regions


@pytest.mark.slow_but_every(2)
@pytest.mark.parametrize("name", PACKAGES)
def test_one_after_another_they_give_what_the_whole_does(name):
    interpreter = mlpass.Interpreter(FIXTURES / name)
    (sample,) = samples_of(name, 1)
    (inputs, *_) = steps_of(sample, interpreter)
    state = interpreter.make_state() if interpreter.states else None
    twin = interpreter.make_state() if interpreter.states else None
    wanted = interpreter.predict(inputs, state)
    (part, regions), *_ = regions_of(interpreter, 1)
    arrays = {
        feature.name: read_input(feature, inputs.get(feature.name))
        for feature in part.description.inputs
    }
    live = dict(bind(part, arrays, twin, interpreter.backend))
    given = set(live)
    for region in regions:
        run = Run(Values(part.constants), region.outputs, interpreter.backend.xp)
        run.values.update({value: live[value] for value in region.inputs})
        run.steps(part.plan.block.steps[region.start : region.end])
        live.update({value: run.values[value] for value in region.outputs})
    for value in part.plan.block.outputs:
        found = live[value]
        if value in given or value.name not in wanted or not hasattr(found, "dtype"):
            continue
        np.testing.assert_array_equal(
            np.asarray(found).astype(wanted[value.name].dtype).reshape(wanted[value.name].shape),
            wanted[value.name],
        )


def blocks(count):
    """A stream that two products with a nonlinearity between them are added to, some times."""
    generator = np.random.default_rng(0)

    def build(x):
        for _ in range(count):
            first, second = generator.standard_normal((2, 16, 16)).astype(np.float32)
            inner = mb.relu(x=mb.linear(x=x, weight=first))
            x = mb.add(x=x, y=mb.linear(x=inner, weight=second))
        return x

    return program(build, (4, 16))


def test_cuts_are_where_the_stream_is_alone():
    interpreter = mlpass.Interpreter(blocks(3))
    ((part, regions),) = regions_of(interpreter)
    assert [step.op.type for step in part.plan.block.steps[:4]] == [
        "linear",
        "relu",
        "linear",
        "add",
    ]
    assert [(region.start, region.end) for region in regions] == [(0, 4), (4, 8), (8, 12)]
    assert all(len(region.inputs) == len(region.outputs) == 1 for region in regions)


@pytest.mark.parametrize(("count", "number"), [(1, 3), (2, 2), (3, 1), (4, 1)])
def test_windows_are_neighbours_and_slide_by_one(count, number):
    interpreter = mlpass.Interpreter(blocks(3))
    ((part, regions),) = regions_of(interpreter)
    found = windows(part.plan, regions, count)
    assert len(found) == number
    for first, window in enumerate(found):
        parts = regions[first : first + count]
        assert window.inputs == parts[0].inputs
        assert window.outputs == parts[-1].outputs
        assert (window.start, window.end) == (parts[0].start, parts[-1].end)


def test_what_is_linear_throughout_is_one_region():
    weight = np.eye(16, dtype=np.float32)

    def build(x):
        for _ in range(6):
            x = mb.linear(x=x, weight=weight)
        return x

    interpreter = mlpass.Interpreter(program(build, (4, 16)))
    ((part, regions),) = regions_of(interpreter, 1)
    assert [(region.start, region.end) for region in regions] == [(0, 6)]
    relu = mlpass.Interpreter(blocks(3))
    ((part, _),) = regions_of(relu)
    assert len(cut(part.plan, {}, 1)) == 1  # nothing trains


def test_a_budget_makes_them_smaller():
    def build(x):
        for number in range(8):  # ever narrower: each next cut would be better
            width = 64 - 4 * number
            weight = np.ones((width, x.shape[-1]), np.float32)
            x = mb.relu(x=mb.linear(x=x, weight=weight))
        return x

    interpreter = mlpass.Interpreter(program(build, (4, 64)))
    ((part, large),) = regions_of(interpreter)
    ((_, small),) = regions_of(mlpass.Interpreter(program(build, (4, 64))), 150_000)
    assert len(large) < len(small)
    sizes = [
        sum(
            weights_of(part).get(value, 0)
            for step in part.plan.block.steps[region.start : region.end]
            for value in reads(step.op)
        )
        for region in cut(part.plan, weights_of(part), 150_000)
    ]
    assert max(sizes) * 16 <= 150_000
