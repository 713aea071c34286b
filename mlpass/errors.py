"""Every exception that mlpass raises on purpose.

Each says what is wrong, where, and what to do about it, in one line.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class MlpassError(Exception):
    """Base of all errors below: catch it to catch them all."""


class ConfigError(MlpassError, ValueError):
    """An option, a mode or a configuration that is not valid."""


class ModelFormatError(MlpassError, ValueError):
    """A file that is not the Core ML package it should be, or a broken one."""


class UnsupportedOpError(MlpassError, NotImplementedError):
    """An op that mlpass has no kernel for."""


class CalibrationError(MlpassError, ValueError):
    """Sample data that do not fit the model."""


class InputError(MlpassError, ValueError):
    """Something given to a model's prediction, or asked of it, that does not fit the model."""


class ExecutionError(MlpassError, RuntimeError):
    """An op that failed while a program ran."""


class BackendError(MlpassError, RuntimeError):
    """A backend that cannot run here."""


class TargetError(MlpassError, RuntimeError):
    """A target that no step of `mlpass choose` could hold."""


class OutputExistsError(MlpassError, FileExistsError):
    """A target that is there already and was not to be replaced."""


class OutputBusyError(MlpassError, BlockingIOError):
    """A target that another run is writing just now."""


class NotApplicable(MlpassError):  # noqa: N818  (no error where a pass makes it a skip)
    """A mode that does not fit a weight: a pass records its text as the reason of the skip."""


def add_note(error: BaseException, note: str) -> None:
    """Adds a line to what an exception tells, once, where `BaseException.add_note` would."""
    notes = vars(error).setdefault("__notes__", [])
    if note not in notes:
        notes.append(note)


def close_matches(word: str, known: Iterable[str]) -> str:
    """Returns ", did you mean 'x'?" for the nearest known words, or "" where nothing is near."""
    near = difflib.get_close_matches(word, list(known), n=3)
    return f", did you mean {' or '.join(repr(match) for match in near)}?" if near else ""
