"""Pruned and quantized in one solve: integer codes, with a scale for each row or block of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from mlpass.arrays import Array, host
from mlpass.errors import NotApplicable
from mlpass.options import option
from mlpass.registries import storage
from mlpass.sparsity.layout import Layout, grouped_layout
from mlpass.storage.storage import Floats, Grid, MakeRounding, Parts, Rounding, Storage

_BITS = {"int8": 8, "int4": 4, "uint8": 8, "uint4": 4}
# How far below the largest magnitude a scale may end: what is cut off costs less than what the
# finer steps save. Few bits gain most.
_SHRINKS = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7)


@storage("quantize", lead="dtype")
class Quantized(Storage):
    """How kept weights become integers: they are `scale * (codes - offset)`.

    Its parts are `codes`, int8 or uint8 in the weight's shape, `offset` where they are not kept;
    `scale`, in the weight's dtype and rank, one for each row and block; and, where it is affine,
    `offset`, like `scale` in the dtype of `codes`.

    Args:
        dtype: "int8" or "int4" for symmetric codes, "uint8" or "uint4" for affine ones, which
            have an offset.
        block_size: input channels that share a scale; None for all of a row.
    """

    dtype: str = option(
        default="int8",
        choices=("int8", "int4", "uint8", "uint4"),
        must="one of int8, int4, uint8, uint4",
        help="integers that kept weights become, in the same solve",
    )
    block_size: int | None = option(
        default=None, low=1, help="input channels that share a scale; all of a row without it"
    )
    form: ClassVar[str] = "constexpr_blockwise_shift_scale"

    @property
    def symmetric(self) -> bool:
        """Whether there is no offset."""
        return self.dtype.startswith("int")

    @property
    def limits(self) -> tuple[int, int]:
        """The lowest and the highest code."""
        levels = 1 << _BITS[self.dtype]
        return (1 - levels // 2, levels // 2 - 1) if self.symmetric else (0, levels - 1)

    def grid(self, layout: Layout, power: Floats, dtype: np.dtype[Any]) -> Grid:
        """Returns scales and offsets, yet to be fitted.

        Raises:
            NotApplicable: `block_size` does not divide the input channels.
        """
        blocks = _blocks(self, layout.sizes[2])
        return _Grid(self, layout, power, blocks, dtype)

    def stored(
        self, parts: Parts, kept: NDArray[np.bool_], layout: Callable[[], Layout]
    ) -> tuple[str, dict[str, NDArray[Any]]]:
        """Returns 4-bit integers where those hold all codes, else 8-bit ones; and the rest."""
        others = {name: part for name, part in parts.items() if name != "codes"}
        codes = parts["codes"][kept]
        return _integer(np.append(codes, parts["offset"]) if "offset" in parts else codes), others


def _integer(codes: NDArray[Any]) -> str:
    """Returns the narrowest integer type that holds all codes, of their signedness."""
    kind, low, high = ("int", -8, 7) if codes.dtype.kind == "i" else ("uint", 0, 15)
    fits = low <= codes.min(initial=0) and codes.max(initial=0) <= high
    return f"{kind}{4 if fits else 8}"


def _blocks(quantization: Quantized, channels: int) -> int:
    size = quantization.block_size or channels
    if channels % size:
        raise NotApplicable(f"block_size {size} does not divide its {channels} input channels")
    return channels // size


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
        self.codes = np.zeros((groups, rows, channels * positions), np.float32)

    def fit(self, weight: Array, keep: Array) -> MakeRounding:
        """Fixes scales and offsets to the kept weights: least squares, by input power."""
        low, high = self.quantization.limits
        values = host(weight).reshape(
            self.shape
        )  # zero where not kept, and zero is always on the grid
        lowest = np.minimum(values.min(axis=3), 0)
        highest = np.maximum(values.max(axis=3), 0)
        if self.quantization.symmetric:
            highest = np.maximum(highest, -lowest)
            lowest = np.zeros_like(highest)
            steps = high
        else:
            steps = high - low
        best = np.full(highest.shape, np.inf, np.float32)
        for shrink in _SHRINKS:
            scale = (highest - lowest) * np.float32(shrink / steps)
            scale = scale.astype(self.dtype).astype(np.float32)  # as it will be stored
            scale = np.where(scale > 0, scale, np.float32(1))
            offset = np.clip(np.rint(-lowest * np.float32(shrink) / scale), low, high)
            offset = np.zeros_like(scale) if self.quantization.symmetric else offset
            rounded = self._codes(values, scale[..., None], offset[..., None])
            rounded = (rounded - offset[..., None]) * scale[..., None] - values
            error = np.sum(self.power * np.square(rounded), axis=3)
            reach = np.maximum(offset - low, high - offset) * scale
            error = np.where(reach > np.finfo(self.dtype).max, np.inf, error)  # decoded to inf
            better = error < best
            best = np.where(better, error, best)
            self.scale = np.where(better, scale, self.scale)
            self.offset = np.where(better, offset, self.offset)
        self.codes[:] = np.repeat(self.offset, self.width, axis=2)
        return self.rounding

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

    def parts(self, keep: Array) -> dict[str, NDArray[Any]]:
        """Returns codes, scales and, where there are any, offsets."""
        integer = np.int8 if self.quantization.symmetric else np.uint8
        found: dict[str, NDArray[Any]] = {
            "codes": self.layout.join(self.codes).astype(integer),
            "scale": self.small.join(self.scale).astype(self.dtype),
        }
        if not self.quantization.symmetric:
            found["offset"] = self.small.join(self.offset).astype(integer)
        return found

    def _codes(self, values: Floats, scale: Floats, offset: Floats) -> Floats:
        codes: Floats = np.clip(np.rint(values / scale) + offset, *self.quantization.limits)
        return codes
