"""MIL's element types: their names, widths, codes in the two file formats, and numpy forms."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mlpass.errors import ModelFormatError


@dataclass(frozen=True)
class DType:
    """One element type of MIL.

    Attributes:
        name: as coremltools spells it, e.g. "fp16".
        bits: width of one element.
        proto: its value in MIL.proto's DataType.
        blob: its code in a weight file's blob metadata; None where files cannot hold it.
        numpy: the numpy type of one element once unpacked; None where numpy has none.
    """

    name: str
    bits: int
    proto: int
    blob: int | None
    numpy: str | None

    @property
    def signed(self) -> bool:
        """Whether a packed element is sign-extended."""
        return self.name.startswith("int")

    def nbytes(self, count: int) -> int:
        """Returns how many bytes `count` elements take, packed."""
        return (count * self.bits + 7) // 8


_TABLE = (
    DType("bool", 8, 1, None, "bool"),
    DType("string", 0, 2, None, "str"),
    DType("fp16", 16, 10, 1, "float16"),
    DType("fp32", 32, 11, 2, "float32"),
    DType("fp64", 64, 12, None, "float64"),
    DType("bf16", 16, 13, 5, None),
    DType("int4", 4, 25, 8, "int8"),
    DType("int8", 8, 21, 4, "int8"),
    DType("int16", 16, 22, 6, "int16"),
    DType("int32", 32, 23, 14, "int32"),
    DType("int64", 64, 24, None, "int64"),
    DType("uint1", 1, 37, 9, "uint8"),
    DType("uint2", 2, 36, 10, "uint8"),
    DType("uint3", 3, 39, 12, "uint8"),
    DType("uint4", 4, 35, 11, "uint8"),
    DType("uint6", 6, 38, 13, "uint8"),
    DType("uint8", 8, 31, 3, "uint8"),
    DType("uint16", 16, 32, 7, "uint16"),
    DType("uint32", 32, 33, 15, "uint32"),
    DType("uint64", 64, 34, None, "uint64"),
    DType("fp8e4m3fn", 8, 40, 16, None),
    DType("fp8e5m2", 8, 41, 17, None),
)
BY_NAME = {dtype.name: dtype for dtype in _TABLE}
BY_PROTO = {dtype.proto: dtype for dtype in _TABLE}


def dtype_of_array(array: NDArray[np.generic]) -> DType:
    """Returns the MIL type of a numpy array's elements.

    Raises:
        ValueError: MIL has no such type.
    """
    if array.dtype == bool:
        return BY_NAME["bool"]
    name, bits = array.dtype.name, array.dtype.itemsize * 8
    for dtype in _TABLE:
        if dtype.numpy == name and dtype.bits == bits:
            return dtype
    raise ValueError(f"MIL has no element type {array.dtype}")


def unpack_elements(raw: NDArray[np.uint8], dtype: DType, count: int) -> NDArray[np.generic]:
    """Returns `count` elements from their stored bytes (least significant bits first).

    Raises:
        ModelFormatError: numpy has no form for them (bf16 and the 8-bit floats).
    """
    if dtype.numpy is None:
        raise ModelFormatError(f"{dtype.name} values cannot be read as an array")
    if dtype.bits >= 8:
        return raw.view(np.dtype(dtype.numpy).newbyteorder("<"))[:count]
    bits = np.unpackbits(raw, bitorder="little", count=count * dtype.bits)
    weights = (1 << np.arange(dtype.bits, dtype=np.uint8)).astype(np.uint8)
    values: NDArray[np.generic] = bits.reshape(count, dtype.bits) @ weights
    if dtype.signed:
        values = (values.astype(np.int8) << (8 - dtype.bits)) >> (8 - dtype.bits)
    return values


def pack_elements(values: NDArray[np.generic], dtype: DType) -> NDArray[np.uint8]:
    """Returns the stored bytes of `values`: the inverse of `unpack_elements`."""
    flat = np.ascontiguousarray(values).reshape(-1)
    if dtype.bits >= 8:
        return flat.view(np.uint8)
    bytes_ = flat.astype(np.int8).view(np.uint8)
    bits = np.unpackbits(bytes_[:, None], axis=1, bitorder="little", count=dtype.bits)
    return np.packbits(bits.reshape(-1), bitorder="little")
