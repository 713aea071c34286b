"""The registry of kernels: by op type, by the opset since which they hold, and by backend."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

from mlpass.errors import ConfigError, close_matches
from mlpass.runtime.control import CONTROL
from mlpass.runtime.kernels.arguments import Kinds, Reader, annotations_of, kinds_of

Kernel = Callable[..., Any]
Arguments = Mapping[str, Any]  # what it is given by parameter: arrays, numbers, texts, flags
Decorated = TypeVar("Decorated", bound=Kernel)

_FIRST_OPSET = 13
_BACKENDS = ("numpy", "torch")


class Version(NamedTuple):
    """One kernel of an op.

    Attributes:
        since: the first iOS opset that it holds for.
        backend: the one that uses it; None for any.
        function: the kernel.
        ours: whether it is mlpass's own, rather than a user's.
    """

    since: int
    backend: str | None
    function: Kernel
    ours: bool

    @property
    def rank(self) -> tuple[bool, int, bool]:
        """What decides among the kernels that fit: the highest is taken."""
        return not self.ours, self.since, self.backend is not None


_KERNELS: dict[str, list[Version]] = {}
_BY_ROWS: dict[Kernel, str] = {}


def kernel(
    *op_types: str, since: int = _FIRST_OPSET, backend: str | None = None
) -> Callable[[Decorated], Decorated]:
    """Registers the decorated function as the kernel of `op_types`.

    A kernel of a user's takes the place of mlpass's own in every opset that it states, and on every
    backend. Registered again, the later one holds; an Interpreter keeps those it was made with.

    Args:
        op_types: MIL's op types, or the class names of custom layers.
        since: the first iOS opset that it holds for; a later registration takes over from there.
        backend: "numpy" or "torch" for one that only that backend uses, in the place of the common
            one.

    Raises:
        ConfigError: no op is named, or one that no kernel runs; or there is no such backend; or
            mlpass itself registers two kernels for the same.
    """
    if not op_types or not all(isinstance(op_type, str) for op_type in op_types):
        raise ConfigError('kernel: name the ops that it is for, as in @kernel("gelu")')
    if backend is not None and backend not in _BACKENDS:
        raise ConfigError(
            f"backend: must be one of {', '.join(map(repr, _BACKENDS))}. "
            f"Got {backend!r}{close_matches(str(backend), _BACKENDS) or '.'}"
        )
    # By who registers it: a function may come from anywhere, wrapped or shared.
    module = str(sys._getframe(1).f_globals.get("__name__"))
    ours = module.split(".")[0] == "mlpass"

    def register(function: Decorated) -> Decorated:
        for op_type in op_types:
            _add(op_type, Version(since, backend, function, ours))
        return function

    return register


def _add(op_type: str, new: Version) -> None:
    """Registers one kernel, in the place of the user's for the same, if there is one."""
    if op_type in CONTROL or op_type == "const":
        raise ConfigError(f"kernel: {op_type} is run by mlpass itself, never by a kernel")
    versions = _KERNELS.setdefault(op_type, [])
    same = [old for old in versions if (old.rank, old.backend) == (new.rank, new.backend)]
    if new.ours and same:
        where = f"backend {new.backend!r}" if new.backend else "any backend"
        raise ConfigError(
            f"kernel: {op_type} has one already since iOS{new.since} for {where}: "
            f"{same[0].function.__qualname__} of {same[0].function.__module__}"
        )
    versions[:] = [old for old in versions if old not in same] + [new]


def find_kernel(op_type: str, opset: int, backend: str = "numpy") -> Kernel | None:
    """Returns the kernel of `op_type` in `opset`, a user's before mlpass's own, or None.

    Among those of either the latest opset's is taken, then the backend's own.
    """
    fitting = _fitting(op_type, opset, backend)
    return fitting[-1].function if fitting else None


def find_kinds(op_type: str, opset: int, backend: str = "numpy") -> Kinds:
    """Returns what the parameters of an op's kernel are.

    Those that a user's kernel does not annotate are what they are to mlpass's own.
    """
    fitting = _fitting(op_type, opset, backend)
    attributes: dict[str, Reader] = {}
    variadic: set[str] = set()
    for version in (*[version for version in fitting if version.ours][-1:], *fitting[-1:]):
        told, kinds = annotations_of(version.function).keys(), kinds_of(version.function)
        attributes = {name: attributes[name] for name in attributes.keys() - told}
        attributes.update(kinds.attributes)
        variadic = (variadic - told) | kinds.variadic
    return Kinds(attributes, frozenset(variadic))


def _fitting(op_type: str, opset: int, backend: str) -> list[Version]:
    """Returns the kernels of an op that fit, the best one last."""
    fitting = (
        version
        for version in _KERNELS.get(op_type, ())
        if version.since <= opset and version.backend in (None, backend)
    )
    return sorted(fitting, key=lambda version: version.rank)


def by_rows(parameter: str) -> Callable[[Decorated], Decorated]:
    """Notes of the decorated kernel that it sees the rows of a parameter one by one.

    Those of several samples may so be given to it together: what it makes has a row for each.

    Args:
        parameter: (..., columns).
    """

    def note(function: Decorated) -> Decorated:
        _BY_ROWS[function] = parameter
        return function

    return note


def row_parameter(function: Kernel) -> str | None:
    """Returns the parameter whose rows a kernel sees one by one, None where it sees more."""
    return _BY_ROWS.get(function)


def registered() -> dict[str, list[Version]]:
    """Returns every kernel by op type."""
    return {op_type: list(versions) for op_type, versions in _KERNELS.items()}
