"""A candidate as the line of a shell that makes its model."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Mapping
from typing import Any

from mlpass.calibrate.plain import plain_arguments, storage_words, taken_names
from mlpass.errors import ConfigError
from mlpass.options import flag_of, options_of
from mlpass.plan.config import DEFAULT_WEIGHT_THRESHOLD, Config, granularity_of, mode_from_options
from mlpass.registries import METHODS, MODES, STORAGES, TAKEN, Registry
from mlpass.sparsity.modes import Mode
from mlpass.study.grid import Candidate


def prune_command(model: str, candidate: Candidate) -> str | None:
    """Returns the `mlpass prune` that does what a candidate does; None where no options say it.

    Args:
        model: path of the package.
        candidate: how to prune it.
    """
    mode, threshold = candidate.config.global_config, candidate.config.weight_threshold
    plain = candidate.config == Config(global_config=mode, weight_threshold=threshold)
    method = METHODS.name_of(candidate.method)
    if not isinstance(mode, Mode) or not plain or MODES.name_of(mode) is None or method is None:
        return None
    words = ["mlpass", "prune", model, "-o", "pruned.mlpackage", *_mode_words(mode)]
    if threshold != DEFAULT_WEIGHT_THRESHOLD:
        words += ["--weight-threshold", str(threshold)]
    if not candidate.data_free:
        words += ["--sample-data", "samples.npz", "--method", method]
        words += _words(METHODS, candidate.method, "method", taken_names())
    return shlex.join([*words, *_option_words(candidate.options)])


def _mode_words(mode: Mode) -> list[str]:
    """Returns the flags of a mode: its name is among them where its options leave it open."""
    name = str(MODES.name_of(mode))
    given = {
        option.name: [getattr(mode, part.name) for part in option.parts]
        for option in options_of(MODES[name].kind)
        if option.given(mode) is not None
    }
    values = {key: value if len(value) > 1 else value[0] for key, value in given.items()}
    words = _words(MODES, mode, "mode", TAKEN)
    if _describe(values, mode):
        return words
    if (granularity := granularity_of(name)) and _describe(
        {**values, "granularity": granularity}, mode
    ):
        return [*words, "--granularity", granularity]
    return [*words, "--mode", name]


def _describe(options: Mapping[str, Any], mode: Mode) -> bool:
    """Returns whether options without a name are those of a mode."""
    try:
        return mode_from_options(options) == mode
    except ConfigError:
        return False


def _option_words(options: Mapping[str, Any]) -> list[str]:
    """Returns the flags of a calibrated run's further options."""
    words: list[str] = []
    arguments, storages = plain_arguments(options), storage_words()
    for name, value in options.items():
        if name in STORAGES:
            entry, held = STORAGES[name], arguments[name]
            lead = getattr(held, entry.words["lead"]) if isinstance(held, entry.kind) else value
            words += [flag_of("", name), str(lead)]
            if isinstance(held, entry.kind):
                others = [each for each in storages if each.startswith(f"{name}_")]
                texts = {each: storages[each].given(held) for each in others}
                for each, text in texts.items():
                    words += [] if text is None else [flag_of("", each), text]
        elif name not in storages:
            words += [flag_of("", name), str(value)]
    return words


def _words(registry: Registry, holder: object, what: str, taken: Collection[str]) -> list[str]:
    """Returns the flags of an object's options that are not the default."""
    words = []
    for option in options_of(registry[str(registry.name_of(holder))].kind):
        text = option.given(holder)
        if text is None:
            continue
        flag = flag_of(what, option.name, taken)
        if option.parts[0].kind == "bool":
            words.append(flag if text == "true" else flag.replace("--", "--no-", 1))
        else:
            words += [flag, text]
    return words
