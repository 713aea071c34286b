"""The forms that a weight may get: pairs of a mode and a storage, and the bytes of each."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from math import prod
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlpass.arrays import total
from mlpass.errors import NotApplicable
from mlpass.program.dtypes import BY_NAME
from mlpass.program.encode import SUB_BYTE_OPSET
from mlpass.runtime.ops import is_constant
from mlpass.solvers.solve import Solution
from mlpass.sparsity.layout import Layout, grouped_layout
from mlpass.sparsity.modes import Mask, Mode, Percentile
from mlpass.storage.lossless import Lossless
from mlpass.storage.palette import Palette
from mlpass.storage.quantized import Quantized
from mlpass.storage.storage import Storage
from mlpass.weights.footprint import footprint
from mlpass.weights.reading import decoded, layout_to_solve, zeros_of
from mlpass.weights.recoding import AsCoded
from mlpass.weights.sites import Site
from mlpass.weights.storing import encode_stored, encode_weight


class Form(NamedTuple):
    """How a weight may be kept: what becomes zero, and how the others are stored.

    Attributes:
        mode: None where the weight stays as it is.
        storage: None where values stay as they come.
    """

    mode: Mode | None
    storage: Storage | None

    @property
    def has_zeros(self) -> bool:
        """Whether its mode makes any."""
        return self.mode is not None and bool(self.mode.target)

    def __str__(self) -> str:
        """How a report shows it."""
        if self.mode is None:
            return "dense"
        shown = [str(self.mode)] if self.has_zeros else []
        return " + ".join([*shown, *([] if self.storage is None else [str(self.storage)])])


class Offer(NamedTuple):
    """A form that a weight may get.

    Attributes:
        form: the form.
        nbytes: that it takes in a weight file, at the most.
        error: relative error of the weight's outputs, on the inputs that it is solved on.
        risk: the error to be expected on others: what forms are compared by.
    """

    form: Form
    nbytes: int
    error: float
    risk: float


_ALL = Percentile(0.0)
DENSE, LOSSLESS = Form(None, None), Form(_ALL, Lossless())
_QUANTIZED = (Quantized("int8"), Quantized("int4"), Quantized("int4", 32))
_GROUPED = tuple(Palette(bits) for bits in (6, 4, 3, 2, 1))
_ONE_TABLE = tuple(Palette(bits, 0) for bits in (6, 4, 3, 2, 1))
# Zeros and a table: what is left may be few bits, and a mask costs one.
_MASKED = ((0.375, 4), (0.5, 4), (0.625, 4), (0.75, 4), (0.875, 4), (0.5, 3))
_SPARSE = (0.25, 0.5, 0.75, 0.875)
# A few values beside a table: these cost a mask as well, which pays in between 4 and 8 bits.
_APART = tuple(
    Form(_ALL, Palette(bits, rows, outliers=0.01)) for bits, rows in ((6, 8), (6, 0), (4, 0))
)
_LARGEST, _TAIL = 0.005, 0.2  # of the elements, and of the square sum, from where on they are tried
_FORMS = (
    DENSE,
    *(Form(_ALL, each) for each in (*_QUANTIZED, *_GROUPED, *_ONE_TABLE)),
    *(Form(Percentile(share), Palette(bits)) for share, bits in _MASKED),
    Form(Percentile(0.75), Quantized("int8")),
    *(Form(Percentile(share), None) for share in _SPARSE),
)


def forms_of(site: Site, *, outliers: bool = False) -> list[Form]:
    """Returns the forms that the opset of a site can say; that as it is comes first.

    Args:
        site: whose weight is to get one.
        outliers: whether to keep some of its elements apart may pay, as `has_tails`.
    """
    forms = [*_FORMS, *(_APART if outliers and site.adds_up else ())]
    if site.opset >= SUB_BYTE_OPSET:
        return forms
    return [form for form in forms if _fits_old(form) and not (site.is_masked and form.storage)]


def has_tails(weight: NDArray[np.generic]) -> bool:
    """Returns whether a few elements outweigh the others so far that tables are bent by them."""
    squares = np.square(weight.reshape(-1).astype(np.float32))
    rest = squares.size - max(1, int(_LARGEST * squares.size))
    largest = total(np.partition(squares, rest)[rest:])
    return largest > _TAIL * total(squares)


def opens_more(site: Site) -> bool:
    """Returns whether a newer opset has more forms for a site."""
    return site.opset < SUB_BYTE_OPSET


def _fits_old(form: Form) -> bool:
    return form.storage is None or (form.storage.needs_ios18 is None and not form.has_zeros)


def form_nbytes(site: Site, form: Form, zeros: int = 0) -> int:
    """Returns what a weight takes in a weight file in a form, at the most, headers included.

    It is less where the weight has zeros that the form stores none of.

    Args:
        site: whose weight it is.
        form: with a `Percentile`, or none.
        zeros: that its mask has already, which stay.

    Raises:
        NotApplicable: the form cannot say it, or makes nothing smaller.
    """
    if form.mode is None:
        return footprint(site.parts or site.makers)
    size, storage = prod(site.shape), form.storage
    kept = size - max(zeros, int((form.mode.target or 0.0) * size))
    counts = [kept]
    if storage is not None and kept < size and not storage.masked(size, kept):
        # Fewer may be left, so that a mask pays, and with its header takes more of a file.
        counts.append(bisect_left(range(kept), True, key=lambda n: not storage.masked(size, n)) - 1)
    keeps = [(np.arange(size) < count).reshape(site.shape) for count in counts if count >= 0]
    return max(kept_nbytes(site, keep, storage) for keep in keeps)


def kept_nbytes(site: Site, keep: Mask, storage: Storage | None) -> int:
    """Returns what a weight takes in a weight file where all that is kept is not zero.

    Raises:
        NotApplicable: the form cannot say it, or makes nothing smaller.
    """
    dtype = np.dtype(BY_NAME[site.dtype].numpy)
    weight = np.where(keep, dtype.type(1), dtype.type(0))
    if storage is None:
        if site.has_codes:
            AsCoded(site).others()  # which would stay, and refuse to where other ops make them
        encoded = encode_weight(site, weight, keep)
    else:
        parts = _blank_parts(layout_to_solve(site), keep, storage, dtype)
        solution = Solution(weight, keep, 0.0, 0.0, parts=parts)
        encoded = encode_stored(decoded(site), solution, storage)
    return footprint(op for op in encoded.ops if is_constant(op))


def _blank_parts(
    layout: Layout, keep: Mask, storage: Storage, dtype: np.dtype[np.generic]
) -> Mapping[str, NDArray[np.generic]]:
    """Returns parts of the sizes that a solution's have."""
    groups, rows, columns = grouped_layout(layout).shape
    power = np.ones((groups, columns), np.float32)
    kept = layout.split(keep).reshape(groups, rows, columns)
    return storage.grid(layout, power, dtype).parts(kept)


