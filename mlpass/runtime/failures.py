"""What went wrong while a program ran, in one line: the sample, the op, what the op was given."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from mlpass.errors import ExecutionError, InputError
from mlpass.program.ir import Op
from mlpass.runtime.ops import label_of


def failure(
    op: Op, error: Exception, arguments: Mapping[str, object] | None = None
) -> ExecutionError:
    """Returns an error that says which op failed, how, and on what.

    Args:
        op: the op.
        error: what was raised.
        arguments: that the op was given; None before they are read.
    """
    given = "" if arguments is None else f" (arguments: {_described(arguments)})"
    return ExecutionError(f"{title_of(op)}: {type(error).__name__}: {error}{given}")


def title_of(op: Op) -> str:
    """Returns an op's type and what to call it."""
    return f"{op.type} {label_of(op)!r}"


def sample_label(number: int, step: int = 0, steps: int = 1) -> str:
    """Returns what to call a step of a sample in a message: of most samples, there is but one."""
    return f"sample {number}, step {step}" if steps > 1 else f"sample {number}"


@contextmanager
def of_sample(number: int, step: int = 0, steps: int = 1) -> Iterator[None]:
    """Has what fails within name the sample that it failed on.

    Args:
        number: of the sample.
        step: the number of the step that runs within.
        steps: how many the sample has.

    Raises:
        ExecutionError: an op failed.
        InputError: something does not fit.
    """
    try:
        yield
    except (ExecutionError, InputError) as error:
        # Not from the error itself, whose text this one has.
        raise type(error)(f"{sample_label(number, step, steps)}: {error}") from error.__cause__


def _described(arguments: Mapping[str, object]) -> str:
    return ", ".join(f"{name}={_shape_of(value)}" for name, value in arguments.items())


def _shape_of(value: Any) -> str:
    if isinstance(value, tuple):
        return f"({', '.join(map(_shape_of, value))})"
    if not hasattr(value, "shape"):
        return repr(value)[:40]
    small = tuple(value.shape) in ((), (1,), (2,), (3,), (4,))
    text = f"{tuple(value.shape)}"
    return f"{text} {value.tolist()}" if small else text
