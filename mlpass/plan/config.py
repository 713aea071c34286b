"""Which mode each weight gets: `Config`, and the forms that a user may give it in.

A config is a mode, a `Config`, a coremltools `OptimizationConfig`, a mapping, or a YAML path. The
mapping's keys are those of `Config`; each mode in it is written with coremltools' own options::

    global_config: {target_sparsity: 0.75}
    op_type_configs:
      linear: {n_m_ratio: [2, 4]}
    op_name_configs:
      head_weight: null            # left as it is
      "block_*_ffn": {target_sparsity: 0.9, block_size: 4}
    weight_threshold: 2048

coremltools' own YAML files, with their `config_type`, are read as they are.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from mlpass.errors import ConfigError, brief, close_matches
from mlpass.options import check_options, option, options_of
from mlpass.plan.yaml_files import read_yaml
from mlpass.registries import MODES
from mlpass.sparsity.modes import Mode

_CONFIG_TYPES = ("OpMagnitudePrunerConfig", "OpThresholdPrunerConfig")
_SECTIONS = ("global_config", "op_type_configs", "op_name_configs", "weight_threshold")


@dataclass(frozen=True)
class Sized:
    """A mode with a `weight_threshold` of its own, as coremltools' op configs have."""

    mode: Mode
    weight_threshold: int


Setting = Mode | Sized | None


@dataclass(frozen=True)
class Config:
    """Modes by weight: the most specific one wins, None leaves the weight as it is.

    Attributes:
        global_config: for every weight.
        op_type_configs: by MIL op type that reads the weight.
        op_name_configs: by name of the weight or of an op that reads it; exact, or a glob.
        weight_threshold: a weight of so many elements or fewer is skipped.
    """

    global_config: Setting = None
    op_type_configs: Mapping[str, Setting] = field(default_factory=dict)
    op_name_configs: Mapping[str, Setting] = field(default_factory=dict)
    weight_threshold: int = option(
        default=2048, low=0, help="weights of so many elements or fewer are skipped"
    )

    def __post_init__(self) -> None:
        check_options(self)
        _check_setting("global_config", self.global_config)
        for section in ("op_type_configs", "op_name_configs"):
            settings = getattr(self, section)
            if not isinstance(settings, Mapping):
                raise ConfigError(f"{section}: must map names to modes. Got {brief(settings)}.")
            for key, setting in settings.items():
                _check_setting(f"{section}[{key!r}]", setting)


DEFAULT_WEIGHT_THRESHOLD = Config.weight_threshold


class Choice(NamedTuple):
    """What a config says of one weight.

    Attributes:
        mode: None where it is to be left alone.
        weight_threshold: that holds for it.
        why: which entry of the config says so.
    """

    mode: Mode | None
    weight_threshold: int
    why: str


def choose(config: Config, names: tuple[str, ...], op_types: tuple[str, ...]) -> Choice:
    """Returns the choice of `config` for one weight.

    Exact names come first, then globs (the longest that matches), then op types, then the global
    one. Where several uses of a weight match different entries of one rank, None wins.

    Args:
        config: the config.
        names: of the weight and of the ops that read it.
        op_types: of the ops that read it.

    Raises:
        ConfigError: two entries of one rank give the weight different modes.
    """
    exact = [name for name in names if name in config.op_name_configs]
    globs = [
        pattern
        for pattern in config.op_name_configs
        if any(fnmatchcase(name, pattern) for name in names)
    ]
    longest = max(map(len, globs), default=0)
    for section, keys in (
        ("op_name_configs", exact),
        ("op_name_configs", [pattern for pattern in globs if len(pattern) == longest]),
        ("op_type_configs", [kind for kind in op_types if kind in config.op_type_configs]),
    ):
        if keys:
            return _agree(config, section, list(dict.fromkeys(keys)), names[0])
    return _choice(config, config.global_config, "global_config")


