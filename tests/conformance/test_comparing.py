"""The comparison that the conformance run rests on can fail."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from comparing import DeclaredTypes, assert_close

from mlpass.program.ir import Op, TensorType, Value


@pytest.mark.parametrize(
    ("dtype", "error", "fits"),
    [
        ("fp32", 0.9e-4, True),
        ("fp32", 1e-3, False),
        ("fp16", 0.9e-1, True),  # 1e-2 of the scale, which is 10
        ("fp16", 2.1e-1, False),
    ],
)
def test_tolerances(dtype: str, error: float, fits: bool) -> None:
    expected = np.float32([10, 0])
    got = expected + np.float32([0, error])
    if fits:
        assert_close(got, expected, 1e-4, 1e-5, dtype, "out")
    else:
        with pytest.raises(AssertionError, match="out"):
            assert_close(got, expected, 1e-4, 1e-5, dtype, "out")


def test_share_of_mismatches_that_a_test_allows() -> None:
    got, expected = np.float32([0, 0, 0, 1]), np.zeros(4, np.float32)
    assert_close(got, expected, 1e-4, 1e-5, "fp32", "out", allowed=0.25)
    with pytest.raises(AssertionError):
        assert_close(got, expected, 1e-4, 1e-5, "fp32", "out", allowed=0.2)
    with pytest.raises(AssertionError):
        assert_close(got[:3], expected, 1e-4, 1e-5, "fp32", "out", allowed=1.0)


@pytest.mark.parametrize(
    ("dtype", "shape", "made", "text"),
    [
        ("fp16", (2, None), np.zeros((2, 5), np.float32), None),
        ("int32", (None,), np.zeros((2, 5), np.int32), None),  # of unknown rank
        ("fp16", (2,), np.zeros(2, np.float64), "declared fp16, made float64"),
        ("int32", (2,), np.zeros(2, np.int64), "declared int32, made int64"),
        ("fp32", (2,), np.zeros(3, np.float32), r"declared (2,), made (3,)"),
    ],
)
def test_declared_types(
    dtype: str, shape: tuple[int | None, ...], made: np.ndarray, text: str | None
) -> None:
    seen: set[str] = set()
    listener = DeclaredTypes(seen)
    op = Op("relu", "op", {}, (Value("out", TensorType(dtype, shape)),))
    listener.before(op, {})
    assert seen == {"relu"}
    if text is None:
        listener.after(op, (made,))
    else:
        with pytest.raises(AssertionError, match=re.escape(text)):
            listener.after(op, (made,))
