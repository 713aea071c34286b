"""Quantized weights: integer codes, with a scale for each row or block of it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlpass.arrays import Array, host
from mlpass.errors import NotApplicable
from mlpass.literals import Integers
from mlpass.options import option, phrase_of
from mlpass.parallel import map_items
from mlpass.registries import storage
from mlpass.sparsity.layout import Layout, grouped_layout
from mlpass.sparsity.ranking import Mask
from mlpass.storage.outliers import divided
from mlpass.storage.storage import (
    Bands,
    Floats,
    Grid,
    MakeRounding,
    Parts,
    Rounding,
    Rows,
    Storage,
    Stored,
    dividing,
    is_old,
    not_before_ios18,
    packed_nbytes,
)

_BITS = {"int8": 8, "int4": 4, "uint8": 8, "uint4": 4}
# How far below the largest magnitude a scale may end: what is cut off costs less than what the
# finer steps save. Few bits gain most.
_SHRINKS = tuple(np.arange(20, 7, -1) / 20)
_AT_ONCE = 1 << 18  # elements whose scales are searched together


@storage("quantize", lead="dtype")
class Quantized(Storage):
    """How weights become integers: they are `scale * (codes - offset)`.

    Its parts are `codes`, int8 or uint8 in the weight's shape, `offset` where they are not kept;
    `scale`, in the weight's dtype and rank, one for each row and block; and, where it is affine,
    `offset`, like `scale` in the dtype of `codes`. Where a block does not divide the input
    channels, it is the next smaller one that does, down to half of it, or else all of them.

    Args:
        dtype: "int8" or "int4" for symmetric codes, "uint8" or "uint4" for affine ones, which
            have an offset.
        block_size: input channels that share a scale; None for all of a row.
        outliers: share of elements that are kept apart, in the weight's dtype beside a mask.
    """

    dtype: Integers = option(
        default="int8",
        choices=("int8", "int4", "uint8", "uint4"),
        must="one of int8, int4, uint8, uint4",
        help="integers that kept weights become, in the same solve",
    )
    block_size: int | None = option(
        default=None, low=1, help="input channels that share a scale; all of a row without it"
    )
    outliers: float = option(
        default=0.0, low=0, high=0.5, help="share of elements that are kept apart, as they are"
    )

    @property
    def phrase(self) -> str:
        """How people say it."""
        blocks = "" if self.block_size is None else f" in blocks of {self.block_size}"
        return phrase_of(self, f"{self.dtype}{blocks}", "dtype", "block_size")

    @property
    def symmetric(self) -> bool:
        """Whether there is no offset."""
        return self.dtype.startswith("int")

    @property
    def limits(self) -> tuple[int, int]:
        """The lowest and the highest code."""
        levels = 1 << self.code_bits
        return (-levels // 2, levels // 2 - 1) if self.symmetric else (0, levels - 1)

    @property
    def code_bits(self) -> int:
        """The bits of an integer."""
        return _BITS[self.dtype]

    @property
    def apart(self) -> float:
        """The share of outliers."""
        return self.outliers

    @property
    def needs_ios18(self) -> str | None:
        """Blocks, and 4 bits."""
        if self.code_bits != 8:
            return self.dtype
        return f"block_size={self.block_size}" if self.block_size else None

    @property
    def in_ios16(self) -> str:
        """Bytes, by row."""
        return "int8 and uint8, a scale for each row"

    def blocks(self, layout: Layout) -> int:
        """Returns how many blocks a row's input channels make."""
        channels = layout.sizes[2]
        blocks = channels // dividing(channels, self.block_size or channels)
        try:
            layout.reduced(blocks)
        except NotApplicable:  # they are several axes
            return 1
        return blocks

    def note(self, layout: Layout) -> str | None:
        """Returns how many input channels share a scale where that is not `block_size`."""
        channels, blocks = layout.sizes[2], self.blocks(layout)
        size = channels // max(1, blocks)
        if size == min(self.block_size or channels, channels):
            return None
        found = "a scale for each row" if blocks == 1 else f"a scale for {size} input channels"
        return f"{found}: its {channels} channels do not divide into blocks of {self.block_size}"

    def grid(self, layout: Layout, power: Floats, dtype: np.dtype[np.generic]) -> Grid:
        """Returns scales and offsets, yet to be fitted."""
        grid = _Grid(self, layout, power, self.blocks(layout), dtype)
        return divided(grid, self.outliers, layout, power, dtype)

    def bands(self, weight: Rows) -> Bands | None:
        """Returns how rows are rounded, each by itself."""
        blocks = self.blocks(weight.layout)
        power = np.ones((1, weight.layout.columns), np.float32)

        def grid(start: int, layout: Layout) -> _Grid:
            return _Grid(self, layout, power, blocks, weight.dtype)

        def joined(parts: Parts) -> Parts:
            small, layout = weight.layout.reduced(blocks), weight.layout
            sizes = (*layout.sizes[:2], blocks, 1)
            return {name: small.join(part.reshape(sizes)) for name, part in parts.items()}

        return Bands(1, grid, joined)

    def stored(self, parts: Parts, layout: Layout, opset: int) -> Stored:
        """Returns the integers, with scales and offsets.

        Raises:
            NotApplicable: iOS16 and 17 have no form for it.
        """
        others = {name: part for name, part in parts.items() if name != "codes"}
        if not is_old(opset):
            return Stored("constexpr_blockwise_shift_scale", "data", self.dtype, others)
        if self.code_bits != 8:
            raise not_before_ios18(f"{self.dtype}")
        scale = others["scale"]
        axes = [axis for axis, size in enumerate(scale.shape) if size > 1]
        if len(axes) > 1 or (axes and scale.shape[axes[0]] != layout.shape[axes[0]]):
            raise not_before_ios18("a scale for each row, of rows on several axes,")
        offset = others.get("offset", np.zeros(scale.shape, parts["codes"].dtype))
        shape = (scale.size,) if axes else ()
        held = {
            "zero_point": offset.reshape(shape),
            "scale": scale.reshape(shape),
            "axis": np.array(axes[0] if axes else 0, np.int32),
        }
        return Stored("constexpr_affine_dequantize", "quantized_data", self.dtype, held)

    def others_nbytes(self, layout: Layout, itemsize: int, opset: int) -> int:
        """Returns the bytes of scales and offsets."""
        count = layout.all_rows * self.blocks(layout)
        offset = not self.symmetric or is_old(opset)
        return count * itemsize + (packed_nbytes(count, self.code_bits) if offset else 0)


