"""Streams on the graph: what an output is added to, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest
from coremltools.converters.mil.mil import Builder as mb

from mlpass.calibrate.skips import find_streams
from mlpass.runtime.interpreter import Interpreter
from tests.runtime.programs import program

WEIGHT = np.eye(8, dtype=np.float32)
BIAS = np.arange(8, dtype=np.float32)


def linear(x, name):
    return mb.linear(x=x, weight=WEIGHT, name=name)


def plain(x):
    stream = mb.relu(x=x, name="stream")
    return mb.add(x=linear(stream, "a"), y=stream)


def input_itself(x):
    return mb.relu(x=mb.add(x=x, y=linear(x, "a")))


def past_a_bias_and_a_cast(x):
    stream = mb.relu(x=x, name="stream")
    branch = mb.add(x=BIAS, y=linear(stream, "a"))
    return mb.add(x=mb.cast(x=branch, dtype="fp32"), y=stream)


def branches(x):
    """The second of two is added to the first, which is then there; not the other way round."""
    return mb.add(x=linear(x, "a"), y=linear(mb.relu(x=x), "b"))


def read_twice(x):
    branch = linear(mb.relu(x=x, name="stream"), "a")
    return mb.mul(x=mb.add(x=branch, y=x), y=branch)


def doubled(x):
    branch = linear(x, "a")
    return mb.add(x=branch, y=branch)


def broadcast(x):
    row = mb.reduce_mean(x=x, axes=[0], keep_dims=True, name="stream")
    return mb.add(x=linear(x, "a"), y=row)


def multiplied(x):
    return mb.mul(x=linear(x, "a"), y=x)


def an_output(x):
    branch = linear(x, "a")
    return branch, mb.add(x=branch, y=x)


def a_bias_alone(x):
    return mb.add(x=linear(x, "a"), y=BIAS)


def in_a_loop(x):
    def again(turn, value):
        return mb.less(x=turn, y=np.int32(3))

    def turned(turn, value):
        return mb.add(x=turn, y=np.int32(1)), mb.add(x=linear(value, "a"), y=value)

    return mb.while_loop(_cond=again, _body=turned, loop_vars=(np.int32(0), x))[1]


@pytest.mark.parametrize(
    ("build", "expected"),
    [
        (plain, {"a": "stream"}),
        (input_itself, {"a": "x"}),
        (past_a_bias_and_a_cast, {"a": "stream"}),
        (branches, {"b": "a"}),
        (read_twice, {}),
        (doubled, {}),
        (broadcast, {}),
        (multiplied, {}),
        (an_output, {}),
        (a_bias_alone, {}),
        (in_a_loop, {}),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_an_output_is_added_to(build, expected):
    runner = Interpreter(program(build, (2, 8)))
    found = {op.name: stream[0].name for op, stream in find_streams(runner).items()}
    assert {name: stream for name, stream in found.items() if name in ("a", "b")} == expected
