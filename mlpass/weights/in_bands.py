"""A large weight, rounded to a storage some rows at a time without ever being held as floats."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlpass.arrays import cast_like
from mlpass.buffers import empty
from mlpass.parallel import SLAB, map_ahead, map_items
from mlpass.program.dtypes import DType, pack_elements
from mlpass.program.ir import Constant, Raw
from mlpass.sparsity.layout import Layout
from mlpass.sparsity.packing import mask_part
from mlpass.sparsity.ranking import Mask
from mlpass.storage.exact import Exact
from mlpass.storage.storage import Bands, Floats, Form, Parts, Storage
from mlpass.weights.lossless import Smallest, check_smaller, exact_layout, smallest_form
from mlpass.weights.outliers_in_bands import bands_beside_outliers
from mlpass.weights.reading import decoded
from mlpass.weights.rows import Axes, FileRows, Strip, axes_of
from mlpass.weights.sites import Site
from mlpass.weights.storing import Encoded, check_storage, encode_codes, with_outliers


def encode_in_bands(
    site: Site, storage: Storage, keep: Raw, kept: int, layout: Layout
) -> Encoded | None:
    """Returns a weight in a file as it will be stored; None where it has to be held as a whole.

    Of all elements codes and two bits are held.

    Raises:
        ModelFormatError: the model is too old for it.
        NotApplicable: the form cannot say it.
    """
    constant, axes = site.constant, axes_of(layout)
    assert constant is not None
    if axes is None:
        return None
    pruned = FileRows(constant, axes, keep, kept, layout)
    bands = bands_beside_outliers(pruned, storage) if storage.apart else storage.bands(pruned)
    if bands is None:
        return None
    if pruned.cuts(bands):
        return None
    check_storage([site], storage)
    check_storage([site], storage, zeros=kept < constant.size)
    found = _rounded(pruned, bands)
    stored = int(np.bitwise_count(found.nonzero).sum(dtype=np.int64))
    masked = kept < constant.size and storage.masked(constant.size, stored)
    parts: Parts = {"codes": found.codes, **bands.joined(found.others)}
    nonzero = found.nonzero if masked else None
    encoded = _encoded(site, parts, storage, layout, stored, nonzero)
    return with_outliers(encoded, site, found.apart, found.rest)


def encode_exact_in_bands(
    site: Site, mask: Raw, kept: int, *, whole: bool
) -> Encoded | Smallest | None:
    """Returns a weight in a file in its smallest form, values as they are; None where held whole.

    Where that is the dense or the sparse form, which have no codes, it is only named.

    Raises:
        NotApplicable: it is stored in as few bytes already.
    """
    dense, layout = decoded(site), exact_layout(site)
    constant, axes = dense.constant, axes_of(layout)
    assert constant is not None
    if axes is None:
        return None
    weight = FileRows(constant, axes, mask, kept, layout)
    smallest = smallest_form(weight, site.opset)
    check_smaller(site, smallest, whole=whole)
    exact = smallest.exact
    if exact is None:
        return smallest
    others = exact.others()  # codes are looked up in them
    found = _rounded(weight, _Exactly(exact, weight, axes.blocks * axes.rows))
    parts: Parts = {"codes": found.codes, **others}
    bits = found.nonzero if exact.masked else None
    return _encoded(dense, parts, exact.form, layout, kept, bits)


@dataclass(frozen=True)
class _Exactly:
    """How an exact form rounds bands of rows: not at all."""

    exact: Exact
    weight: FileRows
    rows: int
    fitted: ClassVar[bool] = True

    def rounded(
        self, start: int, weight: Floats, keep: Mask, layout: Layout
    ) -> tuple[dict[str, NDArray[np.generic]], Floats]:
        """Returns the codes of a band, and its values: see `Bands`."""
        return {"codes": self.exact.codes(start, cast_like(weight, self.weight.like))}, weight


def _encoded(
    site: Site, parts: Parts, form: Form, layout: Layout, stored: int, mask: Raw | None
) -> Encoded:
    """Returns the parts of a weight as they will be stored, written some at a time."""
    flat, beside = parts["codes"].reshape(-1), site.constant
    assert beside is not None  # asked before
    if mask is not None:
        flat = _compacted(flat, mask)

    def made(element: DType, dtype: str, shape: tuple[int, ...]) -> Constant:
        def packed(start: int) -> Raw:
            return pack_elements(flat[start : start + SLAB], element)

        pieces = partial(map_ahead, packed, range(0, flat.size, SLAB))
        return Constant.in_pieces(pieces, dtype, shape, beside)

    return encode_codes(site, parts, form, layout, stored, mask, made)


def _rounded(pruned: FileRows, bands: Bands | _Exactly) -> _Rounded:
    """Returns all bands, rounded."""
    axes, size = pruned.axes, pruned.constant.size
    codes: Raw = empty((axes.blocks, axes.outer, axes.rows, axes.inner), np.uint8)
    kind: np.dtype[np.generic] = codes.dtype
    bits, far = (_Bits(axes) for _ in range(2))
    found: dict[str, list[NDArray[np.generic]]] = {}
    rests = []
    for strip in pruned.strips(1 if bands.fitted else bands.rows):
        every, nonzero, apart, rest = _rounded_strip(pruned, bands, strip, codes)
        for parts in every:
            kind = parts.pop("codes").dtype
            for name, part in parts.items():
                found.setdefault(name, []).append(part)
        bits.put(nonzero | apart, strip)
        far.put(apart, strip)
        rests.append((strip.block, apart.reshape(axes.outer, -1).sum(axis=1), rest[apart]))
    return _Rounded(
        codes.view(kind).reshape(pruned.constant.shape),
        bits.joined(size),
        {name: np.concatenate(each) for name, each in found.items()},
        far.joined(size),
        _in_order(rests, axes),
    )


def _rounded_strip(
    pruned: FileRows, bands: Bands | _Exactly, strip: Strip, codes: Raw
) -> tuple[list[dict[str, NDArray[np.generic]]], Mask, Mask, NDArray[np.generic]]:
    """Fills in the codes of a strip; returns the parts of its bands, and what is told by element.

    That is which are not zero, which are apart, and what these are more than their codes.
    """
    axes, shape = pruned.axes, strip.weight.shape
    nonzero, apart = (np.zeros(shape, bool) for _ in range(2))
    rest: NDArray[np.generic] = np.zeros(shape, strip.weight.dtype)
    own_codes = codes[strip.block, :, strip.start : strip.start + strip.rows]

    def round_band(here: slice) -> dict[str, NDArray[np.generic]]:
        values, kept = pruned.rows_of(strip, here)
        parts, values = bands.rounded(strip.before + here.start, values, kept, pruned.layout)
        values *= kept
        nonzero[:, here] = axes.strip(cast_like(values, pruned.like) != 0)
        if "apart" in parts:  # codes and rest make up an element together
            own = parts.pop("apart").reshape(values.shape) != 0
            apart[:, here] = axes.strip(own)
            spread = np.zeros(values.shape, rest.dtype)
            spread[own] = parts.pop("rest")
            rest[:, here] = axes.strip(spread)
        own_codes[:, here] = axes.strip(parts["codes"]).view(np.uint8)
        return parts

    return map_items(round_band, pruned.bands_of(strip, bands)), nonzero, apart, rest


class _Rounded(NamedTuple):
    """A weight in parts.

    Attributes:
        codes: of all elements.
        nonzero: the bits of those that are not zero, least significant first.
        others: parts of all bands, one after the other.
        apart: the bits of those that are outliers.
        rest: what those are more than their codes, in the order in which they are stored.
    """

    codes: NDArray[np.generic]
    nonzero: Raw
    others: dict[str, NDArray[np.generic]]
    apart: Raw
    rest: NDArray[np.generic]


class _Bits:
    """The bits of all elements, put together from strips."""

    def __init__(self, axes: Axes) -> None:
        self.length = axes.rows * axes.inner
        self.inner = axes.inner
        self.bits: Raw = empty((axes.blocks, axes.outer, -(-self.length // 8)), np.uint8)

    def put(self, mask: Mask, strip: Strip) -> None:
        """Puts the mask of a strip, (outer, rows, inner), in its place."""
        packed = np.packbits(mask.reshape(len(mask), -1), axis=1, bitorder="little")
        first = strip.start * self.inner // 8
        self.bits[strip.block, :, first : first + packed.shape[1]] = packed

    def joined(self, size: int) -> Raw:
        """Returns the bits of all in one run."""
        return _unpadded(self.bits.reshape(-1, self.bits.shape[2]), self.length, size)


def _in_order(
    strips: list[tuple[int, NDArray[np.intp], NDArray[np.generic]]], axes: Axes
) -> NDArray[np.generic]:
    """Returns elements of strips in the order in which they are stored.

    Args:
        strips: of each its block, how many elements lie in each of its outer parts, and those.
        axes: how rows lie.
    """
    counts = np.zeros((axes.blocks, axes.outer), np.intp)
    for block, each, _ in strips:
        counts[block] += each
    after = np.cumsum(counts).reshape(counts.shape)
    free = after - counts  # the next place of each outer part
    found = np.zeros(int(counts.sum()), strips[0][2].dtype)
    for block, each, values in strips:
        moved = free[block] - (np.cumsum(each) - each)
        found[np.repeat(moved, each) + np.arange(values.size)] = values
        free[block] += each
    return found


def _unpadded(bits: Raw, length: int, size: int) -> Raw:
    """Returns the bits of all rows in one, from rows of `length` bits that are padded to bytes."""
    if length % 8 == 0 or len(bits) == 1:
        return bits.reshape(-1)
    flat: Raw = empty((-(-size // 8),), np.uint8)
    step = 8 * max(1, SLAB // (8 * length))

    def pack(start: int) -> None:
        rows = np.unpackbits(bits[start : start + step], axis=1, count=length, bitorder="little")
        at = start * length // 8
        packed = np.packbits(rows.reshape(-1), bitorder="little")
        flat[at : at + packed.size] = packed

    map_items(pack, range(0, len(bits), step))
    return flat


def _compacted(codes: NDArray[np.generic], mask: Raw) -> NDArray[np.generic]:
    """Returns the codes that a mask has, moved to the front of where all were."""
    count = 0
    for start in range(0, codes.size, SLAB):
        part = codes[start : start + SLAB]
        chosen = np.compress(mask_part(mask, start, start + part.size), part)
        codes[count : count + chosen.size] = chosen
        count += chosen.size
    return codes[:count]
