"""What a replay holds: no more memory, files and locks than its budget and its stop need."""

from __future__ import annotations

import tempfile
import tracemalloc
import weakref

import numpy as np
import pytest
import torch
from coremltools.converters.mil.mil import Builder as mb
from threadpoolctl import ThreadpoolController

from mlpass.errors import CalibrationError, ExecutionError
from mlpass.program.ir import Constant
from mlpass.runtime import spill, stretches
from mlpass.runtime.execute import Run
from mlpass.runtime.interpreter import Interpreter
from mlpass.runtime.replay import stops
from tests.runtime.programs import program
from tests.runtime.replays import (
    FIRST,
    LINEAR,
    chain,
    linears,
    named,
    samples,
    seen,
    shown_at,
)


def test_what_nobody_asks_for_is_not_read(monkeypatch):
    read = []
    reading = Constant.read

    def noting(self):
        read.append(self.type.shape)
        return reading(self)

    monkeypatch.setattr(Constant, "read", noting)
    for stop in stops(Interpreter(chain()), samples(), LINEAR):
        for op in stop.wanted:
            shown_at(stop, op)
            read.append("seen")
    steps = [one for one in read if one in ("seen", FIRST.shape)]
    assert [one == "seen" for one in steps] == [True, False, True, False, True]


def test_few_weights_are_held_at_once_where_nothing_is_wanted(monkeypatch):
    monkeypatch.setattr(stretches, "_STRETCH", FIRST.nbytes - 1)
    told = [linears(stop) for stop in stops(Interpreter(chain()), samples(), named("third"))]
    assert [names for names in told if names] == [["first"], ["second"], ["third"]]


def long_chain():
    """Many linear ops, so that what were kept of each would be seen in memory."""

    def build(x):
        for number in range(12):
            x = mb.relu(x=mb.linear(x=x, weight=np.eye(256, dtype=np.float32), name=f"l{number}"))
        return x

    return program(build, (64, 256))


def peak_of(*walks):
    """Peak bytes while replays go side by side, the weights of the last one being replaced."""
    tracemalloc.start()
    try:
        for together in zip(*walks, strict=True):
            for stop in together:
                for op in stop.wanted:
                    shown_at(stop, op)
                    if stop is together[-1]:
                        stop.replace(op.inputs["weight"][0], np.zeros((256, 256), np.float32))
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_two_replays_take_the_memory_of_two():
    source, data = long_chain(), samples(16, (64, 256))

    def walk():
        return stops(Interpreter(source), data, LINEAR)

    peak_of(walk())  # what is made once for all
    one, two = peak_of(walk()), peak_of(walk(), walk())
    activation = 16 * 64 * 256 * 4
    assert one > activation
    assert two <= 2 * one + activation
    assert two < 12 * activation  # not one activation for each layer


class Counted:
    """Temporary files that are opened while a replay runs."""

    def __init__(self, monkeypatch):
        self.opened = []
        temporary = tempfile.TemporaryFile

        def counting():
            self.opened.append(temporary())
            return self.opened[-1]

        monkeypatch.setattr(spill.tempfile, "TemporaryFile", counting)

    @property
    def all_closed(self):
        return all(file.closed for file in self.opened)


@pytest.mark.parametrize("budget", [0, 100, 300])
def test_a_small_budget_changes_nothing_and_leaves_no_files(budget, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    files = Counted(monkeypatch)
    with_memory = seen(stops(Interpreter(chain()), samples(), LINEAR))
    assert not files.opened
    without = seen(stops(Interpreter(chain()), samples(), LINEAR, memory_budget=budget))
    assert files.opened
    assert files.all_closed
    assert list(tmp_path.iterdir()) == []
    for name, shown in with_memory.items():
        for (_, first), (_, second) in zip(shown, without[name], strict=True):
            assert first.tobytes() == second.tobytes()


def test_files_are_closed_when_an_op_fails(monkeypatch):
    files = Counted(monkeypatch)
    called = Run.call

    def failing(self, step, arguments):
        if step.op.name == "second":
            raise ExecutionError("enough")
        return called(self, step, arguments)

    monkeypatch.setattr(Run, "call", failing)
    with pytest.raises(ExecutionError, match="enough"):
        seen(stops(Interpreter(chain()), samples(), LINEAR, memory_budget=0))
    assert files.opened
    assert files.all_closed


def blas_threads():
    return [
        library.num_threads
        for library in ThreadpoolController().select(user_api="blas").lib_controllers
    ]


@pytest.mark.parametrize("backend", ["numpy", "torch"])
def test_one_that_is_left_half_way_leaves_nothing_behind(backend, monkeypatch):
    files, before = Counted(monkeypatch), blas_threads()
    errors = np.geterr()
    walk = stops(Interpreter(chain(), backend=backend), samples(), LINEAR, memory_budget=300)
    next(walk)
    stop = next(walk)
    (shown,) = stop.arguments(stop.wanted[0])[0]
    held = weakref.ref(shown["x"])
    del shown
    # While it waits, it holds neither BLAS nor the backend's session.
    assert blas_threads() == before
    assert np.geterr() == errors
    assert not torch.is_inference_mode_enabled()
    assert files.opened
    walk.close()
    assert files.all_closed
    assert held() is None
    assert list(walk) == []
    with pytest.raises(CalibrationError, match="this stop is over; ask for arguments, and replace"):
        stop.arguments(stop.wanted[0])


def test_a_stop_is_over_when_the_next_is_asked_for():
    walk = stops(Interpreter(chain()), samples(), LINEAR)
    stop = next(walk)
    (op,) = stop.wanted
    given = stop.arguments(op)
    next(walk)
    for late in (
        lambda: stop.arguments(op),
        lambda: given[0],
        lambda: stop.replace(op.inputs["weight"][0], FIRST),
    ):
        with pytest.raises(CalibrationError, match="replay: this stop is over; ask for arguments"):
            late()
