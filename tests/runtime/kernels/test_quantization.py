"""Activations as 8-bit integers and back."""

import numpy as np
import pytest
from harness import NAMESPACES, Record, check, over, run

from mlpass.runtime.kernels import quantization as _  # noqa: F401  (registers its kernels)

RNG = np.random.default_rng(0)
X = (RNG.standard_normal((2, 3, 4)) * 3).astype(np.float32)
SCALE = np.asarray([0.1, 0.02, 0.5], np.float32)
ONE_SCALE = np.asarray(0.05, np.float32)
HALVES = np.asarray([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 200, -200], np.float32)


def along(part, x, axis):
    """Returns a scalar as it is, a vector so that it broadcasts along `axis`."""
    shape = [-1 if axis is not None and i == axis % x.ndim else 1 for i in range(x.ndim)]
    return part.reshape(shape if part.ndim else ()).astype(np.float64)


def quantized(input, scale, output_dtype, zero_point=None, axis=None):
    steps = np.round(input / along(scale, input, axis))
    if zero_point is not None:
        steps = steps + along(zero_point, input, axis)
    info = np.iinfo(output_dtype)
    return steps.clip(info.min, info.max).astype(output_dtype)


def dequantized(input, scale, zero_point=None, axis=None):
    zero = 0 if zero_point is None else along(zero_point, input, axis)
    return (input - zero) * along(scale, input, axis)


RECORDS = [
    *(
        Record(
            "quantize",
            {"input": X, "scale": scale, "output_dtype": dtype}
            | ({"zero_point": zero.astype(dtype)} if zero is not None else {})
            | ({"axis": axis} if scale.ndim else {}),
            quantized,
            opset=17,
            name=f"{dtype} {zero is None} {axis}",
        )
        for dtype in ("int8", "uint8")
        for axis in (1, -2)
        for scale, zero in (
            (ONE_SCALE, None),
            (ONE_SCALE, np.asarray(7)),
            (SCALE, None),
            (SCALE, np.asarray([3, 0, 100])),
        )
    ),
    Record(
        "quantize",
        {"input": HALVES, "scale": np.asarray(1, np.float32), "output_dtype": "int8"},
        np.asarray([-2, -2, 0, 0, 2, 2, 127, -128], np.int8),
        name="halves to even",
    ),
    *(
        Record(
            "dequantize",
            {"input": RNG.integers(low, low + 256, (2, 3, 4)).astype(dtype), "scale": scale}
            | ({"zero_point": zero.astype(dtype)} if zero is not None else {})
            | ({"axis": axis} if scale.ndim else {}),
            dequantized,
            opset=17,
            name=f"{dtype} {zero is None} {axis}",
        )
        for dtype, low in (("int8", -128), ("uint8", 0))
        for axis in (1, -2)
        for scale, zero in (
            (ONE_SCALE, None),
            (ONE_SCALE, np.asarray(7)),
            (SCALE, None),
            (SCALE, np.asarray([3, 0, 100])),
        )
    ),
]


@over(RECORDS)
def test_kernel(record, namespace):
    check(record, namespace)


@pytest.mark.parametrize("namespace", NAMESPACES)
def test_dequantize_undoes_quantize_within_half_a_step(namespace):
    x = X.clip(-1, 1)
    steps = {"scale": SCALE, "axis": 1}
    levels = run("quantize", {"input": x, **steps, "output_dtype": "int8"}, namespace)
    back = run("dequantize", {"input": levels, **steps}, namespace)
    assert (np.abs(back - x) <= SCALE[:, None] * np.float32(0.5001)).all()


def test_an_unknown_dtype_is_refused():
    with pytest.raises(ValueError, match=r"output_dtype: must be int8 or uint8\. Got 'int16'\."):
        run("quantize", {"input": X, "scale": SCALE, "output_dtype": "int16", "axis": 1}, "numpy")


@pytest.mark.parametrize("name", ["scale", "zero_point"])
def test_a_vector_without_axis_is_refused(name):
    arguments = {"scale": ONE_SCALE, "zero_point": np.asarray(0, np.int8), name: SCALE}
    for more in ({"output_dtype": "int8"}, {}):
        with pytest.raises(ValueError, match=f"{name}: a vector needs an axis"):
            run("quantize" if more else "dequantize", {"input": X, **arguments, **more}, "numpy")
