"""A size that a model is to have, in the forms that a user may give it in."""

from __future__ import annotations

import re

from mlpass.errors import ConfigError, brief

_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9}
_LARGEST = float(1 << 62)  # bytes


def parse_size(name: str, size: str | int, before: int) -> int:
    """Returns a size in bytes.

    Args:
        name: of the option, for messages.
        size: bytes, a text such as "3.5MB", or a share of `before` such as "0.4x".
        before: bytes of what is to become smaller.

    Raises:
        ConfigError: it is not a size, or beyond all sizes.
    """
    text = size if isinstance(size, str) else brief(size)
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*(x|[kmg]?b|)", text.lower().strip())
    wanted, unit = 0.0, ""
    if found is not None and not isinstance(size, bool):
        unit = found[2]
        wanted = float(found[1]) * (before if unit == "x" else _UNITS[unit])
    part_of_a_byte = 0 < wanted < 1 and unit != "x"
    if part_of_a_byte or not 0 < wanted < _LARGEST:
        meant = _meant(text)
        asked = "" if meant is None else f' Did you mean "{meant}"?'
        raise ConfigError(
            f'{name}: must be bytes, a text such as "3.5MB", or a share such as "0.4x". '
            f"Got {brief(size)}.{asked}"
        )
    return int(wanted)


def _meant(text: str) -> str | None:
    """Returns the size that was meant by a share without its x, in percent, or with a comma."""
    found = re.fullmatch(r"\s*([0-9]*[.,]?[0-9]+)\s*(%|x|[kmg]?i?b|)\s*", text.lower())
    if found is None:
        return None
    number, unit = float(found[1].replace(",", ".")), found[2]
    if unit in ("%", ""):
        share = number / 100 if unit else number
        return f"{share:g}x" if 0 < share < 1 else None
    if not number:
        return None
    if unit == "x":
        return f"{number:g}x"
    return None if unit == "b" else f"{number:g}{unit.replace('i', '').upper()}"
