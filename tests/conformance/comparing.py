"""When is a result right? Plain functions, apart from the plugin that puts them in place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from mlpass.program.ir import Op, TensorType

FP16_TOLERANCE = 1e-2


class DeclaredTypes:
    """A listener that fails where an op's result is not of the type that the program declares."""

    def __init__(self, seen: set[str]) -> None:
        self._seen = seen  # the op types that ran

    def before(self, op: Op, inputs: Mapping[str, Any]) -> None:
        self._seen.add(op.type)

    def after(self, op: Op, outputs: tuple[Any, ...]) -> None:
        for value, result in zip(op.outputs, outputs, strict=True):
            if not isinstance(value.type, TensorType) or value.type.dtype == "string":
                continue
            where = f"{op.type} {op.name!r} -> {value.name!r}"
            shape, dtype = tuple(result.shape), str(result.dtype).removeprefix("torch.")
            wanted = _compute_dtype(value.type.dtype)
            if dtype != wanted:
                raise AssertionError(f"{where}: declared {value.type.dtype}, made {dtype}")
            # An unknown rank is written as one unknown size.
            fits = value.type.shape == (None,) or (
                len(shape) == len(value.type.shape)
                and all(
                    known in (None, size)
                    for known, size in zip(value.type.shape, shape, strict=True)
                )
            )
            if not fits:
                raise AssertionError(f"{where}: declared {value.type.shape}, made {shape}")


def _compute_dtype(dtype: str) -> str:
    if dtype.startswith("fp"):
        return "float32"
    return {"int4": "int8", "uint1": "uint8", "uint2": "uint8", "uint4": "uint8"}.get(dtype, dtype)


def assert_close(
    got: Any, expected: Any, atol: float, rtol: float, dtype: str, name: str, allowed: float = 0.0
) -> None:
    """Fails where `got` is not `expected`, within the tolerance of its precision."""
    expected = np.asarray(expected)
    if expected.dtype.kind == "f" and dtype == "fp16":
        finite = np.abs(expected[np.isfinite(expected)])
        scale = float(finite.max()) if finite.size else 1.0
        atol, rtol = FP16_TOLERANCE * scale, FP16_TOLERANCE
    try:
        np.testing.assert_allclose(got, expected, atol=atol, rtol=rtol, err_msg=name)
    except AssertionError:
        close = (
            np.isclose(got, expected, atol=atol, rtol=rtol)
            if np.shape(got) == expected.shape
            else None
        )
        if close is None or 1 - close.mean() > allowed:
            raise
