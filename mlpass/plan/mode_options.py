"""Which mode a set of options describes, by coremltools' own words for them."""

from __future__ import annotations

from collections.abc import Mapping

from mlpass.errors import ConfigError, brief, close_matches
from mlpass.options import options_of
from mlpass.registries import MODES
from mlpass.sparsity.mode import Mode
from mlpass.storage.given import every_storage_word

PRUNERS = ("OpMagnitudePrunerConfig", "OpThresholdPrunerConfig")


def mode_from_options(options: Mapping[str, object]) -> Mode:
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
            words = [*known, *every_storage_word()]
            raise ConfigError(f"unknown option {brief(key)}" + close_matches(key, words))
    kind = options.pop("config_type", None)
    if kind is not None and kind not in PRUNERS:
        raise ConfigError(f"config_type: {brief(kind)} does not prune; {' and '.join(PRUNERS)} do")
    if kind == "OpThresholdPrunerConfig":
        return _build("threshold", options)
    granularity = options.get("granularity")
    granularities = [word for word in map(granularity_of, MODES) if word is not None]
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


def _described(options: Mapping[str, object]) -> str:
    """Returns the name of the mode that options describe.

    Where none takes all of them, it is the one that lacks nothing, so that the error names what is
    too much.
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
    near = close_matches(name, classes) or f"; the modes are {', '.join(MODES)}"
    raise ConfigError(f"mode: unknown {brief(name)}{near}")


def _build(name: str, options: Mapping[str, object]) -> Mode:
    mode: Mode = MODES.build(name, options)
    return mode
