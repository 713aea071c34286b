"""Recurrent layers, against plain loops over steps and torch's own layers."""

import itertools

import numpy as np
import pytest
import torch
from harness import Record, check, compare, over, run

pytestmark = pytest.mark.slow_but_every(3)

RNG = np.random.default_rng(5)
STEPS, BATCH, SIZE, HIDDEN = 5, 3, 4, 6


def normal(*shape):
    return (RNG.standard_normal(shape) * 0.7).astype(np.float32)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


ACTIVATIONS = {
    "tanh": np.tanh,
    "scaled_tanh": np.tanh,
    "sigmoid": sigmoid,
    "hard_sigmoid": lambda x: np.clip(0.2 * x + 0.5, 0, 1),
    "sigmoid_hard": lambda x: np.clip(0.2 * x + 0.5, 0, 1),
    "relu": lambda x: np.maximum(x, 0),
    "linear": lambda x: x,
}
DIRECTIONS = ("forward", "reverse")


def finished(states, output_sequence):
    return np.stack(states if output_sequence else states[-1:])


def in_order(x, direction):
    return x[::-1] if direction == "reverse" else x


def rnn(
    x, initial_h, weight_ih, weight_hh, bias=0.0, direction="forward", output_sequence=False,
    activation="tanh",
):  # fmt: skip
    h, states = initial_h.astype(np.float64), []
    for step in in_order(x, direction):
        h = ACTIVATIONS[activation](step @ weight_ih.T + bias + h @ weight_hh.T)
        states.append(h)
    return finished(states, output_sequence), h


def gru(
    x, initial_h, weight_ih, weight_hh, bias=None, direction="forward", output_sequence=False,
    recurrent_activation="sigmoid", activation="tanh", reset_after=False, input_bias=None,
):  # fmt: skip
    gate, act = ACTIVATIONS[recurrent_activation], ACTIVATIONS[activation]
    zeros = np.zeros(len(weight_ih))
    b_r, b_o, b_z = np.split(zeros if bias is None else bias, 3)
    i_r, i_o, i_z = np.split(zeros if input_bias is None else input_bias, 3)
    w_r, w_o, w_z = np.split(weight_ih, 3)
    u_r, u_o, u_z = np.split(weight_hh, 3)
    h, states = initial_h.astype(np.float64), []
    for step in in_order(x, direction):
        r = gate(step @ w_r.T + i_r + h @ u_r.T + b_r)
        z = gate(step @ w_z.T + i_z + h @ u_z.T + b_z)
        if reset_after:
            o = act(step @ w_o.T + i_o + r * (h @ u_o.T + b_o))
        else:
            o = act(step @ w_o.T + i_o + (r * h) @ u_o.T + b_o)
        h = (1 - z) * o + z * h
        states.append(h)
    return finished(states, output_sequence), h


def lstm(
    x, initial_h, initial_c, weight_ih, weight_hh, bias=None, peephole=None, direction="forward",
    output_sequence=False, recurrent_activation="sigmoid", cell_activation="tanh",
    activation="tanh", clip=None, **back,
):  # fmt: skip
    rest = {
        "output_sequence": output_sequence,
        "recurrent_activation": recurrent_activation,
        "cell_activation": cell_activation,
        "activation": activation,
        "clip": clip,
    }
    if direction == "bidirectional":
        (h, h_back), (c, c_back) = (np.split(part, 2, axis=1) for part in (initial_h, initial_c))
        there = lstm(x, h, c, weight_ih, weight_hh, bias, peephole, **rest)
        again = lstm(
            x, h_back, c_back, back["weight_ih_back"], back["weight_hh_back"],
            back.get("bias_back"), back.get("peephole_back"), "reverse", **rest,
        )  # fmt: skip
        again = (again[0][::-1], *again[1:])
        return tuple(np.concatenate(both, -1) for both in zip(there, again, strict=True))
    gate, cell, act = (
        ACTIVATIONS[name] for name in (recurrent_activation, cell_activation, activation)
    )
    w_i, w_f, w_o, w_z = np.split(weight_ih, 4)
    u_i, u_f, u_o, u_z = np.split(weight_hh, 4)
    b_i, b_f, b_o, b_z = np.split(np.zeros(len(weight_ih)) if bias is None else bias, 4)
    p_i, p_f, p_o = np.split(np.zeros(3 * w_i.shape[0]) if peephole is None else peephole, 3)
    h, c, states = initial_h.astype(np.float64), initial_c.astype(np.float64), []
    for step in in_order(x, direction):
        i = gate(step @ w_i.T + h @ u_i.T + b_i + c * p_i)
        f = gate(step @ w_f.T + h @ u_f.T + b_f + c * p_f)
        c = f * c + i * cell(step @ w_z.T + h @ u_z.T + b_z)
        if clip is not None:
            c = np.clip(c, -clip, clip)
        h = gate(step @ w_o.T + h @ u_o.T + b_o + c * p_o) * act(c)
        states.append(h)
    return finished(states, output_sequence), h, c


