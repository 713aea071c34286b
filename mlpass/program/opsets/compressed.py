"""Compressed constants, from iOS16's forms to iOS18's: the same values, of the same stored bytes.

What is packed in bytes stays as it is packed: only its type is another.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod

import numpy as np
from numpy.typing import NDArray

from mlpass.program.dtypes import BY_NAME
from mlpass.program.ir import Argument, Constant, Op, Raw, TensorType
from mlpass.program.opsets.building import Builder, Refused


def inputs_of_constexpr(build: Builder) -> None:
    """constexpr_cast: from iOS18 on its parameters are inputs; how one is written sees to that."""
    build.again()


def table(build: Builder) -> None:
    """constexpr_lut_to_dense: indices of as many bits as they need, one table of all axes."""
    indices, lut, shape = _constant(build, "indices"), _constant(build, "lut"), _shape(build)
    bits = lut.size.bit_length() - 1
    name = f"uint{bits}"
    fits = name in BY_NAME and BY_NAME[name].nbytes(prod(shape)) == indices.nbytes
    if lut.size != 2**bits or not fits:
        raise Refused(f"{indices.nbytes} bytes of indices into {lut.size} values do not fit it")
    spread = _reshaped(lut, (*(1 for _ in shape), lut.size, 1))
    inputs = {"indices": (_retyped(indices, name, shape),), "lut": (spread,)}
    build.ops.append(Op(build.op.type, build.op.name, inputs, build.op.outputs))


def mask(build: Builder) -> None:
    """constexpr_sparse_to_dense: a mask of single bits, which has the shape itself."""
    bits, shape = _constant(build, "mask"), _shape(build)
    if BY_NAME["uint1"].nbytes(prod(shape)) != bits.nbytes:
        raise Refused(f"a mask of {bits.nbytes} bytes does not fit its shape")
    inputs = {
        "nonzero_data": (build.input("nonzero_data"),),
        "mask": (_retyped(bits, "uint1", shape),),
    }
    build.ops.append(Op(build.op.type, build.op.name, inputs, build.op.outputs))


def scale(build: Builder) -> None:
    """constexpr_affine_dequantize -> constexpr_blockwise_shift_scale.

    An offset of zeros is left out. Scale and offset must be of one shape, and are spread to that of
    the larger where they are not.
    """
    data, factor = _constant(build, "quantized_data"), _constant(build, "scale")
    offset = _constant(build, "zero_point")
    axis = int(build.stated("axis"))
    values = np.asarray(offset.read())
    count = max(factor.size, values.size if values.any() else 1)
    along = [1] * len(data.shape)
    along[axis] = count
    shape = tuple(along)
    inputs: dict[str, tuple[Argument, ...]] = {"data": (data,)}
    if factor.size == count:
        inputs["scale"] = (_reshaped(factor, shape),)
    else:
        inputs["scale"] = (Constant.of(np.broadcast_to(factor.read(), shape).copy(), factor),)
    if values.any():
        wanted = _offset_like(values, data)
        if wanted.dtype == values.dtype and values.size == count:
            inputs["offset"] = (_reshaped(offset, shape),)
        else:
            spread = np.broadcast_to(wanted.reshape(shape if wanted.size == count else -1), shape)
            inputs["offset"] = (Constant.of(spread.copy(), offset),)
    name = "constexpr_blockwise_shift_scale"
    build.ops.append(Op(name, build.op.name, inputs, build.op.outputs))


def _offset_like(values: NDArray[np.generic], data: Constant) -> NDArray[np.generic]:
    """Returns offsets in the type of the data where that holds them, else as floats."""
    for dtype in (BY_NAME[data.dtype.name].numpy, "float16", "float32"):
        with np.errstate(over="ignore", invalid="ignore"):
            cast = values.astype(dtype)
        if np.array_equal(cast.astype(np.float64), values.astype(np.float64)):
            return cast
    raise Refused("its zero_point cannot be said in its data's type")


def _constant(build: Builder, parameter: str) -> Constant:
    constant = build.facts.constant(build.input(parameter))
    if constant is None:
        raise Refused(f"its {parameter} is computed")
    return constant


def _shape(build: Builder) -> tuple[int, ...]:
    shape = tuple(int(size) for size in np.asarray(build.stated("shape")).reshape(-1))
    if not shape:
        raise Refused("it makes a single value")
    return shape


def _reshaped(constant: Constant, shape: tuple[int, ...]) -> Constant:
    """Returns a constant in another shape: the same place in the same file."""
    return replace(constant, type=TensorType(constant.dtype.name, shape))


def _retyped(constant: Constant, dtype: str, shape: tuple[int, ...]) -> Constant:
    """Returns bytes as elements of another type."""
    if dtype == constant.dtype.name:
        return _reshaped(constant, shape)
    place = constant.storage and (constant.storage[0], (constant.storage[1], dtype))
    read, nbytes = constant.part, BY_NAME[dtype].nbytes

    def part(start: int, stop: int) -> Raw:
        assert read is not None
        return read(nbytes(start), nbytes(stop))

    kind = TensorType(dtype, shape)
    return replace(constant, type=kind, storage=place, part=None if read is None else part)
