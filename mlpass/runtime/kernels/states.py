"""States: tensors that live on between predictions, read and replaced as a whole.

A state reaches its kernels as a cell, the one thing here that is written to. The array in it is
replaced and never changed, so values read before a write stay what they were.
"""

from __future__ import annotations

from dataclasses import dataclass

from mlpass.arrays import Array, Namespace
from mlpass.runtime.kernels.registry import kernel


@dataclass(eq=False)
class Cell:
    """One state of one conversation with a model."""

    value: Array


@kernel("read_state", since=18)
def read_state(xp: Namespace, *, input: Cell) -> Array:
    """input a state -> the array it holds."""
    return input.value


@kernel("write_state", since=18)
def write_state(xp: Namespace, *, input: Cell, data: Array) -> tuple[()]:
    """input a state, data (...) of its shape -> nothing; the state holds the data."""
    input.value = data
    return ()


@kernel("coreml_update_state", since=18)
def coreml_update_state(xp: Namespace, *, state: Cell, value: Array) -> Array:
    """state, value (...) of its shape -> the value, which the state then holds."""
    state.value = value
    return value