X = normal(STEPS, BATCH, SIZE)
RNN = {
    "x": X,
    "initial_h": normal(BATCH, HIDDEN),
    "weight_ih": normal(HIDDEN, SIZE),
    "weight_hh": normal(HIDDEN, HIDDEN),
}
GRU = {
    "x": X,
    "initial_h": normal(BATCH, HIDDEN),
    "weight_ih": normal(3 * HIDDEN, SIZE),
    "weight_hh": normal(3 * HIDDEN, HIDDEN),
}
LSTM = {
    "x": X,
    "initial_h": normal(BATCH, HIDDEN),
    "initial_c": normal(BATCH, HIDDEN),
    "weight_ih": normal(4 * HIDDEN, SIZE),
    "weight_hh": normal(4 * HIDDEN, HIDDEN),
}
BOTH = {
    **LSTM,
    "initial_h": normal(BATCH, 2 * HIDDEN),
    "initial_c": normal(BATCH, 2 * HIDDEN),
    "weight_ih_back": normal(4 * HIDDEN, SIZE),
    "weight_hh_back": normal(4 * HIDDEN, HIDDEN),
    "direction": "bidirectional",
}
BIASES = {"bias": normal(4 * HIDDEN), "bias_back": normal(4 * HIDDEN)}
PEEPHOLES = {"peephole": normal(3 * HIDDEN), "peephole_back": normal(3 * HIDDEN)}

RECORDS = [
    Record(
        "rnn",
        {
            **RNN,
            **({"bias": normal(HIDDEN)} if bias else {}),
            "direction": direction,
            "output_sequence": output_sequence,
        },
        rnn,
        opset=opset,
        name=f"{direction}_{output_sequence}_{bias}",
    )
    for direction in DIRECTIONS
    for output_sequence in (False, True)
    for bias, opset in ((False, 13), (True, 17))
]
RECORDS += [
    Record(
        "rnn", {**RNN, "activation": name, "output_sequence": True}, rnn, name=name, tolerance=1e-4
    )
    for name in ACTIVATIONS
]
RECORDS += [
    Record(
        "gru",
        {
            **GRU,
            **({"bias": normal(3 * HIDDEN)} if bias else {}),
            "direction": direction,
            "output_sequence": output_sequence,
        },
        gru,
        opset=opset,
        name=f"{direction}_{output_sequence}_{bias}",
    )
    for direction in DIRECTIONS
    for output_sequence in (False, True)
    for bias, opset in ((False, 13), (True, 17), (True, 18))
]
RECORDS += [
    Record(
        "gru",
        {
            **GRU,
            **({"bias": normal(3 * HIDDEN)} if bias else {}),
            **({"input_bias": normal(3 * HIDDEN)} if input_bias else {}),
            "direction": direction,
            "output_sequence": direction == "forward",
            "reset_after": after,
        },
        gru,
        name=f"after_{after}_{bias}_{input_bias}_{direction}",
    )
    for after, bias, input_bias, direction in itertools.product(
        (False, True), (False, True), (False, True), DIRECTIONS
    )
]
RECORDS += [
    Record(
        "gru",
        {**GRU, "recurrent_activation": gate, "activation": act, "reset_after": after},
        gru,
        name=f"{gate}_{act}_{after}",
        tolerance=1e-4,
    )
    for gate, act in (("tanh", "sigmoid"), ("hard_sigmoid", "relu"), ("sigmoid", "linear"))
    for after in (False, True)
]
RECORDS += [
    Record(
        "lstm",
        {
            **LSTM,
            **({"bias": BIASES["bias"]} if bias else {}),
            "direction": direction,
            "output_sequence": output_sequence,
        },
        lstm,
        opset=opset,
        name=f"{direction}_{output_sequence}_{bias}",
    )
    for direction in DIRECTIONS
    for output_sequence in (False, True)
    for bias, opset in ((False, 13), (True, 17))
]
RECORDS += [
    Record(
        "lstm",
        {**BOTH, **extra, "output_sequence": output_sequence},
        lstm,
        name=f"both_{output_sequence}_{len(extra)}",
    )
    for extra in ({}, BIASES, {**BIASES, **PEEPHOLES}, {"clip": 0.2, **BIASES, **PEEPHOLES})
    for output_sequence in (False, True)
]
RECORDS += [
    Record(
        "lstm",
        {
            **LSTM,
            "bias": BIASES["bias"],
            **({"peephole": PEEPHOLES["peephole"]} if peephole else {}),
            "recurrent_activation": gate,
            "cell_activation": cell,
            "activation": act,
            "output_sequence": True,
            "clip": clip,
        },
        lstm,
        name=f"{gate}_{cell}_{act}_{peephole}_{clip}",
        tolerance=1e-4,
    )
    for gate, cell, act, peephole, clip in (
        *(("sigmoid", "tanh", act, True, 0.2) for act in ACTIVATIONS if act != "sigmoid_hard"),
        ("sigmoid", "tanh", "tanh", False, 0.01),
        ("sigmoid", "tanh", "tanh", True, 50.0),
        ("hard_sigmoid", "relu", "sigmoid", False, None),
        ("tanh", "linear", "relu", True, None),
        ("relu", "sigmoid", "scaled_tanh", False, 50.0),
        ("linear", "hard_sigmoid", "linear", False, 1.0),
    )
]
RECORDS += [
    Record("lstm", {**LSTM, "x": X[:1], "output_sequence": True}, lstm, name="one_step"),
    Record("gru", {**GRU, "x": X[:1]}, gru, name="one_step"),
    Record("rnn", {**RNN, "x": X[:, :1], "initial_h": RNN["initial_h"][:1]}, rnn, name="one_row"),
]


