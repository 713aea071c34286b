"""Replay: one pass for all samples, on the activations that earlier layers really make."""

from __future__ import annotations

import tempfile

import coremltools as ct
import numpy as np
import pytest
from coremltools.converters.mil.mil import Builder as mb
from coremltools.converters.mil.mil import types

from mlpass.errors import CalibrationError
from mlpass.runtime import spill
from mlpass.runtime.constants import Constants
from mlpass.runtime.execute import Run
from mlpass.runtime.interpreter import Interpreter
from mlpass.runtime.replay import replay
from tests.runtime.programs import FIXTURES, program, truth

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


class Recorder:
    """Notes what it is shown, and may put other weights in place."""

    def __init__(self, types=("linear",), weights=()):
        self.types, self.weights = types, dict(weights)
        self.seen = {}
        self.settled = []

    def wants(self, op):
        return op.type in self.types

    def see(self, op, kernel, shown):
        for sample, arguments in shown.items():
            x = arguments["x"]
            array = np.array(x if isinstance(x, np.ndarray) else x.numpy())
            self.seen.setdefault(op.outputs[0].name, []).append((sample, array))

    def settle(self, ops, constants):
        for op in filter(self.wants, ops):
            name = op.outputs[0].name
            self.settled.append(name)
            if name in self.weights:
                constants.replace(op.inputs["weight"][0], self.weights[name])


