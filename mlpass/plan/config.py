"""Which mode and storage each weight gets: `Config`, and the forms that a user may give it in.

A config is a mode, a storage, a `Config`, a coremltools `OptimizationConfig`, a mapping, or a YAML
path. The mapping's keys are those of `Config`; each entry is written with coremltools' own options
of a mode, with a storage's, or with both::

    global_config: {target_sparsity: 0.75}
    op_type_configs:
      linear: {n_m_ratio: [2, 4], palettize: 4, group_size: 8}
      conv: {quantize: int8}
    op_name_configs:
      head_weight: null            # left as it is
      "block_*_ffn": {target_sparsity: 0.9, block_size: 4}
    weight_threshold: 2048
    adapters: true                 # those of LoRA, beside weights that functions share, too

Beside the sections a storage is for all entries that name none. coremltools' own YAML files, with
their `config_type`, are read as they are.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from mlpass.errors import ConfigError, brief, close_matches
from mlpass.options import check_options, option
from mlpass.plan.coremltools_configs import (
    COMPRESSORS,
    compressor_options,
    storage_from_options,
)
from mlpass.plan.mode_options import PRUNERS, mode_from_options, mode_words
from mlpass.plan.yaml_files import read_yaml
from mlpass.registries import STORAGES
from mlpass.sparsity.mode import Mode
from mlpass.storage.given import StorageLike, as_storage, every_storage_word, take_storage
from mlpass.storage.storage import Storage

SECTIONS = ("global_config", "op_type_configs", "op_name_configs", "weight_threshold", "adapters")


@dataclass(frozen=True)
class OpConfig:
    """What becomes of a weight, as an entry of a `Config` says it.

    Attributes:
        mode: which of its elements become zero; None where none do.
        storage: how its values are kept, in any form that `prune` takes; None where the config as
            a whole decides.
        weight_threshold: a weight of so many elements or fewer is skipped; None for the config's.
    """

    mode: Mode | None = None
    storage: Storage | None = None
    weight_threshold: int | None = option(default=None, low=0)

    def __post_init__(self) -> None:
        check_options(self)
        if self.mode is not None and not isinstance(self.mode, Mode):
            raise ConfigError(f"mode: must be a mode or None. Got {brief(self.mode)}.")
        object.__setattr__(self, "storage", as_storage(self.storage))

    def __str__(self) -> str:
        """How reports show it: "Percentile(0.5) + Quantized(int4)"."""
        return " + ".join(str(each) for each in (self.mode, self.storage) if each is not None)

    @property
    def phrase(self) -> str:
        """How people say it: "50% zeros, int4"."""
        return ", ".join(each.phrase for each in (self.mode, self.storage) if each is not None)


OpConfigLike = OpConfig | Mode | Storage | None


@dataclass(frozen=True)
class Config:
    """What each weight gets: the most specific entry wins, None leaves the weight as it is.

    Attributes:
        global_config: for every weight: a mode, a storage, or an `OpConfig` of both.
        op_type_configs: by MIL op type that reads the weight.
        op_name_configs: by name of the weight or of an op that reads it; exact, or a glob.
        weight_threshold: a weight of so many elements or fewer is skipped.
        adapters: whether adapters beside weights that functions share get what others get; without
            it those alone do that are named.
    """

    global_config: OpConfigLike = None
    op_type_configs: Mapping[str, OpConfigLike] = field(default_factory=dict)
    op_name_configs: Mapping[str, OpConfigLike] = field(default_factory=dict)
    weight_threshold: int = option(
        default=2048, low=0, help="weights of so many elements or fewer are skipped"
    )
    adapters: bool = option(
        default=False, help="prune adapters (LoRA) beside weights that functions share, too"
    )

    def __post_init__(self) -> None:
        check_options(self)
        _check_entry("global_config", self.global_config)
        for section in ("op_type_configs", "op_name_configs"):
            entries = getattr(self, section)
            if not isinstance(entries, Mapping):
                raise ConfigError(f"{section}: must map names to modes. Got {brief(entries)}.")
            for key, entry in entries.items():
                _check_entry(f"{section}[{key!r}]", entry)

    @property
    def entries(self) -> list[OpConfigLike]:
        """All of them, that for every weight first."""
        return [
            self.global_config,
            *self.op_type_configs.values(),
            *self.op_name_configs.values(),
        ]


DEFAULT_WEIGHT_THRESHOLD = Config.weight_threshold


def op_config_of(entry: OpConfigLike, weight_threshold: int | None = None) -> OpConfig | None:
    """Returns an entry of a config as an `OpConfig`."""
    if isinstance(entry, OpConfig):
        known = weight_threshold is None or entry.weight_threshold is not None
        return entry if known else replace(entry, weight_threshold=weight_threshold)
    if entry is None:
        return None
    if isinstance(entry, Mode):
        return OpConfig(entry, weight_threshold=weight_threshold)
    return OpConfig(storage=entry, weight_threshold=weight_threshold)


def configured(config: object, storage: StorageLike = None) -> Config:
    """Returns any form of config as a `Config`, with a storage for the entries that name none.

    Args:
        config: None where the storage is all.
        storage: in any form; None adds nothing.

    Raises:
        ConfigError: one of them cannot be read, or the config leaves all weights as they are.
        OSError: a YAML file cannot be read.
    """
    storage = as_storage(storage)
    if storage is None:
        return as_config(config)
    if config is None:
        return Config(OpConfig(storage=storage))
    found = as_config(config)
    if all(entry is None for entry in found.entries):
        raise ConfigError(f"storage: the config leaves all weights as they are, so {storage} too")

    def stored(entry: OpConfigLike) -> OpConfigLike:
        given = op_config_of(entry)
        if given is None or given.storage is not None:
            return entry
        return replace(given, storage=storage)

    return replace(
        found,
        global_config=stored(found.global_config),
        op_type_configs={key: stored(each) for key, each in found.op_type_configs.items()},
        op_name_configs={key: stored(each) for key, each in found.op_name_configs.items()},
    )


def as_config(config: object) -> Config:
    """Returns any form of config as a `Config`.

    Raises:
        ConfigError: it is not a config, or holds an option that does not exist.
        OSError: a YAML file cannot be read.
    """
    if isinstance(config, Config):
        return config
    if isinstance(config, Mode):
        return Config(global_config=config)
    if isinstance(config, Storage | OpConfig):
        return Config(global_config=op_config_of(config))
    if isinstance(config, Mapping):
        return _from_mapping(config)
    if isinstance(config, str | os.PathLike):
        return _from_yaml(config)
    if type(config).__name__ == "OptimizationConfig":
        return _from_coremltools(config)
    raise ConfigError(
        "config: must be a mode, a storage, a Config, a coremltools OptimizationConfig, a mapping "
        f"or the path of a YAML file. Got {type(config).__name__}."
    )


def _from_yaml(path: str | os.PathLike[str]) -> Config:
    content = read_yaml(path)
    if not isinstance(content, Mapping):
        raise ConfigError(f"{os.fspath(path)}: must hold a mapping with {', '.join(SECTIONS)}")
    try:
        return _from_mapping(content)
    except ConfigError as error:
        raise ConfigError(f"{os.fspath(path)}: {error}") from None


def _from_mapping(content: Mapping[str, Any]) -> Config:
    if "adapters" in content:  # goes with all else, and may be all
        others = {key: value for key, value in content.items() if key != "adapters"}
        config = _from_mapping(others) if others else Config()
        return replace(config, adapters=content["adapters"])
    kind = content.get("config_type")
    sections = [key for key in content if key in SECTIONS]
    if not sections or (sections == ["weight_threshold"] and _is_entry(content)):
        for key, value in content.items():
            if isinstance(value, Mapping) and (near := close_matches(key, SECTIONS)):
                raise ConfigError(f"unknown section {brief(key)}{near}")
        return Config(global_config=_entry("config", content, kind))
    rest = dict(content)
    storage = take_storage(rest)
    for key in rest:
        if key not in (*SECTIONS, "config_type"):
            known = [*SECTIONS, *every_storage_word()]
            near = close_matches(key, known) or f"; the sections are {', '.join(SECTIONS)}"
            raise ConfigError(f"unknown section {brief(key)}{near}")
    found: dict[str, dict[str, OpConfigLike]] = {}
    for section in ("op_type_configs", "op_name_configs"):
        entries = content.get(section) or {}
        if not isinstance(entries, Mapping):
            raise ConfigError(f"{section}: must map names to modes. Got {brief(entries)}.")
        found[section] = {
            str(key): _entry(f"{section}[{key!r}]", value, kind) for key, value in entries.items()
        }
    config = Config(
        _entry("global_config", content.get("global_config"), kind),
        found["op_type_configs"],
        found["op_name_configs"],
        content.get("weight_threshold", DEFAULT_WEIGHT_THRESHOLD),
    )
    return configured(config, storage)


def _is_entry(content: Mapping[str, object]) -> bool:
    """Returns whether a mapping without sections is an entry, rather than a misspelt section."""
    words = {*mode_words(), *every_storage_word()}
    return "config_type" in content or {"weight_threshold"} < {*content} <= words


def _entry(where: str, value: object, kind: object) -> OpConfigLike:
    """Returns the entry that a mapping describes: its mode alone where it says no more."""
    if value is None or isinstance(value, Mode | Storage | OpConfig):
        return value
    if not isinstance(value, Mapping):
        raise ConfigError(
            f"{where}: must be the options of a mode or a storage, or null. Got {brief(value)}."
        )
    options = dict(value)
    threshold = options.pop("weight_threshold", None)
    if kind is not None and (kind in COMPRESSORS or "mode" not in options):
        options.setdefault("config_type", kind)
    try:
        found = _op_config(options)
        if threshold is not None:
            found = replace(found, weight_threshold=threshold)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
    return found.mode if found == OpConfig(found.mode) else found


def _op_config(options: dict[str, object]) -> OpConfig:
    """Returns what options without a threshold describe."""
    kind = options.get("config_type")
    if isinstance(kind, str) and kind in COMPRESSORS:
        options.pop("config_type")
        return OpConfig(storage=storage_from_options(kind, options))
    if kind is not None and kind not in PRUNERS:
        known = (*PRUNERS, *COMPRESSORS)
        raise ConfigError(f"config_type: must be one of {', '.join(known)}. Got {brief(kind)}.")
    storage = take_storage(options)
    if storage is not None and not options:
        return OpConfig(storage=storage)
    try:
        return OpConfig(mode_from_options(options), storage)
    except ConfigError as error:
        own = [] if storage is None else [key for key in options if hasattr(storage, str(key))]
        name = STORAGES.name_of(storage)
        hints = [f"the storage's own is {name}_{key}" for key in own if name is not None]
        raise ConfigError("; ".join([str(error), *hints])) from None


def _from_coremltools(config: Any) -> Config:
    """Reads a `coremltools.optimize.coreml.OptimizationConfig` by its public attributes."""

    def read(where: str, op_config: Any) -> OpConfigLike:
        if op_config is None:
            return None
        kind = type(op_config).__name__
        if kind in COMPRESSORS:
            options = {**compressor_options(op_config), "config_type": kind}
        elif kind in PRUNERS:
            options = {name: getattr(op_config, name, None) for name in mode_words()}
        else:
            known = ", ".join((*PRUNERS, *COMPRESSORS))
            raise ConfigError(f"{where}: must be one of {known}. Got {kind}.")
        return _entry(where, {**options, "weight_threshold": op_config.weight_threshold}, None)

    def section(name: str) -> dict[str, OpConfigLike]:
        entries = getattr(config, name) or {}
        return {key: read(f"{name}[{key!r}]", value) for key, value in entries.items()}

    return Config(
        read("global_config", config.global_config),
        section("op_type_configs"),
        section("op_name_configs"),
    )


def _check_entry(where: str, entry: object) -> None:
    if entry is not None and not isinstance(entry, Mode | Storage | OpConfig):
        raise ConfigError(
            f"{where}: must be a mode, a storage, an OpConfig or None. Got {brief(entry)}."
        )
