"""The options of mlpass' coremltools passes: objects or plain strings, to arguments."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from mlpass.calibrate.calibration import make_calibration
from mlpass.errors import ConfigError, close_matches
from mlpass.plan.config import (
    DEFAULT_WEIGHT_THRESHOLD,
    Config,
    as_config,
    mode_from_options,
)

# Options of `make_calibration` that a pass takes as they are.
CALIBRATION = (
    "method",
    "quantize",
    "palettize",
    "allocate",
    "max_nbytes",
    "propagate",
    "fallback",
    "memory_budget",
    "backend",
    "device",
    "function_name",
)


class PassKind(NamedTuple):
    """One of the passes.

    Attributes:
        name: under which it is registered, after "mlpass::".
        mode: that its options are for, by name; None where it takes a whole config.
        options: that it takes.
    """

    name: str
    mode: str | None
    options: tuple[str, ...]


PASSES = (
    PassKind(
        "prune_threshold",
        "Threshold",
        ("threshold", "minimum_sparsity_percentile", "weight_threshold"),
    ),
    PassKind("prune_percentile", "Percentile", ("target_sparsity", "scope", "weight_threshold")),
    PassKind("prune_nm", "NM", ("n_m_ratio", "dim", "weight_threshold")),
    PassKind("prune_block", "Block", ("target_sparsity", "block_size", "dim", "weight_threshold")),
    PassKind("prune", None, ("config",)),
    PassKind("sparsegpt", None, ("config", "sample_data", *CALIBRATION)),
)


def arguments_of(kind: PassKind, options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the arguments of `prune_in_place` that a pass' options stand for.

    Args:
        kind: of the pass.
        options: by name; values may be plain strings, as in "2:4".

    Raises:
        ConfigError: an option is unknown, bad or missing; the text names it.
        OSError: the option `config` is the path of a file that cannot be read.
    """
    for name in options:
        if name not in kind.options:
            raise ConfigError(
                f"unknown option {name!r}"
                + (close_matches(name, kind.options) or f"; it takes {', '.join(kind.options)}")
            )
    if kind.mode is None:
        if "config" not in options:
            raise ConfigError("needs the option config: a mode, a Config, or the path of a YAML")
        arguments: dict[str, Any] = {"config": as_config(options["config"])}
        if "sample_data" in kind.options:
            if options.get("sample_data") is None:
                raise ConfigError("needs the option sample_data: see mlpass.prune")
            given = {name: value for name, value in options.items() if name != "config"}
            arguments["calibration"] = make_calibration(**{"method": None, **given})
        return arguments
    values = {name: _parsed(name, value) for name, value in options.items()}
    weight_threshold = values.pop("weight_threshold", DEFAULT_WEIGHT_THRESHOLD)
    mode = mode_from_options({"mode": kind.mode, **values})
    return {"config": Config(mode, weight_threshold=weight_threshold)}


def _parsed(name: str, value: Any) -> Any:
    """Returns an option's value; a string as what it stands for."""
    if not isinstance(value, str):
        return value
    what, parse = _PARSERS[name]
    try:
        return parse(value)
    except ValueError:
        raise ConfigError(f"{name}: must be {what}. Got {value!r}.") from None


def _ratio(text: str) -> list[int]:
    n, m = text.split(":")
    return [int(n), int(m)]


_PARSERS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "threshold": ("a number", float),
    "minimum_sparsity_percentile": ("a number", float),
    "target_sparsity": ("a number", float),
    "scope": ("a text", str),
    "n_m_ratio": ("N:M, that is N zeros in every M", _ratio),
    "block_size": ("an int", int),
    "dim": ("an int", int),
    "weight_threshold": ("an int", int),
}
