"""Records held against their own annotations, where they come from a file that may be broken."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import is_dataclass
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints


def check_types(record: object) -> None:
    """Raises TypeError where a field of a record, or of one within it, is not what it should be."""
    kinds = get_type_hints(type(record))
    for name in kinds.keys() & record.__dict__.keys():  # not those of its class alone
        value, kind = getattr(record, name), kinds[name]
        if not _fits(value, kind):
            raise TypeError(f"{type(record).__name__}.{name} is a {type(value).__name__}")


def _fits(value: object, kind: Any) -> bool:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return any(_fits(value, one) for one in arguments)
    if origin is tuple:
        return isinstance(value, tuple) and all(_fits(one, arguments[0]) for one in value)
    if origin is not None:  # a mapping
        keys, values = arguments
        return isinstance(value, Mapping) and all(
            _fits(key, keys) and _fits(one, values) for key, one in value.items()
        )
    if isinstance(kind, type) and is_dataclass(kind) and isinstance(value, kind):
        check_types(value)
    if isinstance(value, bool):
        return kind in (bool, Any)
    return kind is Any or isinstance(value, (int, float) if kind is float else kind)
