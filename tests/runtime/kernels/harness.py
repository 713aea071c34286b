"""Kernels in tables: each record is one call of one op and what must come out of it.

A test file lists records and runs them in every namespace:

    RECORDS = [
        Record("relu", {"x": np.asarray([-1, 2], np.float32)}, np.asarray([0, 2], np.float32)),
        Record("add", {"x": A, "y": B}, lambda x, y: x + y),
    ]

    @over(RECORDS)
    def test_kernel(record, namespace):
        check(record, namespace)

Data are numpy arrays; attributes (axes, sizes, flags, words) are given as Python values. The
namespaces differ in the form in which these come to be read:

    numpy       arrays as they are; attributes as Python values; arguments must stay unchanged
    read-only   read-only arrays that are views, not contiguous; attributes as numpy arrays
    strict      array_api_strict arrays; attributes as Python values
    torch       tensors, and the kernels that are torch's own; attributes as tensors
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import array_api_strict
import numpy as np
import pytest
import torch
from array_api_compat import torch as torch_namespace

from mlpass.runtime.backends.base import load_kernels
from mlpass.runtime.kernels.arguments import read
from mlpass.runtime.kernels.registry import find_kernel, find_kinds

load_kernels("numpy")
load_kernels("torch")

NAMESPACES = ("numpy", "read-only", "strict", "torch")

_XP = {
    "numpy": np,
    "read-only": np,
    "strict": array_api_strict,
    "torch": torch_namespace,
}


@dataclass(frozen=True, eq=False)
class Record:
    """One call.

    Attributes:
        op: MIL's op type.
        arguments: by parameter; arrays, tuples of arrays (variadic), or Python values.
        expected: the result (a tuple where there are several), or a function that returns it from
            the arguments as numpy arrays. Floats are expected in float32, 64-bit ints in int32.
        opset: iOS version.
        tolerance: relative to the largest magnitude of the expected result, and to each element.
        name: what is special about it.
        skip: namespaces that cannot run it, with the reason.
    """

    op: str
    arguments: Mapping[str, Any]
    expected: Any
    opset: int = 18
    tolerance: float = 1e-5
    name: str = ""
    skip: Mapping[str, str] | None = None

    def __str__(self) -> str:
        return "-".join(filter(None, (self.op, str(self.opset), self.name)))


def over(records: Sequence[Record]) -> Callable[[Any], Any]:
    """Returns a decorator: the test runs for each record in each namespace."""

    def decorate(test: Any) -> Any:
        test = pytest.mark.parametrize("namespace", NAMESPACES)(test)
        return pytest.mark.parametrize("record", records, ids=str)(test)

    return decorate


def check(record: Record, namespace: str) -> None:
    """Fails where the kernel's results are not the record's, or where it wrote to its arguments."""
    if namespace in (record.skip or {}):
        pytest.skip(record.skip[namespace])  # type: ignore[index]
    before = {name: _copied(value) for name, value in record.arguments.items()}
    results = run(record.op, record.arguments, namespace, record.opset)
    for name, value in record.arguments.items():
        _same(before[name], value, f"{record}: the kernel wrote to {name}")
    expected = record.expected
    if callable(expected):
        expected = expected(**before)
    compare(results, expected, record.tolerance, str(record))


def run(op: str, arguments: Mapping[str, Any], namespace: str, opset: int = 18) -> Any:
    """Returns what the kernel makes of `arguments` in `namespace`, as numpy arrays.

    Raises:
        LookupError: the op has no kernel.
    """
    backend = "torch" if namespace == "torch" else "numpy"
    function = find_kernel(op, opset, backend)
    if function is None:
        raise LookupError(f"no kernel for {op} in iOS{opset}")
    given = given_to(op, arguments, namespace, opset)
    return to_numpy(function(_XP[namespace], **given))


def given_to(op: str, arguments: Mapping[str, Any], namespace: str, opset: int) -> dict[str, Any]:
    """Returns what the kernel is given: attributes read by its annotations, as a run does it."""
    backend = "torch" if namespace == "torch" else "numpy"
    converted = {name: convert(value, namespace) for name, value in arguments.items()}
    return read(find_kinds(op, opset, backend), converted)


def convert(value: Any, namespace: str) -> Any:
    """Returns an argument in the form in which `namespace` gets it: see the top of this file."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, tuple):
        return tuple(convert(item, namespace) for item in value)
    if not isinstance(value, np.ndarray):
        if namespace in ("numpy", "strict"):
            return value
        value = _attribute(value)
    if namespace == "read-only":
        return _frozen(value)
    if namespace == "strict":
        return array_api_strict.asarray(value)
    # A copy: several records may share one array, and torch knows no read-only one.
    return torch.from_numpy(np.array(value)) if namespace == "torch" else value


def to_numpy(result: Any) -> Any:
    """Returns a kernel's result as numpy array, or a tuple of them."""
    if isinstance(result, tuple | list):
        return type(result)(to_numpy(item) for item in result)
    if isinstance(result, torch.Tensor):
        return result.detach().numpy()
    return np.asarray(result)


def compare(results: Any, expected: Any, tolerance: float, what: str) -> None:
    """Fails where `results` differ from `expected` in number, shape, dtype or value."""
    if isinstance(expected, tuple):
        assert isinstance(results, tuple), f"{what}: one result, expected {len(expected)}"
        assert len(results) == len(expected), f"{what}: {len(results)} results"
        for index, (result, wanted) in enumerate(zip(results, expected, strict=True)):
            compare(result, wanted, tolerance, f"{what}[{index}]")
        return
    assert isinstance(results, np.ndarray), f"{what}: {type(results).__name__}, expected one array"
    expected = np.asarray(expected)
    assert results.shape == expected.shape, f"{what}: {results.shape}, expected {expected.shape}"
    dtype = {"f": np.dtype(np.float32), "i8": np.dtype(np.int32)}.get(
        expected.dtype.kind if expected.dtype.kind == "f" else expected.dtype.str[1:],
        expected.dtype,
    )
    assert results.dtype == dtype, f"{what}: {results.dtype}, expected {dtype}"
    if dtype.kind != "f":
        np.testing.assert_array_equal(results, expected, err_msg=what)
        return
    finite = np.abs(expected[np.isfinite(expected)])
    scale = float(finite.max()) if finite.size else 0.0
    np.testing.assert_allclose(
        results, expected, rtol=tolerance, atol=tolerance * scale, err_msg=what
    )


def _attribute(value: Any) -> np.ndarray:
    array = np.asarray(value)
    if array.size == 0 or array.dtype.kind == "i":
        return array.astype(np.int32)
    return array.astype(np.float32) if array.dtype.kind == "f" else array


def _frozen(array: np.ndarray) -> np.ndarray:
    """Returns `array` as a read-only view whose last axis is not contiguous."""
    if array.ndim:
        wide = np.empty((*array.shape[:-1], 2 * array.shape[-1]), array.dtype)
        wide[..., ::2] = array
        array = wide[..., ::2]
    else:
        array = array.copy()
    array.flags.writeable = False
    return array


def _copied(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(_copied(item) for item in value)
    return value.copy() if isinstance(value, np.ndarray) else value


def _same(before: Any, after: Any, what: str) -> None:
    if isinstance(before, tuple):
        for old, new in zip(before, after, strict=True):
            _same(old, new, what)
    elif isinstance(before, np.ndarray):
        np.testing.assert_array_equal(after, before, err_msg=what)
