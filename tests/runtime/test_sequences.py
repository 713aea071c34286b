"""Sequences: steps on one state meet at each op what the Interpreter's own steps meet there."""

from __future__ import annotations

import coremltools as ct
import numpy as np
import pytest
from coremltools.converters.mil.mil import Builder as mb
from coremltools.converters.mil.mil import types

from mlpass.errors import CalibrationError, InputError
from mlpass.runtime.execute import Run
from mlpass.runtime.interpreter import Interpreter
from mlpass.runtime.replay import stops
from tests.runtime.sequences import STATEFUL, copied, lm_sequences, predicted

WEIGHTS = np.random.default_rng(0).standard_normal((12, 4, 4)).astype(np.float32) / 2


def decoder(*, layers=2, shared=False):
    """Layers that each add to what they have seen so far, in states of their own, or in one."""
    count = 1 if shared else layers
    states = [mb.StateTensorSpec((1, 4), dtype=types.fp16) for _ in range(count)]
    specs = [mb.TensorSpec((1, 4)), *states]

    def body(x, states):
        x = mb.linear(x=x, weight=WEIGHTS[-1], name="before")
        for number in range(layers):
            state = states[0 if shared else number]
            held = mb.cast(x=mb.read_state(input=state), dtype="fp32")
            inner = mb.tanh(x=mb.add(x=x, y=held))
            inner = mb.linear(x=inner, weight=WEIGHTS[number], name=f"layer_{number}")
            mb.coreml_update_state(state=state, value=mb.cast(x=inner, dtype="fp16"))
            x = mb.add(x=x, y=inner)
        return mb.linear(x=x, weight=WEIGHTS[-2], name="after")

    if count == 1:

        @mb.program(input_specs=specs, opset_version=ct.target.iOS18)
        def one(x, a):
            return body(x, [a])

        return one

    @mb.program(input_specs=specs, opset_version=ct.target.iOS18)
    def two(x, a, b):
        return body(x, [a, b])

    return two


def sequences(*lengths):
    rng = np.random.default_rng(1)
    return [
        [{"x": rng.standard_normal((1, 4)).astype(np.float32)} for _ in range(length)]
        for length in lengths
    ]


def linear(op):
    return op.type == "linear"


def replayed(interpreter, samples, weights=(), **options):
    """The same by name and sample, from one replay; weights are put in place by name."""
    found = {}
    for stop in stops(interpreter, samples, linear, **options):
        for number in stop.samples:
            for op in stop.wanted:
                shown = [copied(one["x"]) for one in stop.arguments(op)[number]]
                found.setdefault(op.outputs[0].name, {})[number] = shown
        for op in stop.wanted:
            if op.outputs[0].name in weights:
                stop.replace(op.inputs["weight"][0], weights[op.outputs[0].name])
    return found


def same_bytes(found, interpreter, samples):
    for number, sample in enumerate(samples):
        wanted, _ = predicted(interpreter, sample)
        assert set(wanted) == set(found)
        for name, inputs in wanted.items():
            assert [one.tobytes() for one in inputs] == [
                one.tobytes() for one in found[name][number]
            ], name


@pytest.mark.parametrize("backend", ["numpy", "torch"])
def test_a_decoder_meets_what_its_own_steps_meet_to_the_byte(backend):
    samples = lm_sequences(5, 1, 3)
    found = replayed(Interpreter(STATEFUL, backend=backend), samples)
    same_bytes(found, Interpreter(STATEFUL, backend=backend), samples)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("budget", [0, 100, 1 << 30])
def test_states_of_each_layer_and_of_all_layers(shared, budget):
    samples = sequences(4, 2, 1, 3)
    model = decoder(shared=shared)
    found = replayed(Interpreter(model), samples, memory_budget=budget)
    same_bytes(found, Interpreter(model), samples)


def test_the_last_step_meets_other_inputs_than_it_would_alone():
    """Or the tests above could not fail."""
    (sample,) = sequences(3)
    alone = replayed(Interpreter(decoder()), sample)
    together = replayed(Interpreter(decoder()), [sample])
    assert together["layer_0"][0][0].tobytes() == alone["layer_0"][0][0].tobytes()
    assert together["layer_0"][0][2].tobytes() != alone["layer_0"][2][0].tobytes()


