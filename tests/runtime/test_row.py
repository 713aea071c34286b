"""Programs that run one after another, as one graph."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
from coremltools.converters.mil.mil import Builder as mb

from mlpass.runtime.description import Description, Feature
from mlpass.runtime.interpreter import Interpreter
from mlpass.runtime.row import Row
from tests.runtime.programs import program

ARRAY = Feature("x", "array", "fp32", (2, 8))


def part(name, taken=ARRAY, before=()):
    """A program that takes x and makes a value of this name."""

    def build(x):
        return mb.exp(x=mb.relu(x=x, name=f"{name}_inside"), name=name)

    (found,) = Interpreter(program(build, (2, 8))).parts
    outputs = (replace(ARRAY, name=name),)
    return replace(found, description=Description((taken,), outputs, ()), before=before)


def table(takes, makes):
    described = [(replace(ARRAY, name=name),) for name in (takes, makes)]
    return SimpleNamespace(description=Description(*described, ()))


def row(*parts, outputs=()):
    features = tuple(replace(ARRAY, name=name) for name in outputs)
    return Row(SimpleNamespace(parts=parts, outputs=features))


def ends(one):
    """The input and the output of a program, and the ops between."""
    (given,), (made,) = one.plan.block.inputs, one.plan.block.outputs
    return given, made, [step.op for step in one.plan.block.steps]


def test_an_input_is_what_a_program_before_makes_under_its_name():
    first, other, last = part("x"), part("other"), part("last")
    (start, made, ops), (between, aside, others), (end, _, after) = map(ends, (first, other, last))
    found = row(first, other, last)
    assert found.ops == [*ops, *others, *after]
    assert found.origin(between) is found.origin(end) is made
    assert found.origin(start) is start and found.origin(aside) is aside
    assert found.readers[made] == [others[0], after[0]]
    assert found.makers[made] is ops[-1]
    assert made not in found.left and aside not in found.left


def test_the_last_program_of_a_name_makes_it():
    first, second, last = part("x"), part("x"), part("last")
    found = row(first, second, last)
    assert found.origin(ends(second)[0]) is ends(first)[1]
    assert found.origin(ends(last)[0]) is ends(second)[1]


def test_an_op_is_shown_what_its_program_has_and_what_others_hand_on():
    first, last = part("x"), part("last")
    (start, made, ops), (_, final, after) = ends(first), ends(last)
    inside = ops[0].outputs[0]
    found = row(first, last)
    assert all(found.shows(value, ops[0]) for value in (start, inside, made))
    assert found.shows(made, after[0]) and found.shows(final, after[0])
    assert not found.shows(inside, after[0]) and not found.shows(start, after[0])
    assert not found.shows(final, ops[0])


@pytest.mark.parametrize(
    ("last", "outputs"),
    [
        (part("last"), ["x"]),
        (part("last", replace(ARRAY, kind="image", layout="RGB", shape=(2, 8))), []),
        (part("last", before=(table("x", "scaled"),)), []),
    ],
    ids=["an output", "an image", "a table"],
)
def test_what_goes_elsewhere_is_left(last, outputs):
    first = part("x")
    _, made, _ = ends(first)
    assert made in row(first, last, outputs=outputs).left
    assert ends(last)[1] in row(first, last).left
    assert made not in row(first, part("last")).left


def test_what_a_table_makes_anew_is_another_value():
    first, last = part("x"), part("last", before=(table("other", "x"),))
    found = row(first, last)
    assert found.origin(ends(last)[0]) is ends(last)[0]
    assert ends(first)[1] not in found.readers
