"""A weight in the smallest form that decodes to exactly its values."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlpass.errors import NotApplicable
from mlpass.parallel import map_items
from mlpass.program.ir import Raw
from mlpass.sparsity.layout import Layout
from mlpass.sparsity.modes import Mask
from mlpass.sparsity.packing import zero_out
from mlpass.sparsity.pieces import WHOLE
from mlpass.storage.exact import Exact, exact_forms, file_nbytes
from mlpass.storage.storage import Rows, packed_nbytes
from mlpass.weights.reading import decoded, layout_to_solve, part_of, scores_of, weight_of
from mlpass.weights.record import stored_sizes
from mlpass.weights.rows import FileRows, HeldRows, axes_of
from mlpass.weights.sites import Site
from mlpass.weights.storing import Encoded, encode_exact, encode_weight


class Smallest(NamedTuple):
    """The smallest form of a weight.

    Attributes:
        text: what it is, in a few words.
        sizes: the bytes of each of its constants.
        exact: the form, where it has codes; None where it is dense, or sparse.
    """

    text: str
    sizes: tuple[int, ...]
    exact: Exact | None = None


def encode_lossless(site: Site, weight: NDArray[np.generic], keep: Mask) -> Encoded:
    """Returns a weight as it will be stored: in the smallest form, its values as they are.

    Args:
        site: whose weight it is.
        weight: in the site's shape and dtype.
        keep: the same shape; what is False becomes zero.

    Raises:
        NotApplicable: it is stored in as few bytes already, or is not decoded alike everywhere.
    """
    check_decoded(site)
    whole = not weight[~keep].any()
    weight = weight if whole else zero_out(weight, keep)
    rows = HeldRows(weight, exact_layout(site))
    found = smallest_form(rows, site.opset)
    check_smaller(site, found, whole=whole)
    dense = decoded(site)
    if found.exact is None:
        return encode_weight(dense, weight, weight != 0)
    return encode_exact(dense, rows, found.exact)


def rows_of_site(site: Site) -> Rows:
    """Returns a weight by its rows: a large one in a file is read some at a time.

    Raises:
        ModelFormatError: it is broken, or of a type without array form.
    """
    layout, constant = exact_layout(site), decoded(site).constant
    axes = axes_of(layout)
    if constant is None or constant.part is None or axes is None or constant.size <= WHOLE:
        return HeldRows(weight_of(site), layout)
    if site.dtype not in ("fp16", "fp32"):
        return HeldRows(weight_of(site), layout)

    def mark(ends: tuple[int, int]) -> Raw:
        bits: Raw = np.packbits(part_of(constant, *ends) != 0, bitorder="little")
        return bits

    marked = map_items(mark, scores_of(site).bounds())
    mask = np.concatenate(marked)
    kept = int(np.bitwise_count(mask).sum(dtype=np.int64))
    return FileRows(constant, axes, mask, kept, layout)


def smallest_form(weight: Rows, opset: int) -> Smallest:
    """Returns the smallest form that decodes to exactly a weight, by what it takes of a file.

    Args:
        weight: those of its elements are kept that are not zero.
        opset: whose forms there are.

    Raises:
        NotApplicable: it holds NaN or inf.
    """
    size, itemsize = math.prod(weight.layout.shape), weight.dtype.itemsize
    if not all(np.isfinite(part).all() for part in weight.stored()):
        raise NotApplicable("it holds NaN or inf")
    found = [Smallest("dense", (size * itemsize,))]
    if weight.kept < size:
        found.append(Smallest("sparse", (packed_nbytes(size, 1), weight.kept * itemsize)))
    for each in exact_forms(weight, opset):
        text = f"sparse + {each.text}" if each.masked else each.text
        found.append(Smallest(text, each.sizes, each))
    return min(found, key=lambda each: (file_nbytes(each.sizes), sum(each.sizes)))


def check_smaller(site: Site, found: Smallest, *, whole: bool) -> None:
    """Raises NotApplicable where a weight that is kept whole takes as few bytes already."""
    before = stored_sizes(site)
    if whole and file_nbytes(found.sizes) >= file_nbytes(before):
        raise NotApplicable(f"no form of the same values takes less than its {sum(before)} bytes")


def check_decoded(site: Site) -> None:
    """Raises NotApplicable where a compressed weight's values depend on who decodes it."""
    for part in site.parts:
        for offset in part.inputs.get("offset", ()):
            if offset.type.dtype.startswith(("fp", "bf")):  # type: ignore[union-attr]
                raise NotApplicable(
                    "its offsets are floats, and whether their differences are rounded is not said"
                )


def exact_layout(site: Site) -> Layout:
    """Returns a site's layout; where it has none as a matrix, its first axis as rows."""
    try:
        return layout_to_solve(site)
    except NotApplicable:
        columns = tuple(range(1, len(site.shape)))
        return Layout(site.shape, site.shape, ((), (0,), columns, ()))
