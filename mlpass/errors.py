"""Every exception that mlpass raises on purpose.

Each says what is wrong, where, and what to do about it, in one line.
"""

from __future__ import annotations

import difflib
import itertools
import re
import reprlib
from collections.abc import Iterable, Iterator

_LONGEST_WORD = 200  # that is compared with others
_PART = 0.8  # likeness of a word to a part of a name
_MOST_WORDS = 12  # of a name
_WORD = re.compile(r"[^\W\d_]+|\d+")
_LEAD, _TAIL = 2500, 1000  # characters of a message that is too long to be shown whole
_BRIEF = reprlib.Repr()
_BRIEF.maxlevel, _BRIEF.maxother, _BRIEF.maxlong = 2, 200, 100
_BRIEF.maxstring = 200


class MlpassError(Exception):
    """Base of all errors below: catch it to catch them all."""

    def __str__(self) -> str:
        """The text, on one line, and cut in its midst: names in it may be anybody's."""
        return cut(visible(super().__str__()))


class ConfigError(MlpassError, ValueError):
    """An option, a mode or a configuration that is not valid."""


class ModelFormatError(MlpassError, ValueError):
    """A file that is not the Core ML package it should be, or a broken one."""


class UnsupportedOpError(MlpassError, NotImplementedError):
    """An op that mlpass has no kernel for."""


class CalibrationError(MlpassError, ValueError):
    """Sample data that do not fit the model."""


class NotFiniteError(CalibrationError):
    """Samples that bring a layer NaN or inf.

    Attributes:
        whose: the sample and the layer, as the text has them behind it.
    """

    def __init__(self, whose: object) -> None:
        """Has a text of its own."""
        super().__init__(f"sample_data: a layer's inputs hold NaN or inf.{whose}")
        self.whose = whose


class SampleWarning(UserWarning):
    """Sample data that fit the model, and can hardly be meant for it."""


class InputError(MlpassError, ValueError):
    """Something given to a model's prediction, or asked of it, that does not fit the model."""


class ExecutionError(MlpassError, RuntimeError):
    """An op that failed while a program ran."""


class BackendError(MlpassError, RuntimeError):
    """A backend that cannot run here."""


class TargetError(MlpassError, RuntimeError):
    """What no step of `mlpass choose` could hold, or no config of `mlpass sweep` could do."""


class OutputExistsError(MlpassError, FileExistsError):
    """A target that is there already and was not to be replaced."""


class OutputBusyError(MlpassError, BlockingIOError):
    """A target that another run is writing just now."""


class NotApplicable(MlpassError):  # noqa: N818  (no error where a pass makes it a skip)
    """A mode that does not fit a weight: a pass records its text as the reason of the skip."""


class Terminated(SystemExit):
    """What SIGTERM and SIGHUP raise: unlike a `SystemExit` of a user's own, it ends everything."""


# What ends the program, whoever's function is running.
ENDS = (KeyboardInterrupt, Terminated)


def add_note(error: BaseException, note: str) -> None:
    """Adds a line to what an exception tells, once, where `BaseException.add_note` would."""
    notes = vars(error).setdefault("__notes__", [])
    if note not in notes:
        notes.append(note)


def visible(text: str) -> str:
    """Returns a text with all that does not print escaped, as in a string literal.

    Names come from models and paths, which may be anybody's: what they hold must neither steer a
    terminal nor break a line.
    """
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else repr(one)[1:-1] for one in text)


def cut(message: str) -> str:
    """Returns a message without its midst, where that is too long for anybody to read."""
    if len(message) <= _LEAD + _TAIL:
        return message
    return f"{message[:_LEAD]} ... {message[-_TAIL:]}"


def brief(value: object) -> str:
    """Returns a value as `repr` does, cut where it is long or deep."""
    try:
        return _BRIEF.repr(value)
    except ENDS:
        raise
    except BaseException:  # a number of more digits than Python writes; or it is not to be shown
        return f"a value of type {type(value).__name__}"


def told(error: BaseException) -> str:
    """Returns the kind of an exception that is anybody's, and its text where that can be had."""
    try:
        text = " ".join(str(error).split())
    except ENDS:
        raise
    except BaseException:
        text = ""
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def close_matches(word: object, known: Iterable[str]) -> str:
    """Returns ", did you mean 'x'?" for the nearest known words, or "" where nothing is near."""
    if not isinstance(word, str):
        return ""
    word = word[:_LONGEST_WORD].lower()
    names = {name.lower(): name for name in known}
    near = [word] if word in names else difflib.get_close_matches(word, names)
    near = near or [name for name in names if len(word) > 2 and name.startswith(word)][:3]
    if not near:  # as a part of a longer one: "8" of "int8", "embeding" of "embedding_weight"
        parts: dict[str, list[str]] = {}
        for name in names:
            for part in _parts(name):
                parts.setdefault(part, []).append(name)
        close = difflib.get_close_matches(word, parts, cutoff=_PART)
        near = [*dict.fromkeys(name for one in close for name in parts[one])][:3]
    return f", did you mean {' or '.join(repr(names[one]) for one in near)}?" if near else ""


def _parts(name: str) -> Iterator[str]:
    """Yields the beginnings and ends of a name, by its words and numbers."""
    edges = [one.span() for one in itertools.islice(_WORD.finditer(name), _MOST_WORDS)]
    for start, end in edges:
        yield name[:end]
        yield name[start:]
