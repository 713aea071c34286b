"""Arguments of kernels, by the annotations of their parameters.

An attribute says how (axes, sizes, flags, words) and flows through nothing: a kernel is given it as
the Python value that it is annotated as. Anything else is an array, or what kernels make. A
parameter that is a `Sequence` takes several arguments, even where a program gives one.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, NamedTuple

Reader = Callable[[object], object]


class Kinds(NamedTuple):
    """What the parameters of a kernel are.

    Attributes:
        attributes: what reads each attribute, or each of its items where it is variadic.
        variadic: those that take several arguments.
    """

    attributes: Mapping[str, Reader]
    variadic: frozenset[str]


def ints(value: object) -> tuple[int, ...]:
    """Returns a shape, a list of axes or the like as Python ints; one int alone as a list of it."""
    listed = _listed(value)
    return tuple(map(int, listed)) if isinstance(listed, (list, tuple)) else (int(listed),)


def _listed(value: object) -> Any:
    return value.tolist() if hasattr(value, "tolist") else value


def flags(value: object) -> tuple[bool, ...]:
    """Returns a list of bools."""
    return tuple(map(bool, _listed(value)))


def rows(value: object) -> tuple[tuple[int, ...], ...]:
    """Returns rows of ints."""
    return tuple(map(ints, _listed(value)))


def integer(value: object) -> int:
    """Returns one int; an array must hold a single element."""
    if type(value) is int:
        return value
    (single,) = ints(value)
    return single


def number(value: object) -> float:
    """Returns one float; an array must hold a single element."""
    single: Any = value
    return float(single.reshape(()) if hasattr(single, "reshape") else single)


def flag(value: object) -> bool:
    """Returns one bool; an array must hold a single element."""
    return bool(value.reshape(()) if hasattr(value, "reshape") else value)


_READERS: dict[str, Reader] = {
    "int": integer,
    "float": number,
    "bool": flag,
    "tuple[int, ...]": ints,
    "tuple[bool, ...]": flags,
    "tuple[tuple[int, int], ...]": rows,
}


@cache
def kinds_of(function: Callable[..., object]) -> Kinds:
    """Returns what the annotated parameters of a kernel are."""
    attributes, variadic = {}, set()
    for parameter, annotation in annotations_of(function).items():
        kind = annotation.removesuffix(" | None")
        if kind.startswith(("Sequence[", "collections.abc.Sequence[")):
            variadic.add(parameter)
            kind = kind[kind.index("[") + 1 : -1]
        if kind in _READERS:
            attributes[parameter] = _READERS[kind]
    return Kinds(attributes, frozenset(variadic))


def read(kinds: Kinds, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Returns arguments, in whatever form they come, as a kernel is given them."""
    given = dict(arguments)
    for parameter, reader in kinds.attributes.items():
        value = given.get(parameter)
        if value is not None:
            several = parameter in kinds.variadic
            given[parameter] = tuple(map(reader, value)) if several else reader(value)
    return given


@cache
def annotations_of(function: Callable[..., object]) -> Mapping[str, str]:
    """Returns the text of each annotation: it names types that need not be there at run time."""
    written: dict[str, object] = getattr(function, "__annotations__", {})
    return {
        parameter: kind if isinstance(kind, str) else inspect.formatannotation(kind)
        for parameter, kind in written.items()
    }
