"""A compressed weight in files, decoded some rows at a time: those of its first axis."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlpass.parallel import SLAB, map_items
from mlpass.program.dtypes import unpack_elements
from mlpass.program.ir import Argument, Constant, Op, Raw, TensorType, Value
from mlpass.program.reads import constants_of
from mlpass.runtime.materialize import decompress
from mlpass.sparsity.pieces import WHOLE
from mlpass.weights.site import Site

_ELEMENTS = ("data", "indices", "quantized_data", "source_val")
_MASKS = ("mask", "data_mask", "indices_mask")
_KEPT = ("nonzero_data", "indices_nonzero_data")
_BLOCKED = ("scale", "offset", "lut")
_SETTINGS = ("axis", "vector_axis", "output_dtype")

# Given the first of some rows and the one after the last, an argument for those.
_Argument = Callable[[int, int], object]


class _NotByRowsError(Exception):
    """A weight has to be decoded as a whole."""


def by_rows(site: Site) -> Callable[[int, int], NDArray[np.generic]] | None:
    """Returns what decodes a compressed weight from one element to another, 1-D.

    None where it is small, or that takes the whole weight: it is of vectors, has outliers, is
    broken, not in files, or its rows are too long.
    """
    row = math.prod(site.shape[1:])
    if row * site.shape[0] <= WHOLE:
        return None
    unit = 8 // math.gcd(8, row)  # rows that end with a byte, whatever the bits of an element
    if not site.is_compressed or site.apart is not None or not 0 < row * unit <= SLAB:
        return None
    try:
        rows = _Rows(site, unit)
    except _NotByRowsError:
        return None

    def read(start: int, stop: int) -> NDArray[np.generic]:
        first = start // (row * unit) * unit
        last = min(-(-stop // (row * unit)) * unit, site.shape[0])
        return rows.decoded(first, last).reshape(-1)[start - first * row : stop - first * row]

    return read


class _Rows:
    """The ops that make a weight, with what each is given for some of its rows."""

    def __init__(self, site: Site, unit: int) -> None:
        self.site, self.unit, self.length = site, unit, site.shape[0]
        stated: dict[Argument, Argument] = {
            op.outputs[0]: argument
            for op in site.parts
            if op.type == "const"
            for argument in constants_of(op)
        }
        self.ops: list[tuple[Op, Mapping[str, Value | _Argument], _Kept | None]] = []
        for op in site.parts:
            if op.type == "const":
                continue
            given = {name: stated.get(one, one) for name, (one,) in op.inputs.items()}
            kept = self._kept(given)
            arguments: dict[str, Value | _Argument] = {}
            for name, one in given.items():
                if isinstance(one, Constant):
                    arguments[name] = self._argument(name, one, given, kept)
                elif name in _ELEMENTS + _MASKS + _KEPT:
                    arguments[name] = one
                else:
                    raise _NotByRowsError
            self.ops.append((op, arguments, kept))

    def decoded(self, start: int, stop: int) -> NDArray[np.generic]:
        """Returns some rows; both ends are whole units, or the end of the weight."""
        values: dict[Value, object] = {}
        for op, arguments, kept in self.ops:
            given = {
                name: values[one] if isinstance(one, Value) else one(start, stop)
                for name, one in arguments.items()
            }
            here = replace(
                op, outputs=tuple(self._part(each, start, stop, kept) for each in op.outputs)
            )
            made = decompress(here, given, self.site.opset)
            values.update(zip(op.outputs, made, strict=True))
        return np.asarray(values[self.site.parts[-1].outputs[-1]])

    def _part(self, value: Value, start: int, stop: int, kept: _Kept | None) -> Value:
        """Returns a result of an op as it is for some rows."""
        kind = value.type
        if not isinstance(kind, TensorType):
            raise _NotByRowsError
        if len(kind.shape) == len(self.site.shape):
            shape: tuple[int | None, ...] = (stop - start, *kind.shape[1:])
        else:
            shape = (0 if kept is None else kept.before(stop) - kept.before(start),)
        return replace(value, type=TensorType(kind.dtype, shape))

    def _kept(self, given: Mapping[str, Argument]) -> _Kept | None:
        """Returns how many elements before each row an op's mask has, where that is a constant."""
        for name in _MASKS:
            mask = given.get(name)
            if isinstance(mask, Constant):
                return _Kept(mask, self.site.shape, self.unit)
        return None

    def _argument(
        self,
        name: str,
        constant: Constant,
        given: Mapping[str, Argument],
        kept: _Kept | None,
    ) -> _Argument:
        """Returns what reads an argument for some rows."""
        if name in _ELEMENTS + _MASKS + _KEPT and constant.part is None:
            raise _NotByRowsError
        if name in _ELEMENTS + _MASKS:
            return self._elements(name, constant, given)
        if name in _KEPT and kept is not None and kept.before(self.length) == constant.size:
            return lambda start, stop: elements_of(constant, kept.before(start), kept.before(stop))
        if name == "shape":
            return lambda start, stop: (stop - start, *self.site.shape[1:])
        if name in _SETTINGS or (name == "lut" and "shape" in given):
            return _always(constant.read())
        if name in ("scale", "zero_point") and "axis" in given:
            return self._along_axis(constant, given["axis"])
        if name in _BLOCKED and len(constant.shape) >= len(self.site.shape):
            if name == "lut" and constant.shape[-1] > 1:
                raise _NotByRowsError
            return self._blocks(constant)
        raise _NotByRowsError

    def _elements(self, name: str, constant: Constant, given: Mapping[str, Argument]) -> _Argument:
        row = math.prod(self.site.shape[1:])
        if constant.shape == self.site.shape:
            shape = self.site.shape[1:]
            return lambda start, stop: elements_of(constant, start * row, stop * row).reshape(
                stop - start, *shape
            )
        lut = given.get("lut")
        if "shape" not in given:
            raise _NotByRowsError
        bits = int(math.log2(lut.size)) if isinstance(lut, Constant) else 1  # packed, in iOS16
        part = constant.part
        assert part is not None
        return lambda start, stop: part(start * row * bits // 8, -(-stop * row * bits // 8))

    def _along_axis(self, constant: Constant, axis: object) -> _Argument:
        values = np.asarray(constant.read())
        first = isinstance(axis, Constant) and int(axis.read()) % len(self.site.shape) == 0
        if first and values.size == self.length:
            return lambda start, stop: values.reshape(-1)[start:stop]
        return _always(values)

    def _blocks(self, constant: Constant) -> _Argument:
        """Returns what gives each row the values of the blocks that it is in."""
        values, length = np.asarray(constant.read()), self.length
        if length % len(values):
            raise _NotByRowsError
        each = length // len(values)
        if len(values) == 1:
            return _always(values)
        return lambda start, stop: values[np.arange(start, stop) // each]


def _always(value: object) -> _Argument:
    """Returns what gives all rows the same."""
    return lambda *_: value


class _Kept:
    """How many elements a mask has before each row, counted once."""

    def __init__(self, mask: Constant, shape: tuple[int, ...], unit: int) -> None:
        if mask.part is None or mask.dtype.name not in ("uint1", "uint8"):
            raise _NotByRowsError
        if (mask.shape == shape) != (mask.dtype.name == "uint1"):
            raise _NotByRowsError
        self.mask, self.size, self.unit = mask, math.prod(shape), unit
        self.step = math.prod(shape[1:]) * unit

    def before(self, row: int) -> int:
        """Returns how many there are before a row, which begins a unit or is past the last."""
        return int(self._ends[-(-row // self.unit)])

    @cached_property
    def _ends(self) -> NDArray[np.int64]:
        together = max(1, SLAB // self.step) * self.step

        def count(start: int) -> NDArray[np.int64]:
            bits = mask_bits(self.mask, start, min(together, self.size - start))
            firsts = np.arange(0, bits.size, self.step)
            return np.add.reduceat(bits, firsts, dtype=np.int64)

        counts = map_items(count, range(0, self.size, together))
        return np.concatenate([[0], np.cumsum(np.concatenate(counts))])


def mask_bits(mask: Constant, start: int, count: int) -> Raw:
    """Returns some bits of a mask, however an opset states it; the first begins a byte."""
    assert mask.part is not None
    each = 8 if mask.dtype.name == "uint8" else 1  # bits of an element
    raw = mask.part(start // each, -(-(start + count) // each))
    return np.unpackbits(raw, count=count, bitorder="little")


def elements_of(constant: Constant, start: int, stop: int) -> NDArray[Any]:
    """Returns the elements of a constant in a file from one place to another, 1-D."""
    assert constant.part is not None
    first = start if constant.dtype.bits >= 8 else start // 8 * 8  # which begins a byte
    raw = constant.part(first, stop)
    return unpack_elements(raw, constant.dtype, stop - first)[start - first :]
