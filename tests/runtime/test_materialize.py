"""Compressed weights as arrays: what coremltools decodes, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from coremltools.converters.mil.mil.ops.defs.iOS16 import constexpr_ops
from coremltools.optimize import _utils as peer

from mlpass.errors import ModelFormatError
from mlpass.program.ir import Constant, Op, TensorType, Value
from mlpass.runtime.materialize import materialize

RNG = np.random.default_rng(0)


def constexpr(op_type, out, dtype="fp16", **arrays):
    inputs = {name: (Constant.of(np.asarray(array)),) for name, array in arrays.items()}
    return Op(op_type, "w", inputs, (Value("w", TensorType(dtype, out)),))


def test_palettes_of_ios16_are_coremltools_own():
    lut = RNG.standard_normal(4).astype(np.float16)
    indices = RNG.integers(0, 256, 4, np.uint8)
    op = constexpr(
        "constexpr_lut_to_dense",
        (3, 5),
        indices=indices,
        lut=lut,
        shape=np.array([3, 5], np.uint32),
    )
    wanted = constexpr_ops.constexpr_lut_to_dense.decompress(lut, indices, np.array([3, 5]))
    assert np.array_equal(materialize([op], 16), wanted)


def test_affine_weights_of_ios16_are_coremltools_own():
    data = RNG.integers(-128, 128, (4, 6)).astype(np.int8)
    zero, scale = RNG.integers(-9, 9, 6).astype(np.int8), RNG.random(6).astype(np.float32)
    op = constexpr(
        "constexpr_affine_dequantize",
        (4, 6),
        "fp32",
        quantized_data=data,
        zero_point=zero,
        scale=scale,
        axis=np.array(1, np.int32),
    )
    wanted = peer.dequantize_by_scale_and_zp(data, scale, zero, 1)
    assert np.allclose(materialize([op], 16), wanted, rtol=1e-6)


def test_casts():
    values = RNG.standard_normal((2, 3)).astype(np.float16)
    op = constexpr("constexpr_cast", (2, 3), "fp32", source_val=values)
    word = Constant(TensorType("string", ()), lambda: "fp32")
    op = Op(op.type, op.name, {**op.inputs, "output_dtype": (word,)}, op.outputs)
    assert np.array_equal(materialize([op], 16), values.astype(np.float32))


@pytest.mark.parametrize(
    ("op", "opset", "text"),
    [
        (constexpr("constexpr_cast", (1,)), 15, "w: constexpr_cast is unknown in iOS15"),
        (constexpr("constexpr_magic", (1,)), 18, "w: constexpr_magic is unknown in iOS18"),
        (
            constexpr(
                "constexpr_sparse_to_dense",
                (8,),
                nonzero_data=np.ones(3, np.float16),
                mask=np.array([255], np.uint8),
                shape=np.array([8], np.uint32),
            ),
            16,
            "w: broken constexpr_sparse_to_dense: ",
        ),
        (
            constexpr(
                "constexpr_sparse_to_dense",
                (9,),
                nonzero_data=np.ones(8, np.float16),
                mask=np.array([255], np.uint8),
                shape=np.array([8], np.uint32),
            ),
            16,
            r"it does not make what its outputs say, \[\(9,\)\]",
        ),
        (
            constexpr(
                "constexpr_sparse_to_dense",
                (80,),
                nonzero_data=np.ones(8, np.float16),
                mask=np.array([255], np.uint8),
                shape=np.array([80], np.uint32),
            ),
            16,
            "1 bytes are too few for 80 bits",
        ),
    ],
)
def test_what_is_broken_is_refused(op, opset, text):
    with pytest.raises(ModelFormatError, match=text):
        materialize([op], opset)
