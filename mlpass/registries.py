"""The registries of modes, methods and storages: dataclasses by name.

To add one is a file with a decorated class, and for mlpass' own a line below: its name and its
module, so that names are known before modules are imported. A name given twice is an error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeVar

from mlpass.errors import ConfigError, brief, close_matches
from mlpass.options import Option, check_options, option, options_of

if TYPE_CHECKING:
    from typing_extensions import dataclass_transform
else:  # it tells type checkers alone that `mode`, `method` and `storage` make dataclasses

    def dataclass_transform(**_: Any) -> Callable[[Any], Any]:
        """Returns a decorator that changes nothing."""
        return lambda function: function


Kind = TypeVar("Kind")

# What commands, configs and grids have a use of their own for.
_TAKEN = """
    help model output json force config weight_threshold granularity mode method sample_data resume
    storage name steps dense batch_size learning_rate seed test_data configs evaluate weight jobs
    allocate max_nbytes propagate target fallback memory_budget backend device function_name
    minimum_deployment_target joint_compression budget max_size bits held_out logits tune
    weights_only for processor executor scheduler adapters
"""


@dataclass(frozen=True)
class Entry:
    """A registered class."""

    kind: Any
    words: Mapping[str, str]


class Registry:
    """Classes by name. Those of mlpass are imported when they are first asked for."""

    def __init__(self, what: str, homes: Mapping[str, str]) -> None:
        """Notes the modules of mlpass' own."""
        self.what = what
        self.homes = dict(homes)
        self._entries: dict[str, Entry] = {}

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys([*self.homes, *self._entries]))

    def add(self, name: str, words: Mapping[str, str]) -> Callable[[type[Kind]], type[Kind]]:
        """Returns a decorator that makes a class a frozen dataclass and registers it.

        Fields made by `option` are checked before its own `__post_init__` runs.

        Raises:
            ConfigError: the name is another's.
        """

        def register(kind: type[Kind]) -> type[Kind]:
            home = self.homes.get(name, kind.__module__)
            known = self._entries.get(name)
            if name != name.lower() or not name:
                raise ConfigError(f"{self.what}: a name must be in lower case. Got {name!r}.")
            if known is not None or home != kind.__module__:
                other = home if known is None else known.kind.__module__
                raise ConfigError(
                    f"{self.what}: {name!r} is registered already, in {other}; "
                    f"give {kind.__name__} another name"
                )
            made = _checked(kind)
            self._entries[name] = Entry(made, dict(words))
            return made

        return register

    def remove(self, name: str) -> None:
        """Takes a class that mlpass does not have itself out again."""
        self._entries.pop(name)

    def loaded(self, name: str) -> Entry | None:
        """Returns what is registered under a name; None where its module is not imported yet."""
        return self._entries.get(name)

    def __getitem__(self, name: str) -> Entry:
        if name not in self._entries:
            import_module(self.homes[name])
        return self._entries[name]

    def name_of(self, holder: object) -> str | None:
        """Returns the name under which an object's class is registered; None where it is not."""
        return next((name for name in self if self[name].kind is type(holder)), None)

    def options(self) -> dict[str, Option]:
        """Returns the options of all classes; those of one name count once."""
        every = [each for name in self for each in options_of(self[name].kind)]
        return {each.name: each for each in reversed(every)}

    def find(self, name: object) -> str:
        """Returns a name as it is registered; upper and lower case are the same.

        Raises:
            ConfigError: there is no such name.
        """
        if isinstance(name, str) and name.lower() in [*self]:
            return name.lower()
        raise ConfigError(
            f"{self.what}: must be one of {', '.join(self)}. "
            f"Got {brief(name)}{close_matches(name, self) or '.'}"
        )

    def build(self, name: str, given: Mapping[str, Any]) -> Any:
        """Returns an object of the class of that name.

        Args:
            name: as it is registered.
            given: its options by name, or by the names of their fields.

        Raises:
            ConfigError: an option is another's, out of its range, or missing.
        """
        kind = self[name].kind
        known = {each.name: each for each in options_of(kind)}
        parts = {part.name for each in known.values() for part in each.parts}
        values: dict[str, Any] = {}
        for key, value in given.items():
            if key not in known and key not in parts:
                raise ConfigError(f"{key}: does not go with {kind.__name__}")
            values |= known[key].values(value) if key in known else {key: value}
        missing = [
            each.name
            for each in known.values()
            if any(part.default is MISSING and part.name not in values for part in each.parts)
        ]
        if missing:
            raise ConfigError(f"{kind.__name__}: needs {' and '.join(missing)}")
        return kind(**values)


def _checked(kind: type[Kind]) -> type[Kind]:
    """Returns a class as a frozen dataclass whose fields are checked when it is made."""
    own: Callable[[Any], None] | None = vars(kind).get("__post_init__")

    def check(self: Any) -> None:
        check_options(self)
        if own is not None:
            own(self)

    if own is not None or not hasattr(kind, "__post_init__"):
        kind.__post_init__ = check  # type: ignore[attr-defined]
    return kind if "__dataclass_fields__" in vars(kind) else dataclass(frozen=True)(kind)


_SPARSITY, _SOLVERS, _STORAGE = "mlpass.sparsity", "mlpass.solvers", "mlpass.storage"

MODES = Registry(
    "mode",
    {
        "threshold": f"{_SPARSITY}.modes",
        "percentile": f"{_SPARSITY}.modes",
        "nm": f"{_SPARSITY}.modes",
        "block": f"{_SPARSITY}.modes",
        "kernel": f"{_SPARSITY}.modes",
        "channel": f"{_SPARSITY}.modes",
    },
)
METHODS = Registry(
    "method",
    {
        "magnitude": f"{_SOLVERS}.wanda",
        "wanda": f"{_SOLVERS}.wanda",
        "sparsegpt": f"{_SOLVERS}.sparsegpt",
        "admm": f"{_SOLVERS}.admm",
    },
)
DEFAULT_METHOD = "sparsegpt"  # where there are samples

STORAGES = Registry(
    "storage",
    {
        "quantize": f"{_STORAGE}.quantized",
        "palettize": f"{_STORAGE}.palette",
        "plain": f"{_STORAGE}.plain",
        "lossless": f"{_STORAGE}.lossless",
    },
)


def taken_names() -> set[str]:
    """Returns the names that an option cannot have alone where all kinds of options meet.

    `mode`, `method` or the storage's own name is written before it there.
    """
    return {*_TAKEN.split(), *STORAGES}


@dataclass_transform(frozen_default=True, field_specifiers=(option, field))
def mode(name: str, **words: str) -> Callable[[type[Kind]], type[Kind]]:
    """Returns a decorator that registers a mode.

    Args:
        name: in lower case.
        **words: `granularity`, under which coremltools knows it.
    """
    return MODES.add(name, words)


@dataclass_transform(frozen_default=True, field_specifiers=(option, field))
def method(name: str) -> Callable[[type[Kind]], type[Kind]]:
    """Returns a decorator that registers a method, by its name in lower case."""
    return METHODS.add(name, {})


@dataclass_transform(frozen_default=True, field_specifiers=(option, field))
def storage(name: str, *, lead: str, **words: str) -> Callable[[type[Kind]], type[Kind]]:
    """Returns a decorator that registers a storage.

    Args:
        name: in lower case; the flag and the key that take its leading option.
        lead: the field that this is; "" for a storage without options, which has no flag or key.
        **words: `flag`: where nothing leads it, the help of a flag of its name that asks for it.
    """
    return STORAGES.add(name, {"lead": lead, **words})
