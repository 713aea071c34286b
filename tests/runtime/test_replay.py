"""Replay: one pass for all samples, on the activations that earlier layers really make."""

from __future__ import annotations

import coremltools as ct
import numpy as np
import pytest
from coremltools.converters.mil.mil import Builder as mb
from coremltools.converters.mil.mil import types

from mlpass.errors import CalibrationError
from mlpass.runtime.execute import Run
from mlpass.runtime.interpreter import Interpreter
from mlpass.runtime.replay import stops
from tests.runtime import cuts
from tests.runtime.programs import FIXTURES, program, truth
from tests.runtime.replays import (
    FIRST,
    LINEAR,
    SECOND,
    THIRD,
    chain,
    linears,
    named,
    of_types,
    ops_of,
    samples,
    seen,
    shown_at,
)


def test_later_layers_meet_what_replaced_weights_make():
    other = FIRST.copy()
    other[:, ::2] = 0
    found = seen(stops(Interpreter(chain()), samples(), LINEAR), {"first": other})
    assert list(found) == ["first", "second", "third"]
    for number, (shown, sample) in enumerate(zip(found["third"], samples(), strict=True)):
        active = np.maximum(sample["x"] @ other.T, 0)
        assert shown[0] == number
        np.testing.assert_allclose(shown[1], active @ SECOND.T + active, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("backend", ["numpy", "torch"])
def test_without_replacements_it_shows_what_a_run_computes(backend):
    interpreter = Interpreter(chain(), backend=backend)
    found = seen(stops(interpreter, samples(), LINEAR))
    for sample, (_, shown) in zip(samples(), found["second"], strict=True):
        (name,) = {op.inputs["x"][0].name for op in ops_of(interpreter) if op.name == "second"}
        np.testing.assert_allclose(shown, interpreter.run(sample, [name])[name], rtol=1e-5)


def test_every_op_runs_once_a_sample_and_the_last_wanted_not_at_all(monkeypatch):
    rows = {}
    called = Run.call

    def counting(self, step, arguments):
        rows[step.op.name] = rows.get(step.op.name, 0) + len(arguments["x"])
        return called(self, step, arguments)

    monkeypatch.setattr(Run, "call", counting)
    found = seen(stops(Interpreter(chain()), samples(7), LINEAR))
    assert set(rows.values()) == {7 * 2}  # of 7 samples with 2 rows each
    assert {"first", "second"} <= set(rows)
    assert "third" not in rows  # nothing after it is asked for
    assert [len(shown) for shown in found.values()] == [7, 7, 7]


def test_nothing_runs_before_the_next_stop_is_asked_for(monkeypatch):
    ran = []
    called = Run.call

    def noting(self, step, arguments):
        ran.append(step.op.name)
        return called(self, step, arguments)

    monkeypatch.setattr(Run, "call", noting)
    walk = stops(Interpreter(chain()), samples(1), named("second"))
    assert linears(next(walk)) == ["first"]
    assert not ran
    assert linears(next(walk)) == ["second", "third"]
    assert "first" in ran
    assert "second" not in ran


def test_a_stop_tells_all_that_runs_up_to_the_next():
    told = [
        linears(stop) for stop in stops(Interpreter(chain()), samples(), named("first", "third"))
    ]
    assert told == [["first", "second"], ["third"]]


@pytest.mark.parametrize("count", [1, 5, 16, 70])
def test_any_number_of_samples_runs_whole(count):
    found = seen(stops(Interpreter(chain()), samples(count), LINEAR))
    rows = np.stack([sample["x"] for sample in samples(count)])
    active = np.maximum(rows @ FIRST.T, 0)
    shown = np.stack([array for _, array in found["second"]])
    np.testing.assert_allclose(shown, active, rtol=1e-5, atol=1e-5)


def test_samples_go_by_their_numbers():
    walk = stops(Interpreter(chain()), samples(3), LINEAR)
    stop = next(walk)
    given = stop.arguments(stop.wanted[0])
    assert len(given) == len(stop.samples) == 3
    assert list(given) == [0, 1, 2]
    for number, sample in enumerate(samples(3)):
        (once,) = given[number]
        np.testing.assert_array_equal(once["x"], sample["x"])
        np.testing.assert_array_equal(once["weight"], FIRST)
        made = stop.kernel(stop.wanted[0])(np, **once)
        np.testing.assert_allclose(made, sample["x"] @ FIRST.T, rtol=1e-5, atol=1e-6)
    with pytest.raises(KeyError):
        given[3]


def other_weights():
    """The weights of `chain` with half of each gone."""
    pruned = {"first": FIRST.copy(), "second": SECOND.copy(), "third": THIRD.copy()}
    for weight in pruned.values():
        weight[:, ::2] = 0
    return pruned


def test_two_replays_go_side_by_side_a_stop_at_a_time():
    """A dense one and one whose weights are replaced: each shows what it shows alone."""
    pruned = other_weights()
    alone = seen(stops(Interpreter(chain()), samples(), LINEAR))
    alone_pruned = seen(stops(Interpreter(chain()), samples(), LINEAR), pruned)
    walks = [stops(Interpreter(chain()), samples(), LINEAR) for _ in range(2)]
    names = []
    for dense, other in zip(*walks, strict=True):
        for op, same in zip(dense.wanted, other.wanted, strict=True):
            name = op.outputs[0].name
            names.append(name)
            for stop, at, expected in ((dense, op, alone), (other, same, alone_pruned)):
                for found, wanted in zip(shown_at(stop, at), expected[name], strict=True):
                    assert found[0] == wanted[0]
                    assert found[1].tobytes() == wanted[1].tobytes()
            other.replace(same.inputs["weight"][0], pruned[name])
    assert names == ["first", "second", "third"]
    assert alone["third"][0][1].tobytes() != alone_pruned["third"][0][1].tobytes()


def test_what_is_not_at_a_stop_is_refused():
    walk = stops(Interpreter(chain()), samples(), named("first", "third"))
    stop = next(walk)
    (second,) = [op for op in stop.ops if op.name == "second"]
    with pytest.raises(CalibrationError, match="'second' is not among the wanted ops of this stop"):
        stop.arguments(second)
    with pytest.raises(CalibrationError, match="'second' is not a constant of this program"):
        stop.replace(second.outputs[0], FIRST)


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
    zeros = {"inner": np.zeros((8, 8), np.float32)}
    found = seen(stops(Interpreter(looped()), samples(2), LINEAR), zeros)
    (name,) = found
    assert [number for number, _ in found[name]] == [0, 0, 0, 1, 1, 1]
    value = samples(2)[1]["x"]
    for _, shown in found[name][3:]:
        np.testing.assert_allclose(shown, value, rtol=1e-5, atol=1e-6)
        value = value @ (FIRST / 4).T


def test_control_flow_is_rehearsed_once_for_all_its_ops(monkeypatch):
    def build(x):
        def taken():
            return mb.linear(x=mb.linear(x=x, weight=FIRST, name="a"), weight=SECOND, name="b")

        return mb.cond(pred=np.bool_(True), _true_fn=taken, _false_fn=lambda: mb.identity(x=x))

    ran = []
    called = Run.call

    def noting(self, step, arguments):
        ran.append(step.op.name)
        return called(self, step, arguments)

    monkeypatch.setattr(Run, "call", noting)
    walk = stops(Interpreter(program(build, (2, 8))), samples(3), LINEAR)
    stop = next(walk)
    assert [op.name for op in stop.wanted] == ["a", "b"]
    for number, sample in enumerate(samples(3)):
        for op, wanted in zip(stop.wanted, (sample["x"], sample["x"] @ FIRST.T), strict=True):
            (once,) = stop.arguments(op)[number]
            np.testing.assert_allclose(once["x"], wanted, rtol=1e-5, atol=1e-6)
    assert [ran.count(name) for name in ("a", "b")] == [3, 3]


def test_each_sample_has_a_state_of_its_own():
    interpreter = Interpreter(FIXTURES / "stateful_lm.mlpackage")
    inputs, _ = truth("stateful_lm")
    sample = {name: steps[0] for name, steps in inputs.items()}
    found = seen(stops(interpreter, [sample, sample], LINEAR))
    assert found
    for shown in found.values():
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

    walk = stops(Interpreter(counting), [{"x": np.ones(8, np.float32)}] * 2, LINEAR)
    stop = next(walk)
    (op,) = stop.wanted
    for number in (0, 1, 0):  # the first is rehearsed again
        (once,) = stop.arguments(op)[number]
        np.testing.assert_array_equal(once["x"].reshape(-1), np.ones(8))


def test_parts_of_a_pipeline_follow_each_other():
    interpreter = Interpreter(FIXTURES / "digits_pipeline.mlpackage")
    inputs, _ = truth("digits_pipeline")
    found = seen(stops(interpreter, [inputs], of_types("conv", "linear")))
    assert len(interpreter.parts) > 1
    assert len(found) == sum(op.type in ("conv", "linear") for op in ops_of(interpreter))


def test_nothing_wanted_is_nothing_run(monkeypatch):
    monkeypatch.setattr(Run, "steps", lambda *_: pytest.fail("ran"))
    assert list(stops(Interpreter(chain()), samples(), of_types())) == []


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
        seen(stops(Interpreter(chain()), [samples()[0], wrong], LINEAR))


def test_core_ml_itself_shows_no_activations():
    interpreter = Interpreter(chain())
    interpreter.backend = None
    with pytest.raises(CalibrationError, match="Core ML shows no activations"):
        stops(interpreter, samples(), LINEAR)


def test_a_stop_shows_values_that_are_made_and_still_needed():
    walk = stops(Interpreter(chain()), samples(3), named("second", "third"))
    for stop in walk:
        if "second" in linears(stop)[:1]:
            break
    (active,) = stop.wanted[0].inputs["x"]
    found = stop.values(active)
    for number, sample in enumerate(samples(3)):
        (once,) = found[number]
        np.testing.assert_allclose(once, np.maximum(sample["x"] @ FIRST.T, 0), rtol=1e-5, atol=1e-6)
    (later,) = stop.wanted[0].outputs
    with pytest.raises(
        CalibrationError, match="'second' is not there at this stop: it is not made"
    ):
        stop.values(later)[0]
    next(walk)
    with pytest.raises(CalibrationError, match="this stop is over"):
        stop.values(active)
    with pytest.raises(CalibrationError, match="this stop is over"):
        found[0]


@pytest.mark.slow_but_every(4)
@pytest.mark.parametrize("handed", ["fp32", "fp16"])
@pytest.mark.parametrize("backend", ["numpy", "torch"])
def test_a_stop_shows_what_programs_before_have_handed_on(handed, backend, tmp_path):
    if backend == "torch":
        pytest.importorskip("torch")
    paths = cuts.cut(tmp_path, 1, 4, handed=handed)
    three = Interpreter(paths, backend=backend)
    first = Interpreter(paths[0], backend=backend)
    talks = cuts.talks(2, 3)
    (made,) = three.parts[0].plan.block.outputs
    (later,) = three.parts[2].plan.block.outputs
    walk = stops(three, talks, named("down_made"))
    stop = next(each for each in walk if each.wanted)
    for number, talk in enumerate(talks):
        found = stop.values(made)[number]
        assert len(found) == len(talk)
        for value, step in zip(found, talk, strict=True):
            expected = first.predict(step)["stream"]
            assert expected.dtype == {"fp32": np.float32, "fp16": np.float16}[handed]
            np.testing.assert_array_equal(three.backend.to_numpy(value), expected)
            assert three.backend.to_numpy(value).dtype == np.float32
    with pytest.raises(CalibrationError, match="is not there at this stop"):
        stop.values(later)[0]
