"""Integers and scales that stand for a weight exactly, where there are such."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from math import prod
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlpass.halves import widened
from mlpass.literals import Integers
from mlpass.storage.blocking import Blocking, some_of
from mlpass.storage.storage import Rows

_MOST = 255  # steps from the lowest to the highest code of 8 bits
_SAMPLE = 64  # blocks, and elements of each, that are tried first
_FIRST = 8  # elements of a block that are tried before the others
_EVERY = range(1, _MOST + 1)

_Steps = tuple[NDArray[np.int16], NDArray[np.generic]]
_Fitted = tuple[NDArray[np.generic], NDArray[np.int16], NDArray[np.int16]]


_WIDTHS: tuple[tuple[int, Integers, Integers], ...] = ((4, "int4", "uint4"), (8, "int8", "uint8"))


class Scaled(NamedTuple):
    """Blocks as `scale * (codes - offset)`.

    Attributes:
        dtype: "int4", "int8", "uint4" or "uint8"; the last two have an offset.
        scale: (blocks,) in the weight's dtype.
        offset: (blocks,) uint8; None where it is 0.
    """

    dtype: Integers
    scale: NDArray[np.generic]
    offset: NDArray[np.generic] | None


class Sample(NamedTuple):
    """Some elements of some blocks.

    Attributes:
        blocks: (blocks, elements).
        first: of the first block alone, (1, elements), fewer.
    """

    blocks: NDArray[np.generic]
    first: NDArray[np.generic]


def samples_of(weight: Rows, blockings: Sequence[Blocking]) -> list[Sample]:
    """Returns some elements of some blocks for each of several ways to cut a weight."""
    size = prod(weight.layout.shape)
    places = []
    for blocking in blockings:
        length = size // blocking.number
        for blocks, columns in ((_SAMPLE, _SAMPLE), (1, _FIRST)):
            chosen = some_of(np.arange(blocking.number), blocks)[:, None] * length
            places.append(chosen + np.arange(0, length, max(1, length // columns)))
    picked = _picked(weight, places)
    return [Sample(*pair) for pair in zip(picked[::2], picked[1::2], strict=True)]


def _picked(weight: Rows, places: Sequence[NDArray[np.intp]]) -> list[NDArray[np.generic]]:
    """Returns the elements of a weight at some places, ascending, in the order of its matrix."""
    found = [np.zeros(each.shape, weight.dtype) for each in places]
    start = 0
    for values in weight.stored():
        stop = start + values.size
        for wanted, into in zip(places, found, strict=True):
            here = slice(*np.searchsorted(wanted.reshape(-1), (start, stop)))
            into.reshape(-1)[here] = values.reshape(-1)[wanted.reshape(-1)[here] - start]
        start = stop
    return found


def sampled_bits(sample: Sample) -> int | None:
    """Returns the bits, 4 or 8, of the integers that some of the blocks are; None where not all."""
    found = _sampled_steps(sample.blocks)
    if found is None:
        return None
    low, high = found[0].min(axis=1), found[0].max(axis=1)
    return 4 if (np.maximum(high, 0) - np.minimum(low, 0)).max() < 16 else 8


def exact_scales(weight: Rows, blocking: Blocking, sample: Sample) -> Scaled | None:
    """Returns what makes blocks integers with a scale each, of the fewest bits; None where nothing.

    A product of an integer and a scale is rounded once, to the weight's dtype, however it is worked
    out: an integer of 9 bits times a float of 11 has 20 bits, which fp32 holds.

    Args:
        weight: fp16 or fp32, finite.
        blocking: what shares a scale: all of it, or blocks within rows.
        sample: of its blocks.
    """
    steps = _sampled_steps(sample.blocks)
    if steps is None:
        return None
    likely = np.unique(np.abs(steps[0]).max(axis=1))
    numbers = [*(int(each) for each in likely if each), *_EVERY]
    one = blocking.number == 1
    found = (
        _of_whole(weight, numbers, sample.first) if one else _of_parts(weight, blocking, numbers)
    )
    if found is None:
        return None
    scale, low, high = found
    span = int((np.maximum(high, 0) - np.minimum(low, 0)).max())
    for bits, signed, unsigned in _WIDTHS:
        half, levels = 1 << (bits - 1), 1 << bits
        if low.min() >= -half and high.max() < half:
            return Scaled(signed, scale, None)
        if span < levels:
            return Scaled(unsigned, scale, (-np.minimum(low, 0)).astype(np.uint8))
    return None


def _of_parts(weight: Rows, blocking: Blocking, numbers: Sequence[int]) -> _Fitted | None:
    """Returns the scale of each block within a row, with its lowest and highest step."""
    scale = np.ones(blocking.number, weight.dtype)
    low, high = (np.zeros(blocking.number, np.int16) for _ in range(2))
    length, start = prod(weight.layout.shape) // blocking.number, 0
    for values in weight.stored():
        found = _steps(values.reshape(-1, length), numbers)
        if found is None:
            return None
        here = slice(start, start + len(found[0]))
        low[here], high[here] = found[0].min(axis=1), found[0].max(axis=1)
        scale[here], start = found[1], here.stop
    return scale, low, high


def _of_whole(weight: Rows, numbers: Sequence[int], first: NDArray[np.generic]) -> _Fitted | None:
    """Returns the only scale of a weight, with its lowest and highest step, one of each."""

    def parts() -> Iterator[NDArray[np.generic]]:
        for values in weight.stored():
            yield values.reshape(1, -1)

    largest = np.max([np.abs(part).max(keepdims=True)[0] for part in parts()], axis=0)
    if largest[0] == 0:
        return np.ones(1, weight.dtype), np.zeros(1, np.int16), np.zeros(1, np.int16)
    for number in numbers:
        for tried in _tried(largest, np.array(number)):
            if tried[0] > 0 and _in_steps(first, tried)[1].all():
                ends = _ends(parts(), tried)
                if ends is not None:
                    low, high = (np.array([end], np.int16) for end in ends)
                    return tried, low, high
    return None


def _ends(
    parts: Iterable[NDArray[np.generic]], scale: NDArray[np.generic]
) -> tuple[int, int] | None:
    """Returns the lowest and the highest step of a block; None where it is not of steps."""
    low, high = 0, 0
    for part in parts:
        steps, exact = _in_steps(part, scale)
        if not exact.all():
            return None
        low, high = min(low, int(steps.min())), max(high, int(steps.max()))
    return low, high


def codes_of(
    rows: NDArray[np.generic], start: int, scaled: Scaled, per_row: int
) -> NDArray[np.generic]:
    """Returns the codes of some rows, in their shape.

    Args:
        rows: (rows, columns).
        start: the first of them.
        scaled: what makes them integers.
        per_row: blocks of a row; 0 where the whole weight is one.
    """
    here = slice(start * per_row, (start + len(rows)) * per_row) if per_row else slice(None)
    blocks = rows.reshape(max(1, len(rows) * per_row), -1)
    codes = np.rint(widened(blocks) / scaled.scale[here].astype(np.float32)[:, None])
    integer = np.int8 if scaled.offset is None else np.uint8
    if scaled.offset is not None:
        codes += scaled.offset[here, None]
    whole: NDArray[np.generic] = codes.astype(integer)
    return whole.reshape(rows.shape)


def _sampled_steps(sample: NDArray[np.generic]) -> _Steps | None:
    """Returns what `_steps` does of some of the blocks; most weights fail at the first of them."""
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
