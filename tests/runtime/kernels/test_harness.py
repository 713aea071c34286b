"""The harness of the kernel tables: it finds what is wrong."""

import numpy as np
import pytest
from harness import NAMESPACES, Record, check, compare, convert, over

from mlpass.runtime.kernels.registry import kernel

X = np.arange(6, dtype=np.float32).reshape(2, 3)


@kernel("harness_double")
def harness_double(xp, *, x, axes):
    """x (...) -> 2 x."""
    assert [int(axis) for axis in axes] == [0, 1]
    return x * 2


@kernel("harness_careless")
def harness_careless(xp, *, x):
    """x (...) -> x, written over."""
    x += 1
    return x


@over([Record("harness_double", {"x": X, "axes": [0, 1]}, lambda x, axes: x.astype(float) * 2)])
def test_it_passes_what_is_right(record, namespace):
    check(record, namespace)


@pytest.mark.parametrize("namespace", NAMESPACES)
@pytest.mark.parametrize(
    "expected", [X, X[:1] * 2, (X * 2, X * 2), X.astype(np.int32) * 2], ids=str
)
def test_it_fails_what_is_wrong(namespace, expected):
    with pytest.raises(AssertionError):
        check(Record("harness_double", {"x": X, "axes": [0, 1]}, expected), namespace)


def test_it_fails_a_kernel_that_writes_to_its_arguments():
    record = Record("harness_careless", {"x": X.copy()}, X + 1)
    with pytest.raises(AssertionError, match="wrote to x"):
        check(record, "numpy")
    with pytest.raises(ValueError, match="read-only"):
        check(record, "read-only")


def test_it_fails_an_op_without_kernel():
    with pytest.raises(LookupError, match="no kernel for harness_nothing in iOS18"):
        check(Record("harness_nothing", {}, X), "numpy")


def test_it_fails_nan_and_wrong_dtypes():
    with pytest.raises(AssertionError):
        compare(np.asarray([np.nan], np.float32), np.zeros(1, np.float32), 1e-5, "")
    with pytest.raises(AssertionError, match="float64, expected float32"):
        compare(np.zeros(1), np.zeros(1), 1e-5, "")
    with pytest.raises(AssertionError, match="int64, expected int32"):
        compare(np.zeros(1, np.int64), np.zeros(1, np.int64), 1e-5, "")


def test_attributes_reach_each_namespace_in_its_form():
    forms = {namespace: type(convert([1, 2], namespace)).__name__ for namespace in NAMESPACES}
    assert forms == {"numpy": "list", "read-only": "ndarray", "strict": "list", "torch": "Tensor"}
