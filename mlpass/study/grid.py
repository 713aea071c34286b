"""Which configs a study tries, as a user gives them: a list, or a YAML file.

A grid file is a list, or a mapping with such a list under `configs` and method names under
`methods`, each config then being tried by each method. An entry holds what a config holds, and may
name a `method`, a storage, options of `mlpass.prune`, and itself::

    - {target_sparsity: 0.5}
    - {n_m_ratio: [2, 4], method: sparsegpt}
    - {target_sparsity: 0.5, palettize: 4, group_size: 8}
    - name: careful
      global_config: {target_sparsity: 0.75}
      op_type_configs: {linear: null}
      method: admm
      iterations: 30
      allocate: error

A method's and a storage's own options stand beside it: see `mlpass.calibrate.plain` and
`mlpass.storage.words`. Without a method that needs samples, storages are data-free, too.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mlpass.calibrate.plain import (
    calibration_options,
    calibration_words,
    method_of,
    method_words,
    plain_arguments,
)
from mlpass.errors import ConfigError, brief, close_matches
from mlpass.options import options_of
from mlpass.plan.config import SECTIONS, Config, configured, op_config_of
from mlpass.plan.mode_options import mode_words
from mlpass.plan.yaml_files import read_yaml
from mlpass.registries import METHODS
from mlpass.solvers.problem import Method
from mlpass.solvers.wanda import Magnitude
from mlpass.sparsity.modes import NM, Block, Channel, Mode, Percentile
from mlpass.storage.given import StorageLike, every_storage_word, take_storage

# Options of how models are run, which a study sets itself.
_SAID = ("sample_data", "backend", "function_name")


@dataclass(frozen=True)
class Candidate:
    """One way to prune a model.

    Attributes:
        name: as reports show it.
        config: which mode and storage each weight gets.
        method: that scores, and may update what is kept.
        options: further arguments of `mlpass.prune`.
    """

    name: str
    config: Config
    method: Method = field(default_factory=Magnitude)
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def phrase(self) -> str:
        """How people say its config; its name where it has one of its own."""
        entry = op_config_of(self.config.global_config)
        return entry.phrase if entry is not None and self.name == str(entry) else self.name

    @property
    def data_free(self) -> bool:
        """Whether it prunes without samples."""
        return not self.method.needs_samples and not self.options

    @property
    def looks_at_dense(self) -> bool:
        """Whether it looks at what layers meet in the model as it is."""
        options = self.options
        return (
            "budget" in options
            or options.get("propagate") == "dense"
            or options.get("allocate", "uniform") != "uniform"
        )

    @property
    def method_name(self) -> str:
        """The method as text: its name, and its options that are not the default."""
        options = options_of(type(self.method)) if METHODS.name_of(self.method) else ()
        given = {each.name: each.given(self.method) for each in options if each.name != "refit"}
        texts = [f"{key}={text}" for key, text in given.items() if text is not None]
        return str(self.method) + (f" ({', '.join(texts)})" if texts else "")


def patterns() -> list[Mode]:
    """Returns twenty modes that show what each kind of pattern does to a model."""
    return [
        *(Percentile(share) for share in (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.75, 0.9)),
        *(Percentile(share, scope="global") for share in (0.25, 0.5, 0.75)),
        *(Percentile(share, scope="row") for share in (0.5, 0.75)),
        *(NM(zeros, 4) for zeros in (1, 2, 3)),
        *(Block(share, block_size=4) for share in (0.5, 0.75)),
        *(Channel(share) for share in (0.1, 0.25)),
    ]


def make_candidates(
    configs: Any, method: Any = None, storage: StorageLike = None
) -> list[Candidate]:
    """Returns the candidates that a user's grid describes.

    Args:
        configs: a sequence of configs in any form, of mappings as in a grid file, or of
            candidates; or the path of a grid file.
        method: by which to try each that names none itself: a method, its name, a mapping of it and
            its options, or several.
        storage: for the entries of each that name none.

    Raises:
        ConfigError: one of them is not valid, two are the same, or the list is empty.
        OSError: the file cannot be read.
    """
    where = "configs"
    if isinstance(configs, str | os.PathLike):
        where = os.fspath(configs)
        configs, named = _read(configs)
        method = named if method is None else method
    if isinstance(configs, str | Mapping) or not isinstance(configs, Sequence):
        raise ConfigError(
            f"{where}: must be a list of configs, or the path of a YAML file with one. "
            f"Got {type(configs).__name__}."
        )
    several = isinstance(method, Sequence) and not isinstance(method, str)
    methods = [method_of(one) for one in (method if several else [method])]
    found = []
    for number, entry in enumerate(configs):
        try:
            found += _candidates(entry, number, methods, storage)
        except ConfigError as error:
            raise ConfigError(f"{where}[{number}]: {error}") from None
    if not found:
        raise ConfigError(f"{where}: holds no configs; give at least one")
    keys = Counter((one.name, one.method_name, repr(one.options)) for one in found)
    (name, by, _), count = keys.most_common(1)[0]
    if count > 1:
        raise ConfigError(
            f"{where}: {name!r} by {by} appears {count} times; give each its own name"
        )
    return found


def _candidates(
    entry: object, number: int, methods: Sequence[Method], storage: StorageLike
) -> list[Candidate]:
    """Returns the candidates of one entry: by its own method, or by each of `methods`."""
    if isinstance(entry, Candidate):
        return [entry]
    name, options = None, {}
    if isinstance(entry, Mapping):
        entry = dict(entry)
        name = entry.pop("name", None)
        words = method_words()
        own = {words[key]: entry.pop(key) for key in [*entry] if key in words}
        if "method" in entry:
            methods = [method_of(entry.pop("method"), own)]
        elif own:
            raise ConfigError(f"{next(iter(own))}: name the method that it is an option of")
        known = [key for key in calibration_options() if key in entry and key not in _SAID]
        options = {key: entry.pop(key) for key in known}
        plain_arguments(options)  # says here what is wrong with them
        _check_words(entry)
        if "config" in entry:
            own_storage = take_storage(entry)
            storage = storage if own_storage is None else own_storage
        if set(entry) == {"config"}:
            entry = entry["config"]
    config = configured(entry, storage)
    if name is not None and not isinstance(name, str | int | float):
        raise ConfigError(f"name: must be a text. Got {brief(name)}.")
    name = str(name or _name(config, number))
    return [Candidate(name, config, method, options) for method in methods]


def _check_words(entry: Mapping[Any, object]) -> None:
    """Raises ConfigError where what is left of an entry is not a config's."""
    known = ["config", "config_type", *SECTIONS, *mode_words(), *every_storage_word()]
    for key in entry:
        if key not in known:
            words = [*known, "name", *calibration_words()]
            raise ConfigError(f"unknown option {brief(key)}{close_matches(key, words)}")


def _name(config: Config, number: int) -> str:
    """Returns a config as text: its one entry where there is but that."""
    entry = config.global_config
    plain = config == Config(entry) and entry is not None
    return str(op_config_of(entry)) if plain else f"config {number + 1}"


def _read(path: str | os.PathLike[str]) -> tuple[object, object]:
    """Returns the configs and methods of a grid file."""
    content = read_yaml(path)
    if isinstance(content, Mapping) and set(content) <= {"configs", "methods"}:
        return content.get("configs", []), content.get("methods")
    if not isinstance(content, list):
        raise ConfigError(
            f"{os.fspath(path)}: must hold a list of configs, or a mapping with configs and methods"
        )
    return content, None
