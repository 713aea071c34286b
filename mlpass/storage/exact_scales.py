"""Integers and scales that stand for a weight exactly, where there are such."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlpass.literals import Integers
from mlpass.storage.blocking import some_of

_MOST = 255  # steps from the lowest to the highest code of 8 bits
_SAMPLE = 64  # blocks, and elements of each, that are tried first
_FIRST = 8  # elements of a block that are tried before the others
_EVERY = range(1, _MOST + 1)

_Steps = tuple[NDArray[np.int16], NDArray[np.generic]]


_WIDTHS: tuple[tuple[int, Integers, Integers], ...] = ((4, "int4", "uint4"), (8, "int8", "uint8"))


class Scaled(NamedTuple):
    """Blocks as `scale * (codes - offset)`.

    Attributes:
        dtype: "int4", "int8", "uint4" or "uint8"; the last two have an offset.
        codes: (blocks, elements), int8 or uint8.
        scale: (blocks,) in the weight's dtype.
        offset: (blocks,) in the dtype of the codes; None where it is 0.
    """

    dtype: Integers
    codes: NDArray[np.generic]
    scale: NDArray[np.generic]
    offset: NDArray[np.generic] | None


def sampled_bits(blocks: NDArray[np.generic]) -> int | None:
    """Returns the bits, 4 or 8, of the integers that some of the blocks are; None where not all."""
    found = _sampled_steps(blocks)
    if found is None:
        return None
    low, high = found[0].min(axis=1), found[0].max(axis=1)
    return 4 if (np.maximum(high, 0) - np.minimum(low, 0)).max() < 16 else 8


def exact_scales(blocks: NDArray[np.generic]) -> Scaled | None:
    """Returns blocks as integers with a scale each, in the fewest bits; None where they are not.

    A product of an integer and a scale is rounded once, to the weight's dtype, however it is worked
    out: an integer of 9 bits times a float of 11 has 20 bits, which fp32 holds.

    Args:
        blocks: (blocks, elements), fp16 or fp32, finite.
    """
    sample = _sampled_steps(blocks)
    if sample is None:
        return None
    likely = np.unique(np.abs(sample[0]).max(axis=1))
    found = _steps(blocks, [*(int(each) for each in likely if each), *_EVERY])
    if found is None:
        return None
    steps, scale = found
    low, high = steps.min(axis=1), steps.max(axis=1)
    span = int((np.maximum(high, 0) - np.minimum(low, 0)).max())
    for bits, signed, unsigned in _WIDTHS:
        half, levels = 1 << (bits - 1), 1 << bits
        if low.min() >= -half and high.max() < half:
            return Scaled(signed, steps.astype(np.int8), scale, None)
        if span < levels:
            offset = -np.minimum(low, 0)
            codes = (steps + offset[:, None]).astype(np.uint8)
            return Scaled(unsigned, codes, scale, offset.astype(np.uint8))
    return None


def _sampled_steps(blocks: NDArray[np.generic]) -> _Steps | None:
    """Returns what `_steps` does of some of the blocks; most weights fail at the first of them."""
    sample = some_of(blocks[:, :: max(1, blocks.shape[1] // _SAMPLE)], _SAMPLE)
    one = sample[np.abs(sample).max(axis=1).argmax()]
    scales = np.concatenate(_tried(np.abs(one).max(), np.array(_EVERY)))
    scales = scales[scales > 0]
    alike = np.broadcast_to(one, (len(scales), len(one)))
    if len(scales) and not _in_steps(alike, scales)[1].any():
        return None
    return _steps(sample, _EVERY)


def _steps(blocks: NDArray[np.generic], numbers: Iterable[int]) -> _Steps | None:
    """Returns the steps, and the scale, that each block is; None where one is not.

    The largest magnitude of a block is some number of steps: each is tried in turn, with the scales
    that round to it.
    """
    largest = np.abs(blocks).max(axis=1)
    steps = np.zeros(blocks.shape, np.int16)
    scale = np.ones(len(blocks), blocks.dtype)
    done = largest == 0
    first = blocks[:, :: max(1, blocks.shape[1] // _FIRST)]
    for number in numbers:
        for tried in _tried(largest, np.array(number)):
            left = np.flatnonzero(~done & (tried > 0))
            left = left[_in_steps(first[left], tried[left])[1]]
            whole, good = _in_steps(blocks[left], tried[left])
            found = left[good]
            steps[found], scale[found], done[found] = whole[good], tried[found], True
        if done.all():
            return steps, scale
    return None


def _tried(
    largest: NDArray[np.generic], numbers: NDArray[np.integer]
) -> list[NDArray[np.floating]]:
    """Returns the scales of which so many steps round to a magnitude."""
    middle = (largest.astype(np.float32) / numbers.astype(np.float32)).astype(largest.dtype)
    ends = largest.dtype.type(0), largest.dtype.type(np.inf)
    return [middle, *(np.nextafter(middle, end) for end in ends)]


def _in_steps(
    blocks: NDArray[np.generic], scale: NDArray[np.generic]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Returns the nearest steps of some blocks, and which blocks they are exactly."""
    single = scale.astype(np.float32)[:, None]
    steps = np.rint(blocks.astype(np.float32) / single)
    near = np.abs(steps).max(axis=1, initial=0) <= _MOST
    exact = ((steps * single).astype(blocks.dtype) == blocks).all(axis=1)
    return steps, np.logical_and(near, exact)
