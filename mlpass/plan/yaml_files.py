"""YAML files, which may be anybody's: read, or refused in one line."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from mlpass.errors import ConfigError, brief
from mlpass.files import check_regular, naming

if TYPE_CHECKING:
    from yaml import SafeLoader
    from yaml.nodes import Node

_MOST_VALUES = 1_000_000
_BAD_YAML = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError)


def read_yaml(path: str | os.PathLike[str]) -> object:
    """Returns what a YAML file says.

    Raises:
        ConfigError: it is not YAML, says one thing twice, or comes to far too much.
        OSError: it cannot be read.
    """
    import yaml

    check_regular(Path(path), ConfigError)
    with naming(Path(path)), open(path, "rb") as file:  # its encoding is told by its first bytes
        try:
            return _content(yaml.SafeLoader(file))
        except ConfigError as error:
            raise ConfigError(f"{os.fspath(path)}: {error}") from None
        except RecursionError:
            reason = "it nests too deeply"
        except _BAD_YAML as error:
            # A scalar that is not of its kind is told in Python's words, or in none.
            words = " ".join(str(error).split()) or type(error).__name__
            reason = f"a value is not of the kind that it has by its looks or its tag ({words})"
        except yaml.YAMLError as error:
            reason = " ".join(str(error).split())
    raise ConfigError(f"{os.fspath(path)}: is not YAML: {reason}")


def _content(loader: SafeLoader) -> object:
    """Returns what a document says; raises ConfigError where that is too much, or twice."""
    try:
        node = loader.get_single_node()
        if _expanded(node, {}) > _MOST_VALUES:
            raise ConfigError("its anchors (&, *) repeat values too often, or within themselves")
        for key, first, other in _repeated(node):
            raise ConfigError(
                f"{brief(key)} is there twice, in lines {first} and {other}; keep one of them"
            )
        return None if node is None else loader.construct_document(node)
    finally:
        loader.dispose()


def _repeated(root: Node | None) -> Iterator[tuple[str, int, int]]:
    """Yields the keys that a mapping has twice, with both lines: YAML takes the last in silence."""
    left, seen = [root], {id(root)}
    while left:
        node = left.pop()
        if node is None or not isinstance(node.value, list):
            continue
        lines: dict[tuple[str, str], int] = {}
        for each in node.value:
            if isinstance(each, tuple) and isinstance(each[0].value, str):
                key, line = each[0], each[0].start_mark.line + 1
                if (key.tag, key.value) in lines:
                    yield key.value, lines[key.tag, key.value], line
                lines[key.tag, key.value] = line
            for one in each if isinstance(each, tuple) else (each,):
                if id(one) not in seen:
                    seen.add(id(one))
                    left.append(one)


def _expanded(node: Node | None, known: dict[int, float]) -> float:
    """Returns how many values a YAML node comes to, what is repeated by anchors each time anew."""
    if node is None:
        return 0
    if id(node) not in known:
        known[id(node)] = math.inf  # of what holds itself
        children = node.value if isinstance(node.value, list) else []
        pairs = (each if isinstance(each, tuple) else (each,) for each in children)
        known[id(node)] = 1 + sum(_expanded(one, known) for pair in pairs for one in pair)
    return known[id(node)]
