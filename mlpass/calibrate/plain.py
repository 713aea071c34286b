"""A calibrated run in plain words: from strings and numbers by name to what `prune` takes.

`{method: admm, iterations: 30, allocate: error}` has one level. A method's option goes by its own
name, or by `method_` and that name; where a mode, a storage, `Calibration` or a command has an
option of that name, as `block_size`, by the longer one alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlpass.calibrate.calibration import Calibration
from mlpass.errors import ConfigError, brief, close_matches
from mlpass.options import Option, options_of
from mlpass.registries import DEFAULT_METHOD, METHODS, MODES, taken_names
from mlpass.solvers.problem import Method
from mlpass.storage.given import every_storage_word, storage_words


def calibration_options() -> dict[str, Option]:
    """Returns the options of `Calibration` by name."""
    return {option.name: option for option in options_of(Calibration, declared=True)}


def taken_by_others() -> set[str]:
    """Returns the names that a method's option cannot have alone."""
    storages = {option.name for words in storage_words().values() for option in words.values()}
    return {*taken_names(), *MODES.options(), *storages}


def method_words() -> dict[str, str]:
    """Returns the option of a method that each word stands for."""
    names, taken = METHODS.options(), taken_by_others()
    words = {name: name for name in names if name not in taken}
    return words | {f"method_{name}": name for name in names}


def calibration_words() -> list[str]:
    """Returns every word that `plain_arguments` takes."""
    words = [*method_words(), *every_storage_word(), *calibration_options()]
    return ["sample_data", "method", *words]


def method_of(method: object, given: Mapping[str, object] | None = None) -> Method:
    """Returns a method given as one, by its name, or as a mapping of it and its options.

    Args:
        method: None is by magnitude.
        given: its options by name, where it is a name.

    Raises:
        ConfigError: there is no such method, or it has no such option.
    """
    given = given or {}
    if isinstance(method, Mapping):
        given, words = dict(method), method_words()
        method = given.pop("method", None)
        given = {words.get(key, key): value for key, value in given.items()}
    if isinstance(method, Method):
        if given:
            raise ConfigError(f"{next(iter(given))}: goes with the name of a method; got {method}")
        return method
    name = METHODS.find("magnitude" if method is None else method)
    known = {option.name: option for option in options_of(METHODS[name].kind)}
    values = {key: known[key].parse(each) if key in known else each for key, each in given.items()}
    built: Method = METHODS.build(name, values)
    return built


def plain_arguments(given: Mapping[str, object]) -> dict[str, Any]:
    """Returns the arguments of `make_calibration` that plain options stand for.

    Args:
        given: options by name; strings are read as what they stand for.

    Raises:
        ConfigError: an option is unknown, or its value is not valid.
    """
    given, words = dict(given), method_words()
    arguments: dict[str, Any] = {}
    own = {words[key]: given.pop(key) for key in [*given] if key in words}
    method = given.pop("method", None)
    if own or method is not None:
        arguments["method"] = method_of(DEFAULT_METHOD if method is None else method, own)
    known = calibration_options()
    for key, value in given.items():
        if key not in (*known, "sample_data"):
            raise ConfigError(
                f"unknown option {brief(key)}" + close_matches(key, calibration_words())
            )
        arguments[key] = known[key].parse(value) if key in known else value
        for part in known[key].parts if key in known else ():
            part.check(arguments[key])
    return arguments
