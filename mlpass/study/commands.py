"""A candidate as the line of a shell that makes its model."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Mapping, Sequence

from mlpass.calibrate.plain import taken_by_others
from mlpass.errors import ConfigError
from mlpass.options import Option, flag_of, options_of
from mlpass.plan.config import DEFAULT_WEIGHT_THRESHOLD, Config, op_config_of
from mlpass.plan.mode_options import granularity_of, mode_from_options
from mlpass.program.pte_paths import output_name
from mlpass.registries import METHODS, MODES, STORAGES, Registry, taken_names
from mlpass.sparsity.mode import Mode
from mlpass.storage.plain import rounding_of
from mlpass.storage.storage import Storage
from mlpass.storage.words import words_of
from mlpass.study.grid import Candidate


def prune_command(
    model: str,
    candidate: Candidate,
    *,
    backend: str = "numpy",
    function_name: str | None = None,
    minimum_deployment_target: str | None = None,
    joint_compression: bool = False,
    samples: Sequence[str] = ("samples.npz",),
) -> str | None:
    """Returns the `mlpass prune` that does what a candidate does; None where no options say it.

    Args:
        model: path of the package.
        candidate: how to prune it.
        backend: that the samples are run on.
        function_name: that they are for.
        minimum_deployment_target: that the package is raised to first.
        joint_compression: whether weights that are compressed already are pruned, too.
        samples: path of what it is calibrated on, or FUNCTION=PATH for each of several functions.
    """
    data = [word for each in samples for word in ("--sample-data", each)]
    raising = {"minimum_deployment_target": minimum_deployment_target}
    running = {"backend": None if backend == "numpy" else backend, "function_name": function_name}
    config, method = candidate.config, METHODS.name_of(candidate.method)
    words = ["mlpass", "prune", model, "-o", output_name(model, "pruned")]
    words += ["--joint-compression"] if joint_compression else []
    if "budget" in candidate.options:
        size = str(candidate.options["budget"])
        words += ["--max-size", size, *data]
        return shlex.join([*words, *_given({**raising, **running})])
    threshold, given = config.weight_threshold, op_config_of(config.global_config)
    if given is None or config != Config(config.global_config, weight_threshold=threshold):
        return None
    mode, storage = given.mode, rounding_of(given.storage)
    known = (mode is None or MODES.name_of(mode)) and (storage is None or STORAGES.name_of(storage))
    if (mode is None and storage is None) or not known or method is None:
        return None
    words += [] if mode is None else _mode_words(mode)
    words += [] if storage is None else _storage_words(storage)
    threshold = threshold if given.weight_threshold is None else given.weight_threshold
    if threshold != DEFAULT_WEIGHT_THRESHOLD:
        words += ["--weight-threshold", str(threshold)]
    if not candidate.data_free:
        words += [*data, "--method", method]
        words += _words(METHODS, candidate.method, "method", taken_by_others())
        words += _given(running)
    words += _given({**raising, **candidate.options})
    return shlex.join(words)


def _given(options: Mapping[str, object]) -> list[str]:
    """Returns the flags of those options that are not None."""
    given = {name: value for name, value in options.items() if value is not None}
    return [word for name, value in given.items() for word in (flag_of("", name), str(value))]


def _mode_words(mode: Mode) -> list[str]:
    """Returns the flags of a mode: its name is among them where its options leave it open."""
    name = str(MODES.name_of(mode))
    given = {
        option.name: [getattr(mode, part.name) for part in option.parts]
        for option in options_of(MODES[name].kind)
        if option.given(mode) is not None
    }
    values = {key: value if len(value) > 1 else value[0] for key, value in given.items()}
    words = _words(MODES, mode, "mode", taken_names())
    if _describe(values, mode):
        return words
    if (granularity := granularity_of(name)) and _describe(
        {**values, "granularity": granularity}, mode
    ):
        return [*words, "--granularity", granularity]
    return [*words, "--mode", name]


def _describe(options: Mapping[str, object], mode: Mode) -> bool:
    """Returns whether options without a name are those of a mode."""
    try:
        return mode_from_options(options) == mode
    except ConfigError:
        return False


def _storage_words(storage: Storage) -> list[str]:
    """Returns the flags of a storage: its leading option, and others that are not the default."""
    name = str(STORAGES.name_of(storage))
    lead, options = STORAGES[name].words["lead"], options_of(STORAGES[name].kind)
    words: list[str] = [] if lead else [flag_of("", name)]
    taken = taken_names() | {*MODES.options()}
    for word, option in words_of(name, lead, options, taken).items():
        text = str(getattr(storage, lead)) if word == name else option.given(storage)
        words += _flag(flag_of("", word), option, text)
    return words


def _flag(flag: str, option: Option, text: str | None) -> list[str]:
    """Returns a flag with its value; nothing where that is the default."""
    if text is None:
        return []
    if option.parts[0].kind == "bool":
        return [flag if text == "true" else flag.replace("--", "--no-", 1)]
    return [flag, text]


def _words(registry: Registry, holder: object, what: str, taken: Collection[str]) -> list[str]:
    """Returns the flags of an object's options that are not the default."""
    words: list[str] = []
    for option in options_of(registry[str(registry.name_of(holder))].kind):
        words += _flag(flag_of(what, option.name, taken), option, option.given(holder))
    return words
