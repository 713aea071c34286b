"""Findings that say the same of several places, as one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any, TypeVar

Told = TypeVar("Told")


def gathered(found: Iterable[Told], places: str, processor: str | None) -> Iterator[Told]:
    """Yields findings once each, in the order that they first came, with all their places.

    Args:
        found: frozen dataclasses, with a `processor` that one may be about alone.
        places: the name of the field that lists where one is.
        processor: to leave out what is about others; None for all.
    """
    by_text: dict[Any, list[str]] = {}
    for each in found:
        one: Any = each
        if one.processor in (None, processor or one.processor):
            by_text.setdefault(replace(one, **{places: ()}), []).extend(getattr(one, places))
    for key, names in by_text.items():
        yield replace(key, **{places: tuple(names)})
