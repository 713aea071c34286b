"""The forms of codes that stand for a weight exactly, with the bytes that each takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlpass.errors import NotApplicable
from mlpass.sparsity.layout import Layout
from mlpass.storage.blocking import Blocking, channel_blockings, row_blockings
from mlpass.storage.exact_scales import Scaled, exact_scales, sampled_bits
from mlpass.storage.exact_tables import few_valued, numbered, tables_of, valued
from mlpass.storage.palette import Palette
from mlpass.storage.quantized import Quantized
from mlpass.storage.storage import Form, Parts, Stored, is_old, packed_nbytes

_HEADER = 64  # bytes that each constant takes of a weight file besides, and that it is padded to
_BITS = (1, 2, 3, 4, 6, 8)


class Exact(NamedTuple):
    """A form that decodes to exactly the weight.

    Attributes:
        form: that its parts are stored in.
        parts: makes them; `codes` has the shape of the weight.
        masked: whether a mask is written, and codes of what is not zero alone.
        sizes: the bytes of each constant.
        text: what it is, in a few words.
    """

    form: Form
    parts: Callable[[], Parts]
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


def exact_forms(weight: NDArray[np.generic], layout: Layout, opset: int) -> Iterator[Exact]:
    """Yields the forms of codes that decode to exactly a weight; -0 counts as 0.

    Args:
        weight: fp16 or fp32, without NaN or inf.
        layout: of it.
        opset: of the function it is in.
    """
    if not weight.size:
        return
    kept = int(np.count_nonzero(weight))
    masks = (False,) if kept == weight.size or is_old(opset) else (False, True)
    numbers = numbered(weight)
    for masked in masks:
        for blocking, most in few_valued(numbers, layout, masked):
            bits = next(bits for bits in _BITS if most <= 1 << bits)
            tables = _Tables(bits, blocking)
            if tables.is_in(opset):
                parts = partial(tables.parts, numbers, weight.dtype, masked)
                nbytes = (blocking.number << bits) * weight.dtype.itemsize
                codes = _codes_sizes(weight.size, kept, bits, masked)
                yield Exact(tables, parts, masked, (*codes, nbytes), tables.text)
    for form in _scales(weight, layout):
        if form.is_in(opset):
            for masked in masks:
                bits = form.quantized.code_bits
                codes = _codes_sizes(weight.size, kept, bits, masked)
                others = form.others(weight.dtype.itemsize, opset)
                yield Exact(form, form.parts, masked, (*codes, *others), form.text)


def _codes_sizes(size: int, kept: int, bits: int, masked: bool) -> tuple[int, ...]:
    if masked:
        return packed_nbytes(size, 1), packed_nbytes(kept, bits)
    return (packed_nbytes(size, bits),)


def _scales(weight: NDArray[np.generic], layout: Layout) -> Iterator[_Scales]:
    """Yields the longest blocks of a weight that are integers of 4 or 8 bits, with a scale each."""
    rows = list(row_blockings(layout))
    found = [
        (blocking, sampled_bits(blocking.split(weight)))
        for blocking in [rows[-1], rows[0], *channel_blockings(layout)]  # the longest first
    ]
    for bits in (4, 8):
        for blocking in (blocking for blocking, sampled in found if sampled == bits):
            scaled = exact_scales(blocking.split(weight))
            if scaled is not None:
                yield _Scales(Quantized(scaled.dtype), blocking, scaled)
                break


class _Tables(NamedTuple):
    """A table for each block."""

    bits: int
    blocking: Blocking

    @property
    def text(self) -> str:
        """What it is, in a few words."""
        return f"{self.bits}-bit table for {self.blocking.text}"

    def is_in(self, opset: int) -> bool:
        """Returns whether an opset has a form for it."""
        return not is_old(opset) or (self.blocking.number == 1 and self.bits != 3)

    def parts(
        self, numbers: NDArray[np.unsignedinteger], dtype: np.dtype[np.generic], masked: bool
    ) -> Parts:
        """Returns codes and tables."""
        codes, tables = tables_of(numbers, self.blocking, 1 << self.bits, masked)
        return {"codes": codes, "tables": valued(tables, dtype)}

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

    def others(self, itemsize: int, opset: int) -> list[int]:
        """Returns the bytes of scales and offsets."""
        count = self.blocking.number
        with_offset = not self.quantized.symmetric or is_old(opset)
        offset = [packed_nbytes(count, self.quantized.code_bits)] if with_offset else []
        return [count * itemsize, *offset]

    def is_in(self, opset: int) -> bool:
        """Returns whether an opset has a form for it."""
        try:
            self.stored(self.parts(), self.blocking.layout, opset)
        except NotApplicable:
            return False
        return True

    def parts(self) -> Parts:
        """Returns codes, scales and, where there are any, offsets."""
        numbers = self.blocking.numbers
        found = {
            "codes": self.blocking.join(self.scaled.codes),
            "scale": self.scaled.scale[numbers],
        }
        if self.scaled.offset is not None:
            found["offset"] = self.scaled.offset[numbers]
        return found

    def stored(self, parts: Parts, layout: Layout, opset: int) -> Stored:
        """Returns the integers, with scales and offsets."""
        return self.quantized.stored(parts, layout, opset)
