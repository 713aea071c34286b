"""coremltools' palettization and quantization configs, read as storages that say the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import numpy as np

from mlpass.errors import ConfigError, brief, close_matches
from mlpass.literals import Integers
from mlpass.options import options_of
from mlpass.storage.palette import Palette
from mlpass.storage.quantized import Quantized
from mlpass.storage.storage import Storage

PALETTIZER, QUANTIZER = COMPRESSORS = ("OpPalettizerConfig", "OpLinearQuantizerConfig")

# Their fields and what these are where they are not given.
_DEFAULTS: dict[str, dict[str, object]] = {
    PALETTIZER: {
        "mode": "kmeans",
        "nbits": None,
        "granularity": "per_tensor",
        "group_size": 32,
        "lut_function": None,
        "channel_axis": None,
        "cluster_dim": 1,
        "enable_per_channel_scale": False,
        "num_kmeans_workers": 1,
    },
    QUANTIZER: {
        "mode": "linear_symmetric",
        "dtype": "int8",
        "granularity": "per_channel",
        "block_size": 32,
    },
}


def compressor_options(config: object) -> dict[str, object]:
    """Returns the options of one of coremltools' op configs, by name."""
    names = _DEFAULTS[type(config).__name__]
    return {name: getattr(config, name) for name in names if hasattr(config, name)}


def storage_from_options(kind: str, options: Mapping[str, object]) -> Storage:
    """Returns the storage that stands for options of coremltools.

    Args:
        kind: the name of the class that they are of, one of `COMPRESSORS`.
        options: by name, those that are given.

    Raises:
        ConfigError: one of them is unknown, or says what no storage here does.
    """
    known = _DEFAULTS[kind]
    for name in options:
        if name not in known:
            raise ConfigError(f"unknown option {brief(name)}" + close_matches(name, known))
    given = {**known, **options}
    given["granularity"] = getattr(given["granularity"], "name", given["granularity"])
    given |= {name: str(given[name]).lower() for name in ("mode", "granularity")}
    return _palette(given) if kind == PALETTIZER else _quantized(given)


def _palette(given: Mapping[str, Any]) -> Palette:
    (table,) = (each for each in options_of(Palette) if each.name == "table")
    _must_be("mode", given, tuple(table.parts[0].rule.choices or ()))
    _must_be("granularity", given, ("per_tensor", "per_grouped_channel"))
    _must_be("cluster_dim", given, (1,))
    for name in ("lut_function", "channel_axis", "enable_per_channel_scale"):
        _must_be(name, given, (_DEFAULTS[PALETTIZER][name],))
    if given["nbits"] is None:
        raise ConfigError("nbits: must be given")
    grouped = given["granularity"] == "per_grouped_channel"
    group_size = given["group_size"] if grouped else None
    return Palette(table=given["mode"], bits=given["nbits"], group_size=group_size)


def _quantized(given: Mapping[str, Any]) -> Quantized:
    _must_be("mode", given, ("linear_symmetric", "linear"))
    _must_be("granularity", given, ("per_channel", "per_block"))
    bits = _bits(given["dtype"])
    block_size = given["block_size"] if given["granularity"] == "per_block" else None
    if isinstance(block_size, list | tuple) or block_size == 0:
        raise ConfigError(
            f"block_size: must be how many input channels share a scale. Got {brief(block_size)}."
        )
    # Whether codes have a sign changes no value: a symmetric grid is the same, and so is one with
    # an offset.
    sign = "" if given["mode"] == "linear_symmetric" else "u"
    return Quantized(cast(Integers, f"{sign}int{bits}"), block_size)


def _must_be(name: str, given: Mapping[str, object], values: tuple[object, ...]) -> None:
    """Raises ConfigError where an option has a value that no storage here stands for."""
    if given[name] not in values:
        raise ConfigError(
            f"{name}: mlpass stores no weights so; it must be {' or '.join(map(repr, values))}. "
            f"Got {brief(given[name])}."
        )


def _bits(dtype: Any) -> int:
    """Returns the bits of an integer type in any of coremltools' forms."""
    if hasattr(dtype, "get_bitwidth"):  # a type of MIL
        return int(dtype.get_bitwidth())
    names = {"int8": 8, "uint8": 8, "int4": 4, "uint4": 4}
    try:
        name = dtype if isinstance(dtype, str) else np.dtype(dtype).name
    except (TypeError, ValueError):
        name = ""
    if name not in names:
        raise ConfigError(f"dtype: must be one of {', '.join(names)}. Got {brief(dtype)}.")
    return names[name]
