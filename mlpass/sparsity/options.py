"""What the options of modes must be."""

from __future__ import annotations

import math

import numpy as np

from mlpass.errors import ConfigError


def is_int(value: object) -> bool:
    """Returns whether it is an integer, and no bool."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def check_int(option: str, name: str, value: object, low: int) -> None:
    """Raises ConfigError where an option's part is no int of `low` or more."""
    if not is_int(value) or value < low:  # type: ignore[operator]
        raise ConfigError(f"{option}: {name} must be an int of {low} or more. Got {value!r}.")


def check_dim(dim: object) -> None:
    """Raises ConfigError where `dim` is no axis of channels."""
    if not is_int(dim) or dim not in (0, 1):
        raise ConfigError(f"dim: must be 0 (output channels) or 1 (input channels). Got {dim!r}.")


def check_number(option: str, value: object, low: float, high: float) -> None:
    """Raises ConfigError where an option is no number from `low` to `high`."""
    valid = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    if not valid or not low <= value <= high:  # type: ignore[operator]
        interval = f"in [{low:g}, {high:g}]" if high < math.inf else f"of {low:g} or more"
        raise ConfigError(f"{option}: must be a number {interval}. Got {value!r}.")
