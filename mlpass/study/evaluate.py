"""The user's own measure of a model, whatever it does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mlpass.errors import ConfigError, Terminated, brief

Evaluate = Callable[[str], float]


def evaluated(evaluate: Evaluate, path: str) -> float:
    """Returns what a user's function gives for the package at a path.

    Raises:
        ConfigError: it fails, ends the program, or gives no number.
    """
    try:
        given: Any = evaluate(path)
    except Terminated:
        raise
    except (Exception, SystemExit) as error:
        raise ConfigError(f"evaluate: raised {_told(error)}") from error
    try:
        return float(given)
    except Exception as error:
        raise ConfigError(
            f"evaluate: must return a number. Got {brief(given)}: {_told(error)}"
        ) from error


def _told(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
