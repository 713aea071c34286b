"""Recurrent layers on torch: its own where it has the op, else few calls a step.

What neither serves (other activations, peepholes, clipping) the common kernels do, on tensors.
"""

from __future__ import annotations

import torch
import torch.nn.functional as functional
from torch import Tensor

from mlpass.arrays import Array, Namespace
from mlpass.runtime.kernels import recurrent
from mlpass.runtime.kernels.registry import kernel

_RNN = {"tanh": torch.rnn_tanh, "scaled_tanh": torch.rnn_tanh, "relu": torch.rnn_relu}


def _is_named(name: str, *known: str) -> bool:
    return name.lower() in known


def _biases(bias: Tensor | None, like: Tensor) -> list[Tensor]:
    """Returns torch's two biases: MIL's one, and zeros."""
    given = like.new_zeros(like.shape[0]) if bias is None else bias
    return [given, torch.zeros_like(given)]


@kernel("rnn", backend="torch")
def rnn(
    xp: Namespace,
    *,
    x: Tensor,
    initial_h: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias: Tensor | None = None,
    direction: str = "forward",
    output_sequence: bool = False,
    activation: str = "tanh",
) -> tuple[Array, Array]:
    """x (steps, batch, in) -> states (steps or 1, batch, hidden), last state (batch, hidden)."""
    recurrent.check_direction(direction, ("forward", "reverse"))
    native = _RNN.get(activation.lower())
    if native is None:
        return recurrent.rnn(
            xp,
            x=x,
            initial_h=initial_h,
            weight_ih=weight_ih,
            weight_hh=weight_hh,
            bias=bias,
            direction=direction,
            output_sequence=output_sequence,
            activation=activation,
        )
    if direction == "reverse":
        x = torch.flip(x, (0,))
    weights = [weight_ih, weight_hh, *_biases(bias, weight_ih)]
    states, h = native(x, initial_h[None], weights, True, 1, 0.0, False, False, False)
    return states if output_sequence else states[-1:], h[0]


