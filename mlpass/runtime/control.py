"""Control flow: ops whose nested blocks the program runs as it comes to them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from mlpass.runtime.kernels.arguments import flag

_ROUNDS = 1_000_000  # a loop that makes more of them never ends, as far as anybody can tell


class RunBlock(Protocol):
    """Runs the op's nested block of that number on arguments, and returns its results."""

    def __call__(self, number: int, arguments: Sequence[object] = ()) -> tuple[object, ...]:
        """Runs block `number`."""


def cond(run: RunBlock, *, pred: bool) -> tuple[object, ...]:
    """pred () -> the results of block 0 where it holds, else of block 1."""
    return run(0 if pred else 1)


def while_loop(run: RunBlock, *, loop_vars: Sequence[object]) -> tuple[object, ...]:
    """loop_vars, run through block 1 as long as block 0 says so -> their last values."""
    values = tuple(loop_vars)
    rounds = 0
    while flag(run(0, values)[0]):
        if rounds == _ROUNDS:
            raise ValueError(f"it has not come to its end after {rounds} rounds")
        values = run(1, values)
        rounds += 1
    return values


CONTROL: dict[str, Callable[..., tuple[object, ...]]] = {"cond": cond, "while_loop": while_loop}
BLOCKS = {"cond": 2, "while_loop": 2}
