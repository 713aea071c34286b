"""Streams on the graph: what an output is added to, and nothing else."""

from __future__ import annotations

import coremltools as ct
import numpy as np
import pytest
from coremltools.converters.mil.mil import Builder as mb

from mlpass.calibrate.skips import find_streams
from mlpass.runtime.interpreter import Interpreter
from tests.runtime.cuts import cut
from tests.runtime.programs import convert, program

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


@pytest.mark.parametrize(
    ("places", "first", "down"),
    [
        ((), ["stream_made"], ["longer_made"]),
        ((1, 3), ["stream"], ["longer_made"]),  # the stream comes from the package before
        (
            (3, 4),
            ["stream_made", "stream"],
            ["longer_made"],
        ),  # the bias is in one, the sum in the next
        ((4, 5), ["stream_made", "stream"], ["longer"]),
        ((7, 10), ["stream_made"], ["longer"]),  # there and on in three packages
        ((10, 11), ["stream_made"], ["longer_made", "longer"]),
    ],
    ids=str,
)
def test_what_an_output_is_added_to_in_another_package(places, first, down, tmp_path):
    found = {
        op.name: [value.name for value in stream]
        for op, stream in find_streams(Interpreter(cut(tmp_path, *places))).items()
    }
    assert {name: found[name] for name in ("first_made", "down_made")} == {
        "first_made": first,
        "down_made": down,
    }
    assert not {"stream_made", "gate_made", "up_made", "y_made"} & {*found}


def test_a_stream_that_a_later_package_makes_is_not_there_yet(tmp_path):
    """Nor is an input that only that one takes."""

    def branch(x):
        return mb.identity(x=linear(x, "a"), name="branch")

    def summed(x, y):
        return mb.add(x=mb.relu(x=x), y=y)

    paths = in_a_row(tmp_path / "one", (branch, {"x": "x"}), (summed, {"x": "x", "y": "branch"}))
    assert "a" not in {op.name for op in find_streams(Interpreter(paths))}
    paths = in_a_row(
        tmp_path / "other", (branch, {"x": "x"}), (input_too, {"x": "z", "y": "branch"})
    )
    assert "a" not in {op.name for op in find_streams(Interpreter(paths))}


def test_what_is_taken_twice_has_no_stream(tmp_path):
    def branch(x):
        stream = mb.relu(x=x)
        named = mb.identity(x=stream, name="stream")
        return named, mb.identity(x=linear(stream, "a"), name="branch")

    def twice(x, y):
        return mb.add(x=x, y=y), mb.relu(x=y)

    names = {"x": "stream", "y": "branch"}
    for later, expected in ((input_too, True), (twice, False)):
        paths = in_a_row(tmp_path / later.__name__, (branch, {"x": "x"}), (later, names))
        found = {op.name for op in find_streams(Interpreter(paths))}
        assert ("a" in found) == expected


def input_too(x, y):
    return mb.add(x=x, y=y)


def in_a_row(folder, *made):
    """Packages of what is built, whose inputs get these names."""
    folder.mkdir()
    paths = []
    for number, (build, names) in enumerate(made):
        model = convert(program(build, *[(2, 8)] * len(names)))
        spec = model.get_spec()
        for old, new in names.items():
            ct.utils.rename_feature(spec, old, new)
        paths.append(folder / f"{number}.mlpackage")
        ct.utils.save_spec(spec, str(paths[-1]), weights_dir=model.weights_dir)
    return paths