@pytest.mark.parametrize("shared", [False, True])
def test_later_layers_meet_what_replaced_weights_make_at_every_step(shared):
    (sample,) = samples = sequences(4)
    names, other = ("before", "layer_0", "layer_1", "after"), WEIGHTS[2:6]
    weights = dict(zip(names, other, strict=True))
    found = replayed(Interpreter(decoder(shared=shared)), samples, weights)

    def by_hand(weights):
        """What the four layers meet with these weights, one row a step."""
        held = [np.zeros((1, 4), np.float32)] * 2
        met = []
        for step in sample:
            x = step["x"] @ weights[0].T
            row = [step["x"]]
            for number in range(2):
                place = 0 if shared else number
                inside = np.tanh(x + held[place])
                row.append(inside)
                inner = inside @ weights[1 + number].T
                held[place] = inner.astype(np.float16).astype(np.float32)
                x = x + inner
            met.append([*row, x])
        return [np.stack(rows) for rows in zip(*met, strict=True)]

    dense = [WEIGHTS[-1], WEIGHTS[0], WEIGHTS[1], WEIGHTS[-2]]
    for place, name in enumerate(names):
        wanted = by_hand([*other[:place], *dense[place:]])[place]
        np.testing.assert_allclose(np.stack(found[name][0]), wanted, rtol=1e-3, atol=1e-3)


def test_every_op_is_told_once_and_in_order():
    walk = stops(Interpreter(STATEFUL), lm_sequences(2), linear)
    told = [op for stop in walk for op in stop.ops]
    assert len(told) == len(set(told))
    steps = Interpreter(STATEFUL).parts[0].plan.block.steps
    assert [op.name for op in told] == [step.op.name for step in steps]


def test_linked_steps_are_rehearsed_eight_times_at_most(monkeypatch):
    ran = {}
    called = Run.call

    def counting(self, step, arguments):
        ran[step.op.name] = ran.get(step.op.name, 0) + 1
        return called(self, step, arguments)

    monkeypatch.setattr(Run, "call", counting)
    interpreter = Interpreter(STATEFUL)
    linears = [step.op for step in interpreter.parts[0].plan.block.steps if linear(step.op)]
    seen = []
    for stop in stops(interpreter, lm_sequences(2), linear):
        for op in stop.wanted:
            list(stop.arguments(op)[0])
            seen.append(op.name)
    assert seen == [op.name for op in linears]  # each is shown nevertheless
    assert max(ran.values()) == 2 * 7 + 2  # two steps, thirteen ops in twos; and once to go on
    assert ran[linears[0].name] == 2  # it is before the first state


def test_single_samples_are_not_rehearsed(monkeypatch):
    ran = {}
    called = Run.call

    def counting(self, step, arguments):
        ran[step.op.name] = ran.get(step.op.name, 0) + 1
        return called(self, step, arguments)

    monkeypatch.setattr(Run, "call", counting)
    replayed(Interpreter(STATEFUL), [step for (step,) in lm_sequences(1, 1)])
    assert set(ran.values()) == {2}


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        ([{"x": np.zeros((1, 4))}, {"x": np.zeros((1, 3))}], r"sample 0, step 1: input 'x': must"),
        ([{"x": np.zeros((1, 4))}, {"y": 1}], r"sample 0, step 1: there is no input 'y'"),
        ([{"x": np.zeros((1, 4))}, 3], r"sample 0, step 1 must map input names to arrays. Got int"),
    ],
)
def test_a_step_that_does_not_fit_is_named(sample, message):
    with pytest.raises(CalibrationError, match=message):
        next(stops(Interpreter(decoder()), [sample], linear))


def test_a_state_is_not_an_input():
    interpreter = Interpreter(decoder())
    (name, _) = interpreter.states
    (sequence,) = sequences(2)
    sequence[1][name] = np.zeros((9, 9), np.float16)
    text = f"'{name}' is a state, which begins at zeros, and not an input: leave it out"
    with pytest.raises(CalibrationError, match=f"sample 0, step 1: {text}. The inputs are 'x'"):
        list(stops(interpreter, [sequence], linear))
    with pytest.raises(InputError, match=text):
        interpreter.predict(sequence[1], interpreter.make_state())


def test_a_question_is_not_followed_by_a_full_stop():
    interpreter = Interpreter(decoder())
    with pytest.raises(InputError, match=r"'x' \(fp32 \(1, 4\)\) is missing. The inputs are 'x'"):
        interpreter.predict({}, interpreter.make_state())
    given = {"x": np.zeros((1, 4), np.float32), "xx": 0}
    with pytest.raises(InputError, match="did you mean 'x'[?] The inputs are 'x'"):
        interpreter.predict(given, interpreter.make_state())
