"""YAML files, which may be anybody's: read, or refused in one line."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

from mlpass.errors import ConfigError
from mlpass.files import check_regular, naming

_MOST_VALUES = 1_000_000
_BAD_YAML = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError)


def read_yaml(path: str | os.PathLike[str]) -> object:
    """Returns what a YAML file says.

    Raises:
        ConfigError: it is not YAML, or comes to far too much.
        OSError: it cannot be read.
    """
    import yaml

    check_regular(Path(path), ConfigError)
    with naming(Path(path)), open(path, encoding="utf-8") as file:
        try:
            loader = yaml.SafeLoader(file)
            try:
                node = loader.get_single_node()
                if _expanded(node, {}) > _MOST_VALUES:
                    raise ConfigError(
                        f"{os.fspath(path)}: its anchors (&, *) repeat values too often, or "
                        "within themselves"
                    )
                return None if node is None else loader.construct_document(node)
            finally:
                loader.dispose()
        except _BAD_YAML as error:
            if isinstance(error, ConfigError):
                raise
            # A scalar that is not of its kind is told in Python's words, or in none.
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ConfigError(f"{os.fspath(path)}: is not YAML: {reason}") from None
        except yaml.YAMLError as error:
            reason = " ".join(str(error).split())
            raise ConfigError(f"{os.fspath(path)}: is not YAML: {reason}") from None


def _expanded(node: Any, known: dict[int, float]) -> float:
    """Returns how many values a YAML node comes to, what is repeated by anchors each time anew."""
    if node is None:
        return 0
    if id(node) not in known:
        known[id(node)] = math.inf  # of what holds itself
        children = node.value if isinstance(node.value, list) else []
        pairs = (each if isinstance(each, tuple) else (each,) for each in children)
        known[id(node)] = 1 + sum(_expanded(one, known) for pair in pairs for one in pair)
    return known[id(node)]