@kernel("lstm", backend="torch")
def lstm(
    xp: Namespace,
    *,
    x: Tensor,
    initial_h: Tensor,
    initial_c: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias: Tensor | None = None,
    peephole: Tensor | None = None,
    weight_ih_back: Tensor | None = None,
    weight_hh_back: Tensor | None = None,
    bias_back: Tensor | None = None,
    peephole_back: Tensor | None = None,
    direction: str = "forward",
    output_sequence: bool = False,
    recurrent_activation: str = "sigmoid",
    cell_activation: str = "tanh",
    activation: str = "tanh",
    clip: float | None = None,
) -> tuple[Array, Array, Array]:
    """x (steps, batch, in) -> states (steps or 1, batch, ...), last state and cell (batch, ...)."""
    both = direction == "bidirectional"
    plain = (
        _is_named(recurrent_activation, "sigmoid")
        and _is_named(cell_activation, "tanh", "scaled_tanh")
        and _is_named(activation, "tanh", "scaled_tanh")
        and clip is None
        and peephole is None
        and peephole_back is None
    )
    if not plain or (both and (weight_ih_back is None or weight_hh_back is None)):
        return recurrent.lstm(
            xp,
            x=x,
            initial_h=initial_h,
            initial_c=initial_c,
            weight_ih=weight_ih,
            weight_hh=weight_hh,
            bias=bias,
            peephole=peephole,
            weight_ih_back=weight_ih_back,
            weight_hh_back=weight_hh_back,
            bias_back=bias_back,
            peephole_back=peephole_back,
            direction=direction,
            output_sequence=output_sequence,
            recurrent_activation=recurrent_activation,
            cell_activation=cell_activation,
            activation=activation,
            clip=clip,
        )
    recurrent.check_direction(direction, ("forward", "reverse", "bidirectional"))
    if direction == "reverse":
        x = torch.flip(x, (0,))
    parts = [(weight_ih, weight_hh, bias)]
    if both and weight_ih_back is not None and weight_hh_back is not None:
        parts.append((weight_ih_back, weight_hh_back, bias_back))
    weights: list[Tensor] = [
        _torch_gates(part)
        for from_input, from_state, given in parts
        for part in (from_input, from_state, *_biases(given, from_input))
    ]
    count, batch = len(parts), x.shape[1]
    # (batch, directions * hidden) <-> (directions, batch, hidden)
    h, c = (
        state.reshape(batch, count, state.shape[-1] // count).permute(1, 0, 2).contiguous()
        for state in (initial_h, initial_c)
    )
    states, h, c = torch.lstm(x, (h, c), weights, True, 1, 0.0, False, both, False)
    h, c = (state.permute(1, 0, 2).reshape(batch, count * state.shape[-1]) for state in (h, c))
    return states if output_sequence else h[None], h, c


def _torch_gates(part: Tensor) -> Tensor:
    """Returns gates of the order input, forget, output, cell in torch's, which has output last."""
    i, f, o, z = torch.chunk(part, 4)
    return torch.cat((i, f, z, o))


@kernel("gru", since=18, backend="torch")
def gru(
    xp: Namespace,
    *,
    x: Tensor,
    initial_h: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias: Tensor | None = None,
    direction: str = "forward",
    output_sequence: bool = False,
    recurrent_activation: str = "sigmoid",
    activation: str = "tanh",
    reset_after: bool = False,
    input_bias: Tensor | None = None,
) -> tuple[Array, Array]:
    """x (steps, batch, in) -> states (steps or 1, batch, hidden), last state (batch, hidden)."""
    recurrent.check_direction(direction, ("forward", "reverse"))
    if direction == "reverse":
        x = torch.flip(x, (0,))
    plain = _is_named(recurrent_activation, "sigmoid") and _is_named(
        activation, "tanh", "scaled_tanh"
    )
    if plain and reset_after:  # torch's gru only resets after the product
        zeros = weight_ih.new_zeros(weight_ih.shape[0])
        weights = []
        for part in (weight_ih, weight_hh, input_bias, bias):
            reset, output, update = torch.chunk(zeros if part is None else part, 3)
            weights.append(torch.cat((reset, update, output)))
        states, h = torch.gru(x, initial_h[None], weights, True, 1, 0.0, False, False, False)
        return states if output_sequence else states[-1:], h[0]
    if plain:
        made = _gru_steps(x, initial_h, weight_ih, weight_hh, bias, input_bias)
        return torch.stack(made if output_sequence else made[-1:]), made[-1]
    return recurrent.gru(
        xp,
        x=x,
        initial_h=initial_h,
        weight_ih=weight_ih,
        weight_hh=weight_hh,
        bias=bias,
        output_sequence=output_sequence,
        recurrent_activation=recurrent_activation,
        activation=activation,
        reset_after=reset_after,
        input_bias=input_bias,
    )


def _gru_steps(
    x: Tensor,
    h: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias: Tensor | None,
    input_bias: Tensor | None,
) -> list[Tensor]:
    """Returns the states of a gru that resets before the product: few calls a step."""
    hidden = weight_hh.shape[1]
    biases = [part for part in (bias, input_bias) if part is not None]
    both = sum(biases)
    inputs = functional.linear(x, weight_ih, both if isinstance(both, torch.Tensor) else None)
    reset, output, update = torch.chunk(inputs, 3, dim=-1)
    gates = torch.cat((reset, update), dim=-1).unbind()
    weight = weight_hh.t()
    gates_weight = torch.cat((weight[:, :hidden], weight[:, 2 * hidden :]), dim=1)
    output_weight = weight[:, hidden : 2 * hidden].contiguous()
    states = []
    for given, wanted in zip(gates, output.unbind(), strict=True):
        r, z = torch.addmm(given, h, gates_weight).sigmoid().chunk(2, dim=1)
        h = torch.lerp(torch.addmm(wanted, r * h, output_weight).tanh(), h, z)
        states.append(h)
    return states


@kernel("gru", backend="torch")
def gru_ios13(
    xp: Namespace,
    *,
    x: Tensor,
    initial_h: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias: Tensor | None = None,
    direction: str = "forward",
    output_sequence: bool = False,
    recurrent_activation: str = "sigmoid",
    activation: str = "tanh",
) -> tuple[Array, Array]:
    """x (steps, batch, in) -> states (steps or 1, batch, hidden), last state (batch, hidden)."""
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
