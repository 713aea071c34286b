"""Values as their declared types can hold them."""

from __future__ import annotations

import numpy as np
import pytest
from coremltools.converters.mil import Builder as mb

import mlpass
from mlpass.runtime.declared import declared, walk


def square(dtype: str):
    @mb.program(input_specs=[mb.TensorSpec(shape=(2,))])
    def program(x):
        narrow = mb.cast(x=x, dtype=dtype)
        return mb.cast(x=mb.mul(x=narrow, y=narrow, name="square"), dtype="fp32")

    return program


@pytest.mark.parametrize("backend", ["numpy", "torch"])
def test_what_a_type_cannot_hold_is_lost(backend):
    x, seen = np.array([300.0, 1 / 3], np.float32), {}
    for dtype in ("fp32", "fp16"):
        interpreter = mlpass.Interpreter(square(dtype), backend=backend)
        made = seen.setdefault(dtype, {})

        def take(step, run, made=made, interpreter=interpreter):
            results = declared(step, run(), interpreter.backend)
            made[step.op.type, step.op.outputs[0].name] = np.asarray(results[0])
            return results

        walk(interpreter, {"x": x}, None, take)
    narrow = x.astype(np.float16)
    with np.errstate(over="ignore"):
        assert np.array_equal(seen["fp16"]["mul", "square"], narrow * narrow)
    assert np.isinf(seen["fp16"]["mul", "square"][0])
    assert np.array_equal(seen["fp32"]["mul", "square"], x * x)
