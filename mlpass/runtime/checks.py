"""Whether a program fits the kernels: all that is wrong with it, said at once."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cache

from mlpass.errors import MlpassError, ModelFormatError, UnsupportedOpError
from mlpass.program.ir import Function, Op
from mlpass.runtime.control import BLOCKS
from mlpass.runtime.kernels.registry import registered
from mlpass.runtime.ops import CUSTOM_OP, kernel_name, label_of, parameters_of


class Problems:
    """What is wrong with a program, gathered to be said at once."""

    def __init__(self, function: Function, backend: str) -> None:
        """Notes nothing yet; `function` and `backend` say where."""
        self._where = f"function {function.name!r} (iOS{function.opset}, {backend})"
        self._unsupported: dict[str, list[str]] = {}
        self._malformed: list[str] = []

    def _add_unsupported(self, kind: str, label: str) -> None:
        self._unsupported.setdefault(kind, []).append(label)

    def _add_malformed(self, text: str) -> None:
        self._malformed.append(text)

    def check(self, op: Op, function: Callable[..., object] | None) -> None:
        """Notes what is wrong with an op, given its kernel, or None where it has no kernel."""
        label = label_of(op)
        if function is None:
            kind = kernel_name(op)
            if op.type == CUSTOM_OP:
                kind = f"custom layer {kind!r}"
            elif kind in registered():
                since = min(version.since for version in registered()[kind])
                kind = f"{kind} before iOS{since}"
            self._add_unsupported(kind, label)
            return
        known, required, takes_any = _signature(function)
        given = {parameter for parameter, _ in parameters_of(op)}
        unknown = sorted(given - known)
        if unknown and not takes_any:
            self._add_malformed(f"{op.type} {label!r}: has no parameter {', '.join(unknown)}")
        stated = {parameter for parameter, sources in parameters_of(op) if sources}
        if missing := sorted(required - stated):
            self._add_malformed(f"{op.type} {label!r}: lacks {', '.join(missing)}")
        blocks = BLOCKS.get(op.type, 0)
        if len(op.blocks) != blocks:
            self._add_malformed(
                f"{op.type} {label!r}: has {len(op.blocks)} nested blocks, not {blocks}"
            )

    def report(self) -> None:
        """Raises what was noted.

        Raises:
            UnsupportedOpError: ops have no kernel.
            ModelFormatError: all ops have kernels, but some do not fit theirs.
        """
        texts = []
        if self._unsupported:
            listed = ", ".join(
                f"{kind} ({_few(labels)})" for kind, labels in sorted(self._unsupported.items())
            )
            texts.append(
                f"no kernel for {listed}. A kernel of your own is registered with "
                "@mlpass.runtime.kernels.registry.kernel(<op type, or a custom layer's class name>)"
            )
        texts += self._malformed
        if texts:
            error: type[MlpassError] = UnsupportedOpError if self._unsupported else ModelFormatError
            raise error(f"{self._where}: {'; '.join(texts)}")


def _few(labels: list[str]) -> str:
    shown = ", ".join(repr(label) for label in labels[:3])
    return shown if len(labels) <= 3 else f"{shown} and {len(labels) - 3} more"


@cache
def _signature(function: Callable[..., object]) -> tuple[frozenset[str], frozenset[str], bool]:
    """Returns a kernel's parameters, those it must be given, and whether it takes any others."""
    _, *parameters = inspect.signature(function).parameters.values()
    named = [item for item in parameters if item.kind is not item.VAR_KEYWORD]
    return (
        frozenset(item.name for item in named),
        frozenset(item.name for item in named if item.default is item.empty),
        len(named) != len(parameters),
    )
