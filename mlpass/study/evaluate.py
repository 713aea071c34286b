"""The user's own measure of a model, whatever it does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mlpass.errors import ENDS, ConfigError, brief, told

Evaluate = Callable[[str], float]


def evaluated(evaluate: Evaluate, path: str) -> float:
    """Returns what a user's function gives for the package at a path.

    Raises:
        ConfigError: it fails, ends the program, or gives no number.
    """
    try:
        given: Any = evaluate(path)
    except ENDS:
        raise
    except BaseException as error:
        raise ConfigError(f"evaluate: raised {told(error)}") from error
    try:
        return float(given)
    except ENDS:
        raise
    except BaseException as error:
        raise ConfigError(
            f"evaluate: must return a number. Got {brief(given)}: {told(error)}"
        ) from error
