"""Recurrent layers: `rnn`, `gru`, `lstm`.

The products with the inputs are made for all steps at once; what is left for each step is the
product with the state. Under direction "reverse" the states come out in the order in which they
are made, the one of the last step of x first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mlpass.arrays import Array, Namespace
from mlpass.runtime.kernels.registry import kernel

Activation = Callable[[Array], Array]


def activation_of(xp: Namespace, name: str) -> Activation:
    """Returns an activation function; those with parameters have their standard ones.

    Raises:
        ValueError: there is no activation of that name.
    """
    known: dict[str, Activation] = {
        "tanh": xp.tanh,
        "scaled_tanh": xp.tanh,
        "sigmoid": lambda x: _sigmoid(xp, x),
        "hard_sigmoid": lambda x: xp.clip(0.2 * x + 0.5, 0.0, 1.0),
        "sigmoid_hard": lambda x: xp.clip(0.2 * x + 0.5, 0.0, 1.0),
        "relu": lambda x: xp.clip(x, 0.0, None),
        "linear": lambda x: x,
    }
    if name.lower() not in known:
        raise ValueError(f"activation: one of {', '.join(known)} expected. Got {name!r}.")
    return known[name.lower()]


def _sigmoid(xp: Namespace, x: Array) -> Array:
    # By tanh, which neither overflows nor loses small values.
    return 0.5 * xp.tanh(0.5 * x) + 0.5


def check_direction(direction: str, known: Sequence[str]) -> str:
    """Returns the direction; raises a ValueError where it is not one of `known`."""
    if direction not in known:
        raise ValueError(f"direction: one of {', '.join(known)} expected. Got {direction!r}.")
    return direction


def _steps(x: Array, reverse: bool) -> list[int]:
    return list(range(x.shape[0]))[:: -1 if reverse else 1]


def _projected(xp: Namespace, x: Array, weight: Array, *biases: Array | None) -> Array:
    """x (steps, batch, in), weight (gates, in), biases (gates,) -> (steps, batch, gates)."""
    steps, batch, size = x.shape
    # One product of two matrices: numpy makes one a step of it otherwise.
    flat = xp.matmul(xp.reshape(x, (steps * batch, size)), xp.matrix_transpose(weight))
    for bias in biases:
        if bias is not None:
            flat = flat + bias
    return xp.reshape(flat, (steps, batch, weight.shape[0]))


def _sequence(xp: Namespace, states: list[Array], output_sequence: bool) -> Array:
    """Returns the states of all steps, or the last one alone, as (steps, batch, hidden)."""
    return xp.stack(states if output_sequence else states[-1:], axis=0)


@kernel("rnn")
def rnn(
    xp: Namespace,
    *,
    x: Array,
    initial_h: Array,
    weight_ih: Array,
    weight_hh: Array,
    bias: Array | None = None,
    direction: str = "forward",
    output_sequence: bool = False,
    activation: str = "tanh",
) -> tuple[Array, Array]:
    """x (steps, batch, in), initial_h (batch, hidden), weight_ih (hidden, in), ...

    -> states (steps or 1, batch, hidden), last state (batch, hidden).
    """
    reverse = check_direction(direction, ("forward", "reverse")) == "reverse"
    act = activation_of(xp, activation)
    inputs = _projected(xp, x, weight_ih, bias)
    recurrent = xp.matrix_transpose(weight_hh)
    h, states = initial_h, []
    for step in _steps(x, reverse):
        h = act(inputs[step, ...] + xp.matmul(h, recurrent))
        states.append(h)
    return _sequence(xp, states, output_sequence), h


@kernel("gru")
def gru_ios13(
    xp: Namespace,
    *,
    x: Array,
    initial_h: Array,
    weight_ih: Array,
    weight_hh: Array,
    bias: Array | None = None,
    direction: str = "forward",
    output_sequence: bool = False,
    recurrent_activation: str = "sigmoid",
    activation: str = "tanh",
) -> tuple[Array, Array]:
    """See iOS18's: the reset gate is applied before the product."""
    return gru(
        xp,
        x=x,
        initial_h=initial_h,
        weight_ih=weight_ih,
        weight_hh=weight_hh,
        bias=bias,
        direction=direction,
        output_sequence=output_sequence,
        recurrent_activation=recurrent_activation,
        activation=activation,
    )