def unmatched(config: Config, names: set[str], op_types: set[str]) -> str | None:
    """Returns what is wrong with the first entry that can never match, None where all can.

    Args:
        config: the config.
        names: every name in the model.
        op_types: every op type that has weights in MIL.
    """
    for pattern in config.op_name_configs:
        if pattern not in names and not any(fnmatchcase(name, pattern) for name in names):
            return f"op_name_configs: no weight or op is named {pattern!r}" + (
                close_matches(pattern, names)
            )
    for op_type in config.op_type_configs:
        if op_type not in op_types:
            return f"op_type_configs: no op with weights is a {op_type!r}" + (
                close_matches(op_type, op_types) or f"; those are {', '.join(sorted(op_types))}"
            )
    return None


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
    if isinstance(config, Mapping):
        return _from_mapping(config)
    if isinstance(config, str | os.PathLike):
        return _from_yaml(config)
    if type(config).__name__ == "OptimizationConfig":
        return _from_coremltools(config)
    raise ConfigError(
        "config: must be a mode, a Config, a coremltools OptimizationConfig, a mapping or the path "
        f"of a YAML file. Got {type(config).__name__}."
    )


def mode_from_options(options: Mapping[str, Any]) -> Mode:
    """Returns the mode that a set of coremltools' options describes.

    Where `mode` does not name it, it is the one that takes all of them and has all that it needs:
    `target_sparsity` alone is a `Percentile`, with `block_size` a `Block`.

    Args:
        options: those of one mode; with `mode`, its name, or `granularity`, coremltools' own word
            for it, where they leave it open.

    Raises:
        ConfigError: they do not describe a mode.
    """
    options = {key: value for key, value in options.items() if value is not None}
    if "mode" in options:
        return _build(_by_name(options.pop("mode")), options)
    known = mode_words()
    for key in options:
        if key not in known:
            raise ConfigError(f"unknown option {brief(key)}" + close_matches(key, known))
    kind = options.pop("config_type", None)
    if kind is not None and kind not in _CONFIG_TYPES:
        raise ConfigError(
            f"config_type: {brief(kind)} does not prune; {' and '.join(_CONFIG_TYPES)} do"
        )
    if kind == "OpThresholdPrunerConfig":
        return _build("threshold", options)
    granularity = options.get("granularity")
    granularities = {word for word in map(granularity_of, MODES) if word is not None}
    if granularity is not None and granularity not in granularities:
        known_ones = ", ".join(dict.fromkeys(filter(None, map(granularity_of, MODES))))
        raise ConfigError(f"granularity: must be one of {known_ones}. Got {brief(granularity)}.")
    name = _described(options)
    if granularity_of(name) == granularity:
        options.pop("granularity", None)
    return _build(name, options)


def granularity_of(name: str) -> str | None:
    """Returns coremltools' granularity for a mode; None where it does not name one."""
    return MODES[name].words.get("granularity")


def mode_words() -> list[str]:
    """Returns every key that the options of a mode may have."""
    return [*MODES.options(), "granularity", "weight_threshold", "mode", "config_type"]


def _described(options: Mapping[str, Any]) -> str:
    """Returns the name of the mode that options describe.

    Where none takes all of them, it is the one that lacks nothing, so that the error names what is
    too much.

    Raises:
        ConfigError: every mode lacks something.
    """
    given = set(options)
    needs: dict[str, int] = {}
    takes: dict[str, bool] = {}
    leads: list[str] = []
    for name in MODES:
        options_here = options_of(MODES[name].kind)
        if not options_here:
            continue  # its name alone describes it
        first, *others = options_here
        needed = [first, *(each for each in others if each.required)]
        known = {first.name, *(each.name for each in others)}
        if "granularity" in options and granularity_of(name) == options["granularity"]:
            known.add("granularity")
        leads.append(first.name)
        if given >= {each.name for each in needed}:
            needs[name] = sum(len(each.parts) for each in needed)
            takes[name] = given <= known
    if not needs:
        *most, last = dict.fromkeys(reversed(leads))
        raise ConfigError(
            f"no mode: give one of {', '.join(most)} and {last} "
            f"(got {', '.join(sorted(options)) or 'nothing'})"
        )
    word = options.get("granularity")
    return max(needs, key=lambda n: (takes[n], word and granularity_of(n) == word, needs[n]))


def _by_name(name: object) -> str:
    """Returns the name under which a mode is registered, from its own or its class'."""
    if isinstance(name, str) and name.lower() in [*MODES]:
        return name.lower()
    classes = [MODES[known].kind.__name__ for known in MODES]
    raise ConfigError(f"mode: unknown {brief(name)}" + close_matches(name, classes))


