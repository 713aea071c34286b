"""A large weight, rounded to a storage some rows at a time without ever being held as floats."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import ClassVar

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
from mlpass.weights.reading import decoded
from mlpass.weights.rows import FileRows, axes_of
from mlpass.weights.sites import Site
from mlpass.weights.storing import Encoded, check_storage, encode_codes


def encode_in_bands(
    site: Site, storage: Storage, keep: Raw, kept: int, layout: Layout
) -> Encoded | None:
    """Returns a weight in a file as it will be stored; None where it has to be held as a whole.

    Of all elements codes and two bits are held.

    Args:
        site: whose weight it is.
        storage: to round to.
        keep: the bits of what is kept.
        kept: how many elements are.
        layout: of the weight.

    Raises:
        ModelFormatError: the model is too old for it.
        NotApplicable: the form cannot say it.
    """
    constant, axes = site.constant, axes_of(layout)
    assert constant is not None
    if axes is None:
        return None
    pruned = FileRows(constant, axes, keep, kept, layout)
    bands = storage.bands(pruned)
    if bands is None:
        return None
    if axes.blocks > 1 and axes.rows % bands.rows and not bands.fitted:  # some lie in two blocks
        return None
    check_storage([site], storage)
    check_storage([site], storage, zeros=kept < constant.size)
    codes, nonzero, others = _rounded(pruned, bands)
    stored = int(np.bitwise_count(nonzero).sum(dtype=np.int64))
    masked = kept < constant.size and storage.masked(constant.size, stored)
    parts: Parts = {"codes": codes, **bands.joined(others)}
    return _encoded(site, parts, storage, layout, stored, nonzero if masked else None)


def encode_exact_in_bands(
    site: Site, mask: Raw, kept: int, *, whole: bool
) -> Encoded | Smallest | None:
    """Returns a weight in a file in its smallest form, values as they are; None where held whole.

    Where that is the dense or the sparse form, which have no codes, it is only named.

    Args:
        site: whose weight it is.
        mask: the bits of what is kept and not zero.
        kept: how many elements are.
        whole: whether all are kept.

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
    codes, nonzero, _ = _rounded(weight, _Exactly(exact, weight, axes.blocks * axes.rows))
    parts: Parts = {"codes": codes, **others}
    bits = nonzero if exact.masked else None
    return _encoded(dense, parts, exact.form, layout, kept, bits)


@dataclass(frozen=True)
class _Exactly:
    """How an exact form rounds bands of rows: not at all.

    Attributes:
        exact: the form.
        weight: that it is for.
        rows: of it.
    """

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


def _rounded(
    pruned: FileRows, bands: Bands | _Exactly
) -> tuple[NDArray[np.generic], Raw, dict[str, NDArray[np.generic]]]:
    """Returns codes, the bits of what is not zero, and the other parts of all bands."""
    axes, size = pruned.axes, pruned.constant.size
    outer, rows, inner = axes.outer, axes.rows, axes.inner
    codes: Raw = empty((axes.blocks, outer, rows, inner), np.uint8)
    width = -(-rows * inner // 8)
    bits: Raw = empty((axes.blocks, outer, width), np.uint8)
    kind: np.dtype[np.generic] = codes.dtype
    found: dict[str, list[NDArray[np.generic]]] = {}
    columns = size // (axes.blocks * rows)
    for block, start, stop in pruned.strips(1 if bands.fitted else bands.rows):
        weight, keep = pruned.strip(block, start, stop)
        nonzero: Mask = empty(weight.shape, bool)

        def round_band(
            ends: tuple[int, int],
            weight: NDArray[np.generic] = weight,
            keep: Mask = keep,
            nonzero: Mask = nonzero,
            block: int = block,
            start: int = start,
        ) -> dict[str, NDArray[np.generic]]:
            here = slice(ends[0] - start, ends[1] - start)
            values, kept = pruned.rows_of(weight, keep, here)
            first = block * rows + ends[0]
            parts, values = bands.rounded(first, values, kept, pruned.layout)
            values *= kept
            nonzero[:, here] = axes.strip(cast_like(values, weight) != 0)
            codes[block, :, slice(*ends)] = axes.strip(parts["codes"]).view(np.uint8)
            return parts

        for parts in map_items(round_band, _bounds(bands, columns, block * rows, start, stop)):
            kind = parts.pop("codes").dtype
            for name, part in parts.items():
                found.setdefault(name, []).append(part)
        here = slice(start * inner // 8, -(-stop * inner // 8))
        bits[block, :, here] = np.packbits(nonzero.reshape(outer, -1), axis=1, bitorder="little")
    others = {name: np.concatenate(each) for name, each in found.items()}
    shaped = codes.view(kind).reshape(pruned.constant.shape)
    return shaped, _unpadded(bits.reshape(-1, width), rows * inner, size), others


def _bounds(
    bands: Bands | _Exactly, columns: int, before: int, start: int, stop: int
) -> list[tuple[int, int]]:
    """Returns the ends of the bands of a strip.

    Args:
        bands: how they are rounded.
        columns: elements of a row.
        before: how many rows there are before the block of the strip.
        start: the strip's first row in its block.
        stop: the one after the last.
    """
    unit = 1 if bands.fitted else bands.rows
    step = max(1, SLAB // max(1, unit * columns)) * unit
    ends = {*range(start, stop, step), stop}
    if bands.fitted:
        ends.update(end for end in range(start, stop) if (before + end) % bands.rows == 0)
    return [*pairwise(sorted(ends))]


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
