"""Where packages are written: one place, or one for each of several."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TypeAlias

from mlpass.errors import ConfigError

Targets: TypeAlias = "str | os.PathLike[str] | Sequence[str | os.PathLike[str]]"


def each_of(target: Targets) -> Sequence[str | os.PathLike[str]]:
    """Returns all places."""
    return [target] if isinstance(target, str | os.PathLike) else target


def single(target: Targets) -> str | os.PathLike[str]:
    """Returns where one package is to be written.

    Raises:
        ConfigError: there are several places.
    """
    if isinstance(target, str | os.PathLike):
        return target
    raise ConfigError(f"output: one model is written to one package. Got a list of {len(target)}.")


def named(target: Targets) -> str:
    """Returns the places as text."""
    return ", ".join(os.fspath(each) for each in each_of(target))