class Menu:
    """The bytes of forms, worked out once for all weights that are alike."""

    def __init__(self) -> None:
        """Knows nothing yet."""
        self._known: dict[tuple[object, ...], int | None] = {}
        self._zeros: dict[Site, int] = {}

    def nbytes(self, site: Site, form: Form) -> int | None:
        """Returns the bytes of a form, as `form_nbytes`; None where the weight cannot get it."""
        key = (
            site.shape,
            site.dtype,
            site.opsets,
            _layout(site),
            form,
            footprint(site.parts or site.makers),
            tuple(part.type for part in site.parts),
            self._masked(site),
        )
        if key not in self._known:
            try:
                self._known[key] = form_nbytes(site, form, self._masked(site))
            except NotApplicable:
                self._known[key] = None
        return self._known[key]

    def least(self, site: Site) -> int:
        """Returns the bytes of the smallest form of a weight."""
        found = [self.nbytes(site, form) for form in forms_of(site)]
        return min(each for each in found if each is not None)

    def _masked(self, site: Site) -> int:
        """Returns how many zeros a weight's mask has, counted once."""
        if not site.is_masked:
            return 0
        if site not in self._zeros:
            self._zeros[site] = zeros_of(site) or 0
        return self._zeros[site]


def _layout(site: Site) -> Layout | None:
    try:
        return layout_to_solve(site)
    except NotApplicable:
        return None
