"""The options of mlpass' coremltools passes: objects or plain strings, to arguments."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from mlpass.calibrate.calibration import make_calibration
from mlpass.calibrate.plain import calibration_words, plain_arguments
from mlpass.errors import ConfigError, close_matches
from mlpass.options import Option, options_of
from mlpass.plan.config import Config, configured
from mlpass.registries import MODES
from mlpass.storage.given import every_storage_word, take_storage


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


def pass_kinds() -> list[PassKind]:
    """Returns every pass: one for each mode, and those that take a whole config."""
    storages = every_storage_word()
    modes = [
        PassKind(f"prune_{name}", name, (*_mode_options(name), "weight_threshold", *storages))
        for name in MODES
    ]
    return [
        *modes,
        PassKind("prune", None, ("config", *storages)),
        PassKind("sparsegpt", None, ("config", *calibration_words())),
    ]


def arguments_of(kind: PassKind, options: Mapping[str, object]) -> dict[str, object]:
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
    given = dict(options)
    storage = take_storage(given)
    if kind.mode is None:
        config = given.pop("config", None)
        if config is None and storage is None:
            raise ConfigError(
                "needs the option config, a mode, a Config or a YAML path; or a storage"
            )
        arguments: dict[str, object] = {"config": configured(config, storage)}
        if "sample_data" in kind.options:
            if given.get("sample_data") is None:
                raise ConfigError("needs the option sample_data: see mlpass.prune")
            arguments["calibration"] = make_calibration(
                **{"method": None, **plain_arguments(given)}
            )
        return arguments
    known = {**_mode_options(kind.mode), **_WEIGHT_THRESHOLD}
    values = {name: known[name].parse(value) for name, value in given.items()}
    whole = {name: values.pop(name) for name in _WEIGHT_THRESHOLD if name in values}
    return {"config": configured(Config(MODES.build(kind.mode, values), **whole), storage)}


_WEIGHT_THRESHOLD = {option.name: option for option in options_of(Config, declared=True)}


def _mode_options(name: str) -> dict[str, Option]:
    return {option.name: option for option in options_of(MODES[name].kind)}
