"""Arguments that steer an op rather than flow through it: shapes, axes, flags, words.

They reach a kernel as whatever holds them: a Python value, a numpy array, or an array of the
backend that the program computed at run time.
"""

from __future__ import annotations

from typing import Any


def ints(value: Any) -> list[int]:
    """Returns a shape, a list of axes or the like as Python ints; one int alone as a list of it."""
    listed = value.tolist() if hasattr(value, "tolist") else value
    return list(map(int, listed)) if isinstance(listed, (list, tuple)) else [int(listed)]


def maybe_ints(value: Any) -> tuple[int, ...] | None:
    """Returns the same as a tuple, or None where nothing is given."""
    return None if value is None else tuple(ints(value))


def integer(value: Any) -> int:
    """Returns one int; an array must hold a single element."""
    if type(value) is int:
        return value
    (single,) = ints(value)
    return single


def number(value: Any) -> float:
    """Returns one float; an array must hold a single element."""
    return float(value.reshape(()) if hasattr(value, "reshape") else value)


def flag(value: Any) -> bool:
    """Returns one bool; an array must hold a single element."""
    return bool(value.reshape(()) if hasattr(value, "reshape") else value)


def flags(value: Any) -> list[bool]:
    """Returns a list of bools."""
    return [bool(item) for item in (value.tolist() if hasattr(value, "tolist") else value)]
