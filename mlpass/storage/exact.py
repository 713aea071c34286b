"""The forms of codes that stand for a weight exactly, with the bytes that each takes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlpass.errors import NotApplicable
from mlpass.sparsity.layout import Layout
from mlpass.storage.blocking import Blocking, channel_blockings, row_blockings
from mlpass.storage.exact_scales import Scaled, exact_scales, sampled_bits, samples_of
from mlpass.storage.exact_scales import codes_of as scale_codes
from mlpass.storage.exact_tables import codes_of as table_codes
from mlpass.storage.exact_tables import few_valued, numbered, tables_of, valued
from mlpass.storage.palette import Palette
from mlpass.storage.quantized import Quantized
from mlpass.storage.storage import Form, Parts, Rows, Stored, is_old, packed_nbytes

_HEADER = 64  # bytes that each constant takes of a weight file besides, and that it is padded to
_BITS = (1, 2, 3, 4, 6, 8)


class Exact(NamedTuple):
    """A form that decodes to exactly the weight.

    Attributes:
        form: that its parts are stored in.
        others: makes the parts of it but for the codes.
        codes: makes those of some rows, given the first of them and their values.
        masked: whether a mask is written, and codes of what is not zero alone.
        sizes: the bytes of each constant.
        text: what it is, in a few words.
    """

    form: Form
    others: Callable[[], Parts]
    codes: Callable[[int, NDArray[np.generic]], NDArray[np.generic]]
    masked: bool
    sizes: tuple[int, ...]
    text: str

    @property
    def nbytes(self) -> int:
        """The bytes of codes, mask, tables and scales."""
        return sum(self.sizes)


def file_nbytes(sizes: tuple[int, ...]) -> int:
    """Returns what constants of some bytes take of a weight file, headers and padding included."""
    return sum(_HEADER + -(-size // _HEADER) * _HEADER for size in sizes)


def exact_forms(weight: Rows, opset: int) -> Iterator[Exact]:
    """Yields the forms of codes that decode to exactly a weight; -0 counts as 0.

    Args:
        weight: fp16 or fp32, without NaN or inf; those of its elements are kept that are not zero.
        opset: of the function it is in.
    """
    size, kept = math.prod(weight.layout.shape), weight.kept
    if not size:
        return
    masks = (False,) if kept == size or is_old(opset) else (False, True)
    for masked in masks:
        for blocking, most in few_valued(weight, masked):
            bits = next(bits for bits in _BITS if most <= 1 << bits)
            tables = _Tables(weight, bits, blocking, masked)
            if tables.is_in(opset):
                nbytes = (blocking.number << bits) * weight.dtype.itemsize
                codes = _codes_sizes(size, kept, bits, masked)
                sizes = (*codes, nbytes)
                yield Exact(tables, tables.others, tables.codes, masked, sizes, tables.text)
    for form in _scales(weight):
        if form.is_in(opset):
            for masked in masks:
                bits = form.quantized.code_bits
                codes = _codes_sizes(size, kept, bits, masked)
                sizes = (*codes, *form.nbytes(weight.dtype.itemsize, opset))
                yield Exact(form, form.others, form.codes, masked, sizes, form.text)


def _codes_sizes(size: int, kept: int, bits: int, masked: bool) -> tuple[int, ...]:
    if masked:
        return packed_nbytes(size, 1), packed_nbytes(kept, bits)
    return (packed_nbytes(size, bits),)


def _scales(weight: Rows) -> Iterator[_Scales]:
    """Yields the longest blocks of a weight that are integers of 4 or 8 bits, with a scale each."""
    rows = list(row_blockings(weight.layout))
    tried = [rows[-1], rows[0], *channel_blockings(weight.layout)]  # the longest first
    samples = samples_of(weight, tried)
    found = [(*each, sampled_bits(each[1])) for each in zip(tried, samples, strict=True)]
    for bits in (4, 8):
        for blocking, sample in ((one, sample) for one, sample, most in found if most == bits):
            scaled = exact_scales(weight, blocking, sample)
            if scaled is not None:
                yield _Scales(Quantized(scaled.dtype), blocking, scaled)
                break


@dataclass(frozen=True)
class _Tables:
    """A table for each block."""

    weight: Rows
    bits: int
    blocking: Blocking
    masked: bool

    @property
    def text(self) -> str:
        """What it is, in a few words."""
        return f"{self.bits}-bit table for {self.blocking.text}"

    def is_in(self, opset: int) -> bool:
        """Returns whether an opset has a form for it."""
        return not is_old(opset) or (self.blocking.number == 1 and self.bits != 3)

    def others(self) -> Parts:
        """Returns the tables."""
        return {"tables": valued(self._numbers, self.weight.dtype)}

    def codes(self, start: int, rows: NDArray[np.generic]) -> NDArray[np.generic]:
        """Returns the codes of some rows, (rows, columns), in their shape."""
        return table_codes(numbered(rows), start, self.blocking, self._numbers)

    @cached_property
    def _numbers(self) -> NDArray[np.unsignedinteger]:
        return tables_of(self.weight, self.blocking, 1 << self.bits, self.masked)

    def stored(self, parts: Parts, layout: Layout, opset: int) -> Stored:
        """Returns indices, and the tables in blocks of the weight's axes."""
        tables = parts["tables"]
        one = {**parts, "tables": tables[:1]}
        stored = Palette(self.bits, group_size=0).stored(one, layout, opset)
        if len(tables) == 1:
            return stored
        return stored._replace(others={"lut": tables[self.blocking.numbers][..., None]})


class _Scales(NamedTuple):
    """A scale, and maybe an offset, for each block."""

    quantized: Quantized
    blocking: Blocking
    scaled: Scaled

    @property
    def text(self) -> str:
        """What it is, in a few words."""
        return f"{self.quantized.dtype} with a scale for {self.blocking.text}"

    def nbytes(self, itemsize: int, opset: int) -> list[int]:
        """Returns the bytes of scales and offsets."""
        count = self.blocking.number
        with_offset = not self.quantized.symmetric or is_old(opset)
        offset = [packed_nbytes(count, self.quantized.code_bits)] if with_offset else []
        return [count * itemsize, *offset]

    def is_in(self, opset: int) -> bool:
        """Returns whether an opset has a form for it."""
        try:
            codes = np.zeros(0, np.int8 if self.quantized.symmetric else np.uint8)
            self.stored({"codes": codes, **self.others()}, self.blocking.layout, opset)
        except NotApplicable:
            return False
        return True

    def others(self) -> Parts:
        """Returns scales and, where there are any, offsets."""
        numbers = self.blocking.numbers
        found = {"scale": self.scaled.scale[numbers]}
        if self.scaled.offset is not None:
            found["offset"] = self.scaled.offset[numbers]
        return found

    def codes(self, start: int, rows: NDArray[np.generic]) -> NDArray[np.generic]:
        """Returns the codes of some rows, (rows, columns), in their shape."""
        number = self.blocking.number
        per_row = number // math.prod(self.blocking.layout.sizes[:2]) if number > 1 else 0
        return scale_codes(rows, start, self.scaled, per_row)

    def stored(self, parts: Parts, layout: Layout, opset: int) -> Stored:
        """Returns the integers, with scales and offsets."""
        return self.quantized.stored(parts, layout, opset)