def _build(name: str, options: Mapping[str, Any]) -> Mode:
    mode: Mode = MODES.build(name, options)
    return mode


def _agree(config: Config, section: str, keys: list[str], weight: str) -> Choice:
    settings = getattr(config, section)
    for key in keys:
        if settings[key] is None:
            return _choice(config, None, f"{section}[{key!r}]")
    first, *others = keys
    for other in others:
        if settings[other] != settings[first]:
            raise ConfigError(
                f"{section}: {first!r} and {other!r} give {weight!r}, which both read, different "
                f"modes; name {weight!r} in op_name_configs to decide"
            )
    return _choice(config, settings[first], f"{section}[{first!r}]")


def _choice(config: Config, setting: Setting, why: str) -> Choice:
    if isinstance(setting, Sized):
        return Choice(setting.mode, setting.weight_threshold, why)
    return Choice(setting, config.weight_threshold, why)


def _from_yaml(path: str | os.PathLike[str]) -> Config:
    content = read_yaml(path)
    if not isinstance(content, Mapping):
        raise ConfigError(f"{os.fspath(path)}: must hold a mapping with {', '.join(_SECTIONS)}")
    try:
        return _from_mapping(content)
    except ConfigError as error:
        raise ConfigError(f"{os.fspath(path)}: {error}") from None


def _from_mapping(content: Mapping[str, Any]) -> Config:
    kind = content.get("config_type")
    if not any(section in content for section in _SECTIONS):
        return Config(global_config=_setting("config", content, kind))
    for key in content:
        if key not in (*_SECTIONS, "config_type"):
            raise ConfigError(f"unknown section {brief(key)}" + close_matches(key, _SECTIONS))
    sections: dict[str, dict[str, Setting]] = {}
    for section in ("op_type_configs", "op_name_configs"):
        settings = content.get(section) or {}
        if not isinstance(settings, Mapping):
            raise ConfigError(f"{section}: must map names to modes. Got {brief(settings)}.")
        sections[section] = {
            str(key): _setting(f"{section}[{key!r}]", value, kind)
            for key, value in settings.items()
        }
    return Config(
        _setting("global_config", content.get("global_config"), kind),
        sections["op_type_configs"],
        sections["op_name_configs"],
        content.get("weight_threshold", DEFAULT_WEIGHT_THRESHOLD),
    )


def _setting(where: str, value: object, kind: object) -> Setting:
    if value is None or isinstance(value, Mode | Sized):
        return value
    if not isinstance(value, Mapping):
        raise ConfigError(f"{where}: must be the options of a mode, or null. Got {brief(value)}.")
    options = dict(value)
    if kind is not None and "mode" not in options:
        options.setdefault("config_type", kind)
    threshold = options.pop("weight_threshold", None)
    try:
        mode = mode_from_options(options)
        return (
            mode
            if threshold is None
            else Sized(mode, Config(weight_threshold=threshold).weight_threshold)
        )
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


def _from_coremltools(config: Any) -> Config:
    """Reads a `coremltools.optimize.coreml.OptimizationConfig` by its public attributes."""

    def read(where: str, op_config: Any) -> Setting:
        if op_config is None:
            return None
        kind = type(op_config).__name__
        if kind not in _CONFIG_TYPES:
            raise ConfigError(f"{where}: {kind} does not prune; {' and '.join(_CONFIG_TYPES)} do")
        options = {
            name: getattr(op_config, name) for name in mode_words() if hasattr(op_config, name)
        }
        return _setting(where, options, None)

    return Config(
        read("global_config", config.global_config),
        {
            key: read(f"op_type_configs[{key!r}]", value)
            for key, value in (config.op_type_configs or {}).items()
        },
        {
            key: read(f"op_name_configs[{key!r}]", value)
            for key, value in (config.op_name_configs or {}).items()
        },
    )


def _check_setting(where: str, setting: object) -> None:
    if setting is not None and not isinstance(setting, Mode | Sized):
        raise ConfigError(f"{where}: must be a mode or None. Got {brief(setting)}.")
