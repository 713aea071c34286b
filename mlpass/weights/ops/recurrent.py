"""Recurrent layers: what meets the weights are the steps of x, and the hidden states."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from math import prod
from typing import Any

from mlpass.arrays import Array, Namespace
from mlpass.runtime.kernels.registry import Arguments, Kernel
from mlpass.weights.ops.products import linear_inputs, plain_layout
from mlpass.weights.ops.record import WeightOp, register

_BACK = ("weight_ih", "weight_hh", "bias", "peephole")
_STATES = ("initial_h", "initial_c")


def input_states(
    parameter: str, xp: Namespace, arguments: Arguments, kernel: Kernel, position: int
) -> Iterator[Array]:
    """Yields the hidden states that each step begins with, in their order, (1, samples, columns).

    A third of a `gru`'s rows, those of the output gate, meet `reset * h` unless `reset_after`. All
    rows of a matrix share their inputs, so h, which the other two thirds meet, stands for it.
    """
    own = _one_direction(arguments, back=parameter.endswith("_back"))
    states = kernel(xp, **{**own, "output_sequence": True})[0]
    first = own["initial_h"]
    # Also under "reverse" the states come out in the order in which they are made.
    before = xp.concat([xp.reshape(first, (1, *first.shape)), states[:-1, ...]], axis=0)
    yield xp.reshape(before, (1, prod(before.shape[:-1]), before.shape[-1]))


def _one_direction(arguments: Arguments, *, back: bool) -> dict[str, Any]:
    """Returns the arguments of one direction of a bidirectional op; of any other its own."""
    if arguments.get("direction") != "bidirectional":
        return dict(arguments)
    own = {name: value for name, value in arguments.items() if not name.endswith("_back")}
    hidden = arguments["weight_hh"].shape[1]
    part = slice(hidden, None) if back else slice(None, hidden)
    own.update((name, arguments[name][:, part]) for name in _STATES)
    if back:
        own.update((name, arguments.get(f"{name}_back")) for name in _BACK)
    return {**own, "direction": "reverse" if back else "forward"}


def _register(op_type: str, *beside: str, suffixes: Sequence[str] = ("",)) -> None:
    for suffix in suffixes:
        states = partial(input_states, f"weight_hh{suffix}")
        for parameter, inputs in (
            (f"weight_ih{suffix}", linear_inputs),
            (f"weight_hh{suffix}", states),
        ):
            layout = partial(plain_layout, f"{op_type}.{parameter}")
            register(WeightOp(op_type, parameter, layout, inputs, beside=frozenset(beside)))


_register("lstm", "bias", "bias_back", "peephole", "peephole_back", suffixes=("", "_back"))
_register("gru", "bias", "input_bias")
_register("rnn", "bias")