def test_later_layers_meet_what_replaced_weights_make():
    other = FIRST.copy()
    other[:, ::2] = 0
    recorder = Recorder(weights={"first": other})
    replay(Interpreter(chain()), samples(), recorder)
    assert recorder.settled == ["first", "second", "third"]
    for (number, shown), sample in zip(recorder.seen["third"], samples(), strict=True):
        active = np.maximum(sample["x"] @ other.T, 0)
        assert number == [s["x"].tobytes() for s in samples()].index(sample["x"].tobytes())
        np.testing.assert_allclose(shown, active @ SECOND.T + active, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("backend", ["numpy", "torch"])
def test_without_replacements_it_shows_what_a_run_computes(backend):
    recorder = Recorder()
    interpreter = Interpreter(chain(), backend=backend)
    replay(interpreter, samples(), recorder)
    for sample, (_, shown) in zip(samples(), recorder.seen["second"], strict=True):
        (name,) = {op.inputs["x"][0].name for op in ops_of(interpreter) if op.name == "second"}
        np.testing.assert_allclose(shown, interpreter.run(sample, [name])[name], rtol=1e-5)


def ops_of(interpreter):
    return [op for part in interpreter.parts for op in part.plan.function.block.walk()]


def test_what_nobody_asks_for_is_not_read(monkeypatch):
    read = []
    reading = Constants._read

    def noting(self, source):
        read.append(source.name)
        return reading(self, source)

    class Watching(Recorder):
        def see(self, op, kernel, shown):
            super().see(op, kernel, shown)
            read.append("seen")

    monkeypatch.setattr(Constants, "_read", noting)
    replay(Interpreter(chain()), samples(), Watching())
    steps = [name for name in read if name == "seen" or "weight" in name]
    assert [name == "seen" for name in steps] == [True, False, True, False, True]


def test_every_op_runs_once_a_sample_and_the_last_wanted_not_at_all(monkeypatch):
    rows = {}
    called = Run.call

    def counting(self, step, arguments):
        rows[step.op.name] = rows.get(step.op.name, 0) + len(arguments["x"])
        return called(self, step, arguments)

    monkeypatch.setattr(Run, "call", counting)
    recorder = Recorder()
    replay(Interpreter(chain()), samples(7), recorder)
    assert set(rows.values()) == {7 * 2}  # of 7 samples with 2 rows each
    assert {"first", "second"} <= set(rows)
    assert "third" not in rows  # nothing after it is asked for
    assert [len(shown) for shown in recorder.seen.values()] == [7, 7, 7]


def test_what_runs_next_is_settled_together_up_to_the_next_wanted_op():
    class Told(Recorder):
        def wants(self, op):
            return op.name in ("first", "third")

        def settle(self, ops, constants):
            self.settled.append([op.name for op in ops if op.type == "linear"])

    recorder = Told()
    replay(Interpreter(chain()), samples(), recorder)
    assert recorder.settled == [["first", "second"], ["third"]]


def test_few_weights_are_held_at_once_where_nothing_is_wanted(monkeypatch):
    monkeypatch.setattr("mlpass.runtime.replay._STRETCH", FIRST.nbytes - 1)

    class Told(Recorder):
        def wants(self, op):
            return op.name == "third"

        def settle(self, ops, constants):
            self.settled.append([op.name for op in ops if op.type == "linear"])

    recorder = Told()
    replay(Interpreter(chain()), samples(), recorder)
    assert [names for names in recorder.settled if names] == [["first"], ["second"], ["third"]]


@pytest.mark.parametrize("count", [1, 5, 16, 70])
def test_any_number_of_samples_runs_whole(count):
    recorder = Recorder()
    replay(Interpreter(chain()), samples(count), recorder)
    rows = np.stack([sample["x"] for sample in samples(count)])
    active = np.maximum(rows @ FIRST.T, 0)
    shown = np.stack([array for _, array in recorder.seen["second"]])
    np.testing.assert_allclose(shown, active, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("budget", [0, 100, 300])
def test_a_small_budget_changes_nothing_and_leaves_no_files(budget, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    opened = []
    temporary = tempfile.TemporaryFile

    def counting():
        opened.append(temporary())
        return opened[-1]

    monkeypatch.setattr(spill.tempfile, "TemporaryFile", counting)
    with_memory, without = Recorder(), Recorder()
    replay(Interpreter(chain()), samples(), with_memory)
    assert not opened
    replay(Interpreter(chain()), samples(), without, memory_budget=budget)
    assert opened
    assert all(file.closed for file in opened)
    assert list(tmp_path.iterdir()) == []
    for name, shown in with_memory.seen.items():
        for (_, first), (_, second) in zip(shown, without.seen[name], strict=True):
            assert first.tobytes() == second.tobytes()


def test_files_are_removed_when_an_op_fails(tmp_path, monkeypatch):
    class Failing(Recorder):
        def see(self, op, kernel, shown):
            if op.name == "third":
                raise CalibrationError("enough")

    opened = []
    temporary = tempfile.TemporaryFile
    monkeypatch.setattr(
        spill.tempfile, "TemporaryFile", lambda: opened.append(temporary()) or opened[-1]
    )
    with pytest.raises(CalibrationError, match="enough"):
        replay(Interpreter(chain()), samples(), Failing(), memory_budget=0)
    assert opened
    assert all(file.closed for file in opened)


def looped():
    weight = FIRST / 4

    def build(x):
        def again(turn, value):
            return mb.less(x=turn, y=np.int32(3))

        def turned(turn, value):
            return mb.add(x=turn, y=np.int32(1)), mb.linear(x=value, weight=weight, name="inner")

        return mb.while_loop(_cond=again, _body=turned, loop_vars=(np.int32(0), x))[1]

    return program(build, (2, 8))


def test_every_turn_of_a_loop_is_seen_and_its_weight_replaced_for_all():
    interpreter = Interpreter(looped())
    recorder = Recorder(weights={"inner": np.zeros((8, 8), np.float32)})
    replay(interpreter, samples(2), recorder)
    (name,) = recorder.seen
    assert [number for number, _ in recorder.seen[name]] == [0, 0, 0, 1, 1, 1]
    value = samples(2)[1]["x"]
    for _, shown in recorder.seen[name][3:]:
        np.testing.assert_allclose(shown, value, rtol=1e-5, atol=1e-6)
        value = value @ (FIRST / 4).T
    assert recorder.settled == [name]


def test_each_sample_has_a_state_of_its_own():
    interpreter = Interpreter(FIXTURES / "stateful_lm.mlpackage")
    inputs, _ = truth("stateful_lm")
    sample = {name: steps[0] for name, steps in inputs.items()}
    recorder = Recorder()
    replay(interpreter, [sample, sample], recorder)
    for shown in recorder.seen.values():
        assert shown[0][1].tobytes() == shown[1][1].tobytes()


def test_a_state_written_in_a_branch_is_not_written_twice():
    specs = [mb.TensorSpec((8,)), mb.StateTensorSpec((8,), dtype=types.fp16)]

    @mb.program(input_specs=specs, opset_version=ct.target.iOS18)
    def counting(x, total):
        def add():
            held = mb.cast(x=mb.read_state(input=total), dtype="fp32")
            grown = mb.linear(x=mb.add(x=held, y=x), weight=np.eye(8, dtype=np.float32))
            written = mb.cast(x=grown, dtype="fp16")
            mb.coreml_update_state(state=total, value=written)
            return grown

        return mb.cond(pred=np.bool_(True), _true_fn=add, _false_fn=lambda: mb.identity(x=x))

    interpreter = Interpreter(counting)
    recorder = Recorder()
    replay(interpreter, [{"x": np.ones(8, np.float32)}], recorder)
    (shown,) = recorder.seen.values()
    np.testing.assert_array_equal(shown[0][1].reshape(-1), np.ones(8))


def test_parts_of_a_pipeline_follow_each_other():
    interpreter = Interpreter(FIXTURES / "digits_pipeline.mlpackage")
    inputs, _ = truth("digits_pipeline")
    recorder = Recorder(types=("conv", "linear"))
    replay(interpreter, [inputs], recorder)
    assert len(interpreter.parts) > 1
    assert len(recorder.seen) == sum(op.type in ("conv", "linear") for op in ops_of(interpreter))


def test_nothing_wanted_is_nothing_run(monkeypatch):
    monkeypatch.setattr(Run, "steps", lambda *_: pytest.fail("ran"))
    replay(Interpreter(chain()), samples(), Recorder(types=()))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"y": np.zeros((2, 8))}, r"sample 1: there is no input 'y'"),
        ({"x": np.zeros((3, 8))}, r"sample 1: input 'x': must be of shape \(2, 8\)"),
        (np.zeros((2, 8)), r"sample 1 must map input names to arrays. Got ndarray"),
    ],
)
def test_a_sample_that_does_not_fit_is_named(wrong, message):
    with pytest.raises(CalibrationError, match=message):
        replay(Interpreter(chain()), [samples()[0], wrong], Recorder())


def test_core_ml_itself_shows_no_activations():
    interpreter = Interpreter(chain())
    interpreter.backend = None
    with pytest.raises(CalibrationError, match="Core ML shows no activations"):
        replay(interpreter, samples(), Recorder())
