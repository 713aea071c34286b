"""JSON as every reader takes it: it has no NaN and no infinities, so neither has what is written.

A report has null in their place. What is kept to be read back says which of them it was.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any

_KEPT = "nonfinite"


def plain(content: Mapping[str, object]) -> dict[str, object]:
    """Returns content as dicts, lists, texts and finite numbers; None for a number that is not."""
    found: dict[str, object] = _each(content, lambda _: None)
    return found


def to_json(content: object, *, indent: int | None = None) -> str:
    """Returns content as JSON.

    Raises:
        TypeError: there is something in it that JSON has no form for.
    """
    return json.dumps(_each(content, lambda _: None), indent=indent, allow_nan=False)


def keep(content: object) -> str:
    """Returns content as JSON that `kept` reads back as it was, NaN and infinities included.

    Raises:
        TypeError: there is something in it that JSON has no form for.
    """
    return to_json(_each(content, lambda number: {_KEPT: str(number)}))


def kept(text: str) -> Any:
    """Returns the content that `keep` wrote.

    Raises:
        ValueError: the text is not JSON.
    """
    return json.loads(text, object_hook=_restored)


def _restored(found: dict[str, Any]) -> Any:
    return float(found[_KEPT]) if found.keys() == {_KEPT} else found


def _each(content: object, replaced: Callable[[float], object]) -> Any:
    """Returns content with each number that is not finite replaced."""
    if isinstance(content, Mapping):
        return {key: _each(value, replaced) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_each(value, replaced) for value in content]
    if isinstance(content, float) and not math.isfinite(content):
        return replaced(content)
    return content
