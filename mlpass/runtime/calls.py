"""Samples for several functions of a model: steps that name the function that they are for."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeGuard

_NAMED = re.compile(r"(?:^|[-_. ])function=(?P<function>.+)$")


class Call(dict[str, object]):
    """What one prediction of a function takes."""

    def __init__(self, function: str, inputs: Mapping[str, object]) -> None:
        """Holds the inputs by name."""
        super().__init__(inputs)
        self.function = function


def function_of(step: object) -> str | None:
    """Returns the name of the function that a step is for; None where it names none."""
    return step.function if isinstance(step, Call) else None


def function_in(path: Path) -> str | None:
    """Returns the function that a file or folder of samples names, as `0-function=decode.npz`."""
    found = _NAMED.search(path.name if path.is_dir() else path.stem)
    return found["function"] if found else None


def is_pair(value: object) -> TypeGuard[tuple[str, Mapping[str, object]]]:
    """Returns whether a value is a function's name and what one prediction of it takes."""
    return (
        isinstance(value, Sequence)
        and len(value) == 2
        and isinstance(value[0], str)
        and isinstance(value[1], Mapping)
    )


def called(step: Mapping[str, object], function: str | None) -> Mapping[str, object]:
    """Returns a step that names a function, where there is one to name and it names no other."""
    return step if function is None or isinstance(step, Call) else Call(function, step)
