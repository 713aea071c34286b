"""A program to replay, its samples, and what a replay shows of it."""

from __future__ import annotations

import numpy as np
from coremltools.converters.mil.mil import Builder as mb

from tests.runtime.programs import program

RNG = np.random.default_rng(3)
FIRST, SECOND, THIRD = (RNG.standard_normal((8, 8)).astype(np.float32) for _ in range(3))


def chain():
    """Three linear ops with a residual around the second, so that values live for a while."""

    def build(x):
        first = mb.linear(x=x, weight=FIRST, name="first")
        active = mb.relu(x=first)
        second = mb.linear(x=active, weight=SECOND, name="second")
        return mb.linear(x=mb.add(x=second, y=active), weight=THIRD, name="third")

    return program(build, (2, 8))


def samples(count=5, shape=(2, 8)):
    rng = np.random.default_rng(4)
    return [{"x": rng.standard_normal(shape).astype(np.float32)} for _ in range(count)]


def of_types(*types):
    """Returns what wants the ops of those types."""
    return lambda op: op.type in types


def named(*names):
    """Returns what wants the ops of those names."""
    return lambda op: op.name in names


LINEAR = of_types("linear")


def copied(array):
    return np.array(array if isinstance(array, np.ndarray) else array.numpy())


def shown_at(stop, op):
    """The number of each sample with what it brings, once for each time that the op runs."""
    given = stop.arguments(op)
    return [(number, copied(one["x"])) for number in given for one in given[number]]


def seen(walk, weights=None):
    """What the wanted ops are given, by the name of what they make; `weights` are put in place."""
    found = {}
    for stop in walk:
        for op in stop.wanted:
            name = op.outputs[0].name
            found[name] = shown_at(stop, op)
            if name in (weights or {}):
                stop.replace(op.inputs["weight"][0], weights[name])
    return found


def linears(stop):
    return [op.name for op in stop.ops if op.type == "linear"]


def ops_of(interpreter):
    return [op for part in interpreter.parts for op in part.plan.function.block.walk()]