@over(RECORDS)
def test_kernel(record, namespace):
    check(record, namespace)


def gates(part, order):
    """Returns torch's gates in MIL's order."""
    parts = np.split(part.detach().numpy(), len(order))
    return np.ascontiguousarray(np.concatenate([parts[index] for index in order]))


@pytest.mark.parametrize("namespace", ["numpy", "torch"])
@pytest.mark.parametrize("both", [False, True])
def test_lstm_agrees_with_torch(both, namespace):
    torch.manual_seed(0)
    layer = torch.nn.LSTM(SIZE, HIDDEN, bidirectional=both)
    order = (0, 1, 3, 2)  # torch: input, forget, cell, output
    arguments = {"x": X, "output_sequence": True}
    for suffix, name in (("", ""), ("_reverse", "_back"))[: 1 + both]:
        parts = {
            part: gates(getattr(layer, f"{part}_l0{suffix}"), order)
            for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        }
        arguments |= {
            f"weight_ih{name}": parts["weight_ih"],
            f"weight_hh{name}": parts["weight_hh"],
            f"bias{name}": parts["bias_ih"] + parts["bias_hh"],
        }
    directions = 1 + both
    h, c = (torch.randn(directions, BATCH, HIDDEN) for _ in range(2))
    expected, (last_h, last_c) = layer(torch.from_numpy(X), (h, c))

    def flat(state):
        return np.concatenate(list(state.detach().numpy()), axis=-1)

    arguments |= {"initial_h": flat(h), "initial_c": flat(c)}
    if both:
        arguments["direction"] = "bidirectional"
    results = run("lstm", arguments, namespace)
    compare(results, (expected.detach().numpy(), flat(last_h), flat(last_c)), 1e-5, "lstm")


@pytest.mark.parametrize("namespace", ["numpy", "torch"])
def test_gru_that_resets_after_the_product_agrees_with_torch(namespace):
    torch.manual_seed(0)
    layer, order = torch.nn.GRU(SIZE, HIDDEN), (0, 2, 1)  # torch: reset, update, output
    h = torch.randn(1, BATCH, HIDDEN)
    expected, last = layer(torch.from_numpy(X), h)
    arguments = {
        "x": X,
        "initial_h": h[0].numpy(),
        "weight_ih": gates(layer.weight_ih_l0, order),
        "weight_hh": gates(layer.weight_hh_l0, order),
        "input_bias": gates(layer.bias_ih_l0, order),
        "bias": gates(layer.bias_hh_l0, order),
        "reset_after": True,
        "output_sequence": True,
    }
    results = run("gru", arguments, namespace)
    compare(results, (expected.detach().numpy(), last[0].detach().numpy()), 1e-5, "gru")


@pytest.mark.parametrize("namespace", ["numpy", "torch"])
@pytest.mark.parametrize(
    ("op", "arguments", "text"),
    [
        ("rnn", {**RNN, "direction": "bidirectional"}, "forward, reverse expected"),
        ("gru", {**GRU, "direction": "backward"}, "forward, reverse expected"),
        ("gru", {**GRU, "direction": "x", "reset_after": True}, "forward, reverse expected"),
        ("lstm", {**LSTM, "direction": "backward"}, "bidirectional expected. Got 'backward'"),
        ("lstm", {**LSTM, "direction": "bidirectional"}, "needs weight_ih_back"),
        ("rnn", {**RNN, "activation": "dummy"}, "activation: one of tanh"),
        ("gru", {**GRU, "recurrent_activation": "dummy"}, "activation: one of tanh"),
        ("lstm", {**LSTM, "cell_activation": "dummy"}, "activation: one of tanh"),
    ],
)
def test_what_is_unknown_is_refused(op, arguments, text, namespace):
    with pytest.raises(ValueError, match=text):
        run(op, arguments, namespace)


def test_large_sums_do_not_overflow():
    arguments = {**RNN, "x": X * 1e4, "activation": "sigmoid"}
    with np.errstate(all="raise"):
        states, _ = run("rnn", arguments, "numpy")
    assert np.isfinite(states).all()