@kernel("gru", since=18)
def gru(
    xp: Namespace,
    *,
    x: Array,
    initial_h: Array,
    weight_ih: Array,
    weight_hh: Array,
    bias: Array | None = None,
    direction: str = "forward",
    output_sequence: bool = False,
    recurrent_activation: str = "sigmoid",
    activation: str = "tanh",
    reset_after: bool = False,
    input_bias: Array | None = None,
) -> tuple[Array, Array]:
    """x (steps, batch, in), initial_h (batch, hidden), weight_ih (3 hidden, in), ...

    -> states (steps or 1, batch, hidden), last state (batch, hidden). Gates are in the order reset,
    output, update. The output gate sees

        reset_after:  W_ih x + input_bias + reset * (W_hh h + bias)
        otherwise:    W_ih x + input_bias + bias + W_hh (reset * h)
    """
    reverse = check_direction(direction, ("forward", "reverse")) == "reverse"
    gate, act = activation_of(xp, recurrent_activation), activation_of(xp, activation)
    hidden, after = weight_hh.shape[1], reset_after
    inputs = _projected(xp, x, weight_ih, input_bias, None if after else bias)
    recurrent = xp.matrix_transpose(weight_hh)  # (hidden, 3 hidden)
    output_part = slice(hidden, 2 * hidden)
    if not after:
        gates_part = xp.concat([recurrent[:, :hidden], recurrent[:, 2 * hidden :]], axis=1)
        output_weight = recurrent[:, output_part]
    h, states = initial_h, []
    for step in _steps(x, reverse):
        given = inputs[step, ...]
        if after:
            own = xp.matmul(h, recurrent)
            own = own if bias is None else own + bias
            reset = gate(given[:, :hidden] + own[:, :hidden])
            update = gate(given[:, 2 * hidden :] + own[:, 2 * hidden :])
            output = act(given[:, output_part] + reset * own[:, output_part])
        else:
            own = xp.matmul(h, gates_part)
            reset = gate(given[:, :hidden] + own[:, :hidden])
            update = gate(given[:, 2 * hidden :] + own[:, hidden:])
            output = act(given[:, output_part] + xp.matmul(reset * h, output_weight))
        h = output + update * (h - output)
        states.append(h)
    return _sequence(xp, states, output_sequence), h


@kernel("lstm")
def lstm(
    xp: Namespace,
    *,
    x: Array,
    initial_h: Array,
    initial_c: Array,
    weight_ih: Array,
    weight_hh: Array,
    bias: Array | None = None,
    peephole: Array | None = None,
    weight_ih_back: Array | None = None,
    weight_hh_back: Array | None = None,
    bias_back: Array | None = None,
    peephole_back: Array | None = None,
    direction: str = "forward",
    output_sequence: bool = False,
    recurrent_activation: str = "sigmoid",
    cell_activation: str = "tanh",
    activation: str = "tanh",
    clip: float | None = None,
) -> tuple[Array, Array, Array]:
    """x (steps, batch, in), initial_h and initial_c (batch, directions * hidden), ...

    -> states (steps or 1, batch, directions * hidden), last state and last cell (batch, ...). Gates
    are in the order input, forget, output, cell; peepholes input, forget, output. The last state of
    the backward direction is the one after the first step of x.
    """
    check_direction(direction, ("forward", "reverse", "bidirectional"))
    acts = [activation_of(xp, name) for name in (recurrent_activation, cell_activation, activation)]
    if direction != "bidirectional":
        return _one_direction(
            xp, x, initial_h, initial_c, weight_ih, weight_hh, bias, peephole,
            direction == "reverse", output_sequence, acts, clip,
        )  # fmt: skip
    if weight_ih_back is None or weight_hh_back is None:
        raise ValueError("a bidirectional lstm needs weight_ih_back and weight_hh_back")
    hidden = weight_hh.shape[1]
    forward = _one_direction(
        xp, x, initial_h[:, :hidden], initial_c[:, :hidden], weight_ih, weight_hh, bias, peephole,
        False, output_sequence, acts, clip,
    )  # fmt: skip
    backward = _one_direction(
        xp, x, initial_h[:, hidden:], initial_c[:, hidden:], weight_ih_back, weight_hh_back,
        bias_back, peephole_back, True, output_sequence, acts, clip,
    )  # fmt: skip
    # Beside the forward states, the backward ones are in the order of x.
    backward = (xp.flip(backward[0], axis=0), *backward[1:])
    states, h, c = (xp.concat(both, axis=-1) for both in zip(forward, backward, strict=True))
    return states, h, c


def _one_direction(
    xp: Namespace,
    x: Array,
    h: Array,
    c: Array,
    weight_ih: Array,
    weight_hh: Array,
    bias: Array | None,
    peephole: Array | None,
    reverse: bool,
    output_sequence: bool,
    acts: Sequence[Activation],
    limit: float | None,
) -> tuple[Array, Array, Array]:
    gate, cell_act, act = acts
    hidden = weight_hh.shape[1]
    inputs = _projected(xp, x, weight_ih, bias)
    recurrent = xp.matrix_transpose(weight_hh)
    states = []
    for step in _steps(x, reverse):
        sums = inputs[step, ...] + xp.matmul(h, recurrent)
        if peephole is None:
            gates = gate(sums[:, : 3 * hidden])
            i, f, o = (gates[:, k * hidden : (k + 1) * hidden] for k in range(3))
        else:
            i, f = (
                gate(sums[:, part] + c * peephole[part])
                for part in (slice(0, hidden), slice(hidden, 2 * hidden))
            )
        c = f * c + i * cell_act(sums[:, 3 * hidden :])
        if limit is not None:
            c = xp.clip(c, -limit, limit)
        if peephole is not None:
            part = slice(2 * hidden, 3 * hidden)
            o = gate(sums[:, part] + c * peephole[part])
        h = o * act(c)
        states.append(h)
    return _sequence(xp, states, output_sequence), h, c
