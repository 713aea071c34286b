"""Recurrent layers: from the products with both weights the states follow, element by element."""

from __future__ import annotations

import numpy as np
import pytest

from tests.weights.ops.law import (
    NAMESPACES,
    given,
    inputs_of,
    kernel_of,
    matrix_of,
    normal,
    over_namespaces,
)

STEPS, BATCH, SIZE, HIDDEN = 5, 3, 4, 6


def recurrent(gates, direction, **more):
    arguments = {
        "x": normal(STEPS, BATCH, SIZE),
        "initial_h": normal(BATCH, HIDDEN),
        "weight_ih": normal(gates * HIDDEN, SIZE) / 2,
        "weight_hh": normal(gates * HIDDEN, HIDDEN) / 2,
        "direction": direction,
        **more,
    }
    return {"output_sequence": False, **arguments}


def products_of(op_type, arguments, namespace, suffix="", reverse=False, opset=18):
    """Returns both products, (steps, batch, gates), steps in the order in which they are made."""
    steps, states = (
        inputs_of(op_type, parameter, arguments, namespace, opset=opset)
        @ matrix_of(op_type, parameter, arguments).swapaxes(1, 2)
        for parameter in (f"weight_ih{suffix}", f"weight_hh{suffix}")
    )
    steps = steps.reshape(STEPS, BATCH, -1)
    return steps[::-1] if reverse else steps, states.reshape(STEPS, BATCH, -1)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def states_of(op_type, arguments, namespace, opset=18):
    made = kernel_of(op_type, namespace, opset)(
        NAMESPACES[namespace][0], **given({**arguments, "output_sequence": True}, namespace)
    )
    return np.asarray(made[0])


def close(found, wanted):
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


@over_namespaces
@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_rnn(direction, namespace):
    arguments = recurrent(1, direction)
    steps, states = products_of("rnn", arguments, namespace, reverse=direction == "reverse")
    close(np.tanh(steps + states), states_of("rnn", arguments, namespace))


@over_namespaces
@pytest.mark.parametrize("direction", ["forward", "reverse"])
@pytest.mark.parametrize("after", [True, False, None])
def test_gru(direction, after, namespace):
    opset = 13 if after is None else 18
    more = {} if after is None else {"reset_after": after}
    arguments = recurrent(3, direction, **more)
    backwards = direction == "reverse"
    steps, products = products_of("gru", arguments, namespace, reverse=backwards, opset=opset)
    own = inputs_of("gru", "weight_hh", arguments, namespace, opset=opset)
    before = own.reshape(STEPS, BATCH, HIDDEN)
    reset, update = (sigmoid((steps + products)[..., part]) for part in gates_of(0, 2))
    (output,) = gates_of(1)
    # Where the reset gate comes before the product, it is not a product with the hidden states.
    inner = reset * products[..., output]
    if not after:
        inner = (reset * before) @ arguments["weight_hh"][output].T
    found = np.tanh(steps[..., output] + inner)
    states = states_of("gru", arguments, namespace, opset)
    close((1 - update) * found + update * before, states)
    close(before[1:], states[:-1])


def gates_of(*numbers):
    return [slice(number * HIDDEN, (number + 1) * HIDDEN) for number in numbers]


@over_namespaces
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
def test_lstm(direction, namespace):
    both = direction == "bidirectional"
    wide = HIDDEN * (1 + both)
    arguments = recurrent(4, direction, bias=normal(4 * HIDDEN), clip=1.5)
    arguments |= {"initial_h": normal(BATCH, wide), "initial_c": normal(BATCH, wide)}
    arguments["peephole"] = normal(3 * HIDDEN) / 2
    if both:
        arguments |= {f"{name}_back": normal(*arguments[name].shape) for name in BACK}
    made = states_of("lstm", arguments, namespace)
    for suffix, backwards in [("", direction == "reverse"), ("_back", True)][: 1 + both]:
        part = slice(HIDDEN, None) if suffix else slice(None, HIDDEN)
        sums = sum(products_of("lstm", arguments, namespace, suffix, backwards))
        sums = sums + arguments[f"bias{suffix}"]
        peephole, c = arguments[f"peephole{suffix}"], arguments["initial_c"][:, part]
        states = []
        for step in sums:
            i, f, o, z = (step[:, gate] for gate in gates_of(0, 1, 2, 3))
            seen = [peephole[gate] for gate in gates_of(0, 1, 2)]
            c = sigmoid(f + c * seen[1]) * c + sigmoid(i + c * seen[0]) * np.tanh(z)
            c = np.clip(c, -1.5, 1.5)
            states.append(sigmoid(o + c * seen[2]) * np.tanh(c))
        wanted = made[..., part]
        close(np.stack(states), wanted[::-1] if suffix else wanted)


BACK = ("weight_ih", "weight_hh", "bias", "peephole")


@over_namespaces
def test_one_step_has_the_initial_state_alone(namespace):
    arguments = {**recurrent(1, "forward"), "x": normal(1, BATCH, SIZE)}
    close(inputs_of("rnn", "weight_hh", arguments, namespace)[0], arguments["initial_h"])
