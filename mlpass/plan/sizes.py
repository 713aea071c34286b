"""A size that a model is to have, in the forms that a user may give it in."""

from __future__ import annotations

import re

from mlpass.errors import ConfigError

_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9}


def parse_size(name: str, size: str | int, before: int) -> int:
    """Returns a size in bytes.

    Args:
        name: of the option, for messages.
        size: bytes, a text such as "3.5MB", or a share of `before` such as "0.4x".
        before: bytes of what is to become smaller.

    Raises:
        ConfigError: it is not a size.
    """
    found = re.fullmatch(
        r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*(x|[kmg]?b|)", str(size).lower().strip()
    )
    if found is None or isinstance(size, bool) or not float(found[1]):
        raise ConfigError(
            f'{name}: must be bytes, a text such as "3.5MB", or a share such as "0.4x". '
            f"Got {size!r}."
        )
    return int(float(found[1]) * (before if found[2] == "x" else _UNITS[found[2]]))
