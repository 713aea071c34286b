"""The user's own measure of a model, whatever it does."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any, NoReturn

import numpy as np

from mlpass.errors import ENDS, ConfigError, brief, told

Evaluate = Callable[[str], float]


def evaluated(evaluate: Evaluate, path: str) -> float:
    """Returns what a user's function gives for the package at a path.

    Raises:
        ConfigError: it fails, ends the program, or gives no number.
    """
    try:
        with _ALIVE:
            given: Any = evaluate(path)
    except ENDS:
        raise
    except BaseException as error:
        raise ConfigError(f"evaluate: raised {told(error)}") from error
    try:
        if isinstance(given, complex | np.complexfloating):  # numpy would pass over a part of it
            raise TypeError("it is complex")
        return float(given)
    except ENDS:
        raise
    except BaseException as error:
        raise ConfigError(
            f"evaluate: must return a number. Got {brief(given)}: {told(error)}"
        ) from error


class _Alive:
    """Makes `os._exit`, while a user's function runs, end that function and not this process.

    By `os._exit` a command would pass over all clean-up, and end without a word. Threads may be
    within it side by side. A child process that a function forks ends as it would; one that comes
    back from it ends, too, as there would be two commands from there on.
    """

    def __init__(self) -> None:
        self._lock, self._within, self._end = threading.Lock(), 0, os._exit

    def __enter__(self) -> None:
        with self._lock:
            self._within += 1
            self._process, os._exit = os.getpid(), self._raise

    def __exit__(self, *_: object) -> None:
        if os.getpid() != self._process:
            self._end(1)
        with self._lock:
            self._within -= 1
            if not self._within:
                os._exit = self._end

    def _raise(self, status: int) -> NoReturn:
        if os.getpid() != self._process:
            self._end(status)
        raise SystemExit(f"os._exit({status})")


_ALIVE = _Alive()