class _Grid:
    """Scales and offsets while they are fitted, and the codes that a sweep leaves."""

    def __init__(
        self,
        quantization: Quantized,
        layout: Layout,
        power: Floats,
        blocks: int,
        dtype: np.dtype[Any],
    ) -> None:
        self.layout, self.small = layout, layout.reduced(blocks)
        groups, rows, channels, positions = grouped_layout(layout).sizes
        self.quantization, self.dtype = quantization, dtype
        self.shape = (groups, rows, blocks, channels // blocks * positions)
        self.width = self.shape[3]
        self.scale = np.ones((groups, rows, blocks), np.float32)
        self.offset = np.zeros((groups, rows, blocks), np.float32)
        self.power = power.reshape(groups, 1, *self.shape[2:])
        self.codes = np.zeros((groups, rows, layout.columns), np.float32)

    def fit(
        self, weight: Array, keep: Array, apart: Mask | None = None, *, roughly: bool = False
    ) -> MakeRounding:
        """Fixes scales and offsets to the kept weights: least squares, by input power.

        What is not kept, or `apart`, is zero in `weight`, which is always on the grid.
        """
        values = host(weight).reshape(self.shape)

        def search(part: tuple[int, slice]) -> None:
            found = self._searched(values[part], self.power[part[0]])
            self.scale[part], self.offset[part] = found

        map_items(search, self._row_parts())
        self.codes[:] = np.repeat(self.offset, self.width, axis=2)
        return self.rounding

    def _row_parts(self) -> list[tuple[int, slice]]:
        """Returns some rows of a group each."""
        groups, rows, blocks, width = self.shape
        step = max(1, _AT_ONCE // max(1, blocks * width))
        return [
            (group, slice(start, start + step))
            for group in range(groups)
            for start in range(0, rows, step)
        ]

    def _searched(self, values: Floats, power: Floats) -> tuple[Floats, Floats]:
        """Returns the scales and offsets, (rows, blocks), with the least error of those tried."""
        low, high = self.quantization.limits
        lowest = np.minimum(values.min(axis=2), 0)
        highest = np.maximum(values.max(axis=2), 0)
        if self.quantization.symmetric:
            width = np.maximum(highest / high, lowest / low)
            lowest = np.zeros_like(width)
        else:
            width = (highest - lowest) / (high - low)
        best = np.full(highest.shape, np.inf, np.float32)
        found = np.ones_like(highest), np.zeros_like(highest)
        for shrink in _SHRINKS:
            scale = width * np.float32(shrink)
            scale = scale.astype(self.dtype).astype(np.float32)  # as it will be stored
            scale = np.where(scale > 0, scale, np.float32(1))
            offset = np.clip(np.rint(-lowest * np.float32(shrink) / scale), low, high)
            offset = np.zeros_like(scale) if self.quantization.symmetric else offset
            rounded = self._codes(values, scale[..., None], offset[..., None])
            rounded -= offset[..., None]
            rounded *= scale[..., None]
            rounded -= values
            np.square(rounded, out=rounded)
            error = np.einsum("rbw,xbw->rb", rounded, power)
            decoded = self._reach(scale, offset)
            error = np.where(decoded > np.finfo(self.dtype).max, np.inf, error)  # to inf
            better = error < best
            best = np.where(better, error, best)
            for kept, tried in zip(found, (scale, offset), strict=True):
                np.copyto(kept, tried, where=better)
        return found

    def rounding(self, order: NDArray[np.intp]) -> Rounding:
        """Returns what rounds the columns of a sweep, and notes their codes."""

        def round_column(index: int, values: Array) -> Array:
            column = int(order[index])
            block = column // self.width
            scale, offset = self.scale[:, :, block], self.offset[:, :, block]
            codes = self._codes(host(values), scale, offset)
            self.codes[:, :, column] = codes
            return (codes - offset) * scale

        return round_column

    def forget(self) -> None:
        """Lets go of the codes: `nearest` notes them anew."""
        self.codes = np.zeros((1, 0, 0), np.float32)

    def nearest(self, weight: Array) -> Floats:
        """Returns each element's nearest value, and notes their codes."""
        if self.codes.shape != weight.shape:
            self.codes = np.zeros(weight.shape, np.float32)
        values, codes = (each.reshape(self.shape) for each in (host(weight), self.codes))
        found = np.empty_like(values)

        def round_rows(part: tuple[int, slice]) -> None:
            scale, offset = self.scale[part][..., None], self.offset[part][..., None]
            codes[part] = self._codes(values[part], scale, offset)
            found[part] = (codes[part] - offset) * scale

        map_items(round_rows, self._row_parts())
        return found.reshape(weight.shape)

    def spread(self, values: Floats) -> Floats:
        """Returns each element's share of what the scales change by."""
        return (self._steps() * values.reshape(*self.shape[:3], 1)).reshape(self.codes.shape)

    def gathered(self, weight: Floats, *, squared: bool = False) -> Floats:
        """Returns for each scale the sum over the elements of its block, times their steps."""
        steps, values = self._steps(), weight.reshape(self.shape)
        parts = (steps, steps, values) if squared else (steps, values)
        sums: Floats = np.einsum(",".join(["grbw"] * len(parts)) + "->grb", *parts)
        return sums.reshape(-1, self.shape[2])

    def moved(self, values: Floats) -> Floats:
        """Returns the weight with other scales; rows stay of which one would not do."""
        scale = (self.scale + values.reshape(self.scale.shape)).astype(self.dtype)
        scale = scale.astype(np.float32)
        does = (scale > 0) & (self._reach(scale, self.offset) <= np.finfo(self.dtype).max)
        np.copyto(self.scale, scale, where=does.all(axis=2, keepdims=True))
        return self.decoded()

    def decoded(self) -> Floats:
        """Returns the weight that the codes stand for."""
        return (self._steps() * self.scale[..., None]).reshape(self.codes.shape)

    def _reach(self, scale: Floats, offset: Floats) -> Floats:
        """Returns the largest magnitude that codes may come to."""
        low, high = self.quantization.limits
        reach: Floats = np.maximum(offset - low, high - offset) * scale
        return reach

    def _steps(self) -> Floats:
        """Returns how many scales each element is, (groups, rows, blocks, width)."""
        steps: Floats = self.codes.reshape(self.shape) - self.offset[..., None]
        return steps

    def parts(self, keep: Array) -> dict[str, NDArray[np.generic]]:
        """Returns codes, scales and, where there are any, offsets."""
        integer = np.int8 if self.quantization.symmetric else np.uint8
        offset = np.repeat(self.offset, self.width, axis=2)
        codes = np.where(host(keep), self.codes, offset)
        found: dict[str, NDArray[np.generic]] = {
            "codes": self.layout.join(codes).astype(integer),
            "scale": self.small.join(self.scale).astype(self.dtype),
        }
        if not self.quantization.symmetric:
            found["offset"] = self.small.join(self.offset).astype(integer)
        return found

    def _codes(self, values: Floats, scale: Floats, offset: Floats) -> Floats:
        codes: Floats = values / scale
        np.rint(codes, out=codes)
        codes += offset
        return np.clip(codes, *self.quantization.limits, out=codes)
