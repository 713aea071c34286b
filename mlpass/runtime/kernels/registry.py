"""The registry of kernels: by op type, by the opset since which they hold, and by backend."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

Kernel = Callable[..., Any]
Decorated = TypeVar("Decorated", bound=Kernel)

_FIRST_OPSET = 13


class Version(NamedTuple):
    """One kernel of an op: since which iOS opset it holds, and for which backend alone, if any."""

    since: int
    backend: str | None
    function: Kernel


_KERNELS: dict[str, list[Version]] = {}
_BY_ROWS: dict[Kernel, str] = {}


def kernel(
    *op_types: str, since: int = _FIRST_OPSET, backend: str | None = None
) -> Callable[[Decorated], Decorated]:
    """Registers the decorated function as the kernel of `op_types`.

    Args:
        op_types: MIL's op types.
        since: the first iOS opset that it holds for; a later registration takes over from there.
        backend: "torch" for one that only that backend uses, in the place of the common one.
    """

    def register(function: Decorated) -> Decorated:
        for op_type in op_types:
            _KERNELS.setdefault(op_type, []).append(Version(since, backend, function))
        return function

    return register


def find_kernel(op_type: str, opset: int, backend: str = "numpy") -> Kernel | None:
    """Returns the kernel of `op_type` in `opset`, the backend's own where it has one, or None."""
    fitting = [
        version
        for version in _KERNELS.get(op_type, ())
        if version.since <= opset and version.backend in (None, backend)
    ]
    newest = max(fitting, key=lambda v: (v.since, v.backend is not None), default=None)
    return newest.function if newest else None


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
