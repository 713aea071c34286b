"""What a config says of one weight: the most specific entry that matches it."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import NamedTuple

from mlpass.errors import ConfigError, brief, close_matches
from mlpass.plan.config import Config, OpConfig, OpConfigLike, op_config_of

_GLOBAL, _NAMES = "global_config", "op_name_configs"


class Found(NamedTuple):
    """What a config says of one weight.

    Attributes:
        op_config: that holds for it, with its threshold; None where it is left alone.
        why: which entry of the config says so.
    """

    op_config: OpConfig | None
    why: str

    @property
    def is_general(self) -> bool:
        """Whether that is for every weight, rather than for this one or its kind."""
        return self.why == _GLOBAL

    @property
    def is_by_name(self) -> bool:
        """Whether that is for this one, by name."""
        return self.why.startswith(_NAMES)


def look_up(config: Config, names: tuple[str, ...], op_types: tuple[str, ...]) -> Found:
    """Returns what `config` says of one weight.

    Exact names come first, then globs (the longest that matches), then op types, then the global
    one. Where several uses of a weight match different entries of one rank, None wins.

    Args:
        config: the config.
        names: of the weight and of the ops that read it.
        op_types: of the ops that read it.

    Raises:
        ConfigError: two entries of one rank say different things of the weight.
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
    return _found(config, config.global_config, _GLOBAL)


def unmatched(config: Config, names: set[str], op_types: set[str]) -> str | None:
    """Returns what is wrong with the first entry that can never match, None where all can."""
    for pattern in config.op_name_configs:
        if pattern not in names and not any(fnmatchcase(name, pattern) for name in names):
            return f"op_name_configs: no weight or op is named {brief(pattern)}" + (
                close_matches(pattern, names)
            )
    for op_type in config.op_type_configs:
        if op_type not in op_types:
            return f"op_type_configs: no op with weights is a {brief(op_type)}" + (
                close_matches(op_type, op_types) or f"; those are {', '.join(sorted(op_types))}"
            )
    return None


def _agree(config: Config, section: str, keys: list[str], weight: str) -> Found:
    entries = getattr(config, section)
    for key in keys:
        if entries[key] is None:
            return _found(config, None, f"{section}[{key!r}]")
    first, *others = keys
    for other in others:
        if entries[other] != entries[first]:
            raise ConfigError(
                f"{section}: {first!r} and {other!r} give {weight!r}, which both read, "
                f"different modes or storages; name {weight!r} in op_name_configs to decide"
            )
    return _found(config, entries[first], f"{section}[{first!r}]")


def _found(config: Config, entry: OpConfigLike, why: str) -> Found:
    return Found(op_config_of(entry, config.weight_threshold), why)
