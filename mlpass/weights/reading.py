"""The facts on a site's weight: its values, its layout as a matrix, its magnitudes, its zeros."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from mlpass.buffers import empty
from mlpass.errors import ModelFormatError, NotApplicable
from mlpass.parallel import map_items, map_slabs
from mlpass.program.dtypes import BY_NAME, pack_elements, unpack_elements
from mlpass.program.ir import Constant, Raw
from mlpass.program.reads import constants_of
from mlpass.runtime.materialize import materialize
from mlpass.sparsity.layout import Layout
from mlpass.sparsity.mode import Mode
from mlpass.sparsity.pieces import Scores
from mlpass.sparsity.ranking import Score
from mlpass.sparsity.select import keys_of
from mlpass.weights.decoding import by_rows
from mlpass.weights.ops.gather import table_layout
from mlpass.weights.ops.record import is_gathered, layout_of
from mlpass.weights.sites import Site


def weight_of(site: Site) -> NDArray[np.generic]:
    """Returns a site's weight as the ops read it.

    Raises:
        ModelFormatError: it is broken, or of a type without array form.
    """
    if site.constant is not None:
        return np.asarray(site.constant.read())
    if site.is_computed:
        raise ModelFormatError(f"{site.name}: the model makes it as it runs")
    codes = materialize(site.parts, site.opset)
    if site.apart is None:
        return codes
    rest = materialize(site.apart.parts, site.opset)
    return (codes.astype(np.float32) + rest.astype(np.float32)).astype(codes.dtype)


def decoded(site: Site) -> Site:
    """Returns a compressed site as the dense one that it stands for; any other as it is.

    Its constant is in no file: it is read from the compressed form, by rows where it can be, and
    what takes its place goes to the file that this is in.
    """
    if not site.is_compressed:
        return site
    stored = [one for part in site.parts for one in constants_of(part)]
    beside = next((one for one in stored if one.in_file), None)
    if beside is None:
        return site

    def load() -> object:
        return pack_elements(weight_of(site), BY_NAME[site.dtype])

    rows = by_rows(site)

    def part(start: int, stop: int) -> Raw:
        assert rows is not None
        return pack_elements(rows(start, stop), BY_NAME[site.dtype])

    constant = Constant(
        site.makers[0].outputs[-1].type,
        load,
        beside.storage,
        in_file=True,
        part=None if rows is None else part,
    )
    return replace(site, constant=constant, parts=())


def layout_of_site(site: Site) -> Layout:
    """Returns the layout that the uses of a site agree on; a gather table does not count.

    Raises:
        NotApplicable: it is not read as one matrix; the text says why.
    """
    layouts: dict[Layout, str] = {}
    problem = ""
    for use in site.uses:
        try:
            layout = layout_of(use.op.type, use.parameter, use.position, site.shape, use.settings)
            layouts[layout] = f"{use.op.type} ({use.parameter})"
        except NotApplicable as error:
            problem = str(error)
            if not is_gathered(use.op.type, use.parameter):
                raise
    if not layouts:
        raise NotApplicable(problem)
    if len(layouts) > 1:
        raise NotApplicable(f"{' and '.join(layouts.values())} read it in different layouts")
    return next(iter(layouts))


def layout_for(site: Site, mode: Mode) -> Layout | None:
    """Returns how a mode is shown a weight: None where it has no layout, and the mode needs none.

    Raises:
        NotApplicable: the mode needs one.
    """
    try:
        return layout_of_site(site)
    except NotApplicable:
        if mode.structured:
            raise
        return None


def layout_to_solve(site: Site, mode: Mode | None = None) -> Layout:
    """Returns a site's layout; that of a table where rows are gathered from it alone.

    Args:
        site: whose weight it is.
        mode: by which it is pruned; None where any will do.

    Raises:
        NotApplicable: it has no layout, or the mode needs another; the text says why.
    """
    try:
        return layout_of_site(site)
    except NotApplicable:
        structured = mode is not None and mode.structured
        if structured or not all(is_gathered(u.op.type, u.parameter) for u in site.uses):
            raise
        return table_layout(site.shape)


def magnitude(weight: NDArray[np.generic]) -> NDArray[np.floating]:
    """Returns the score of data-free pruning: |w|.

    Raises:
        NotApplicable: the weight holds NaN or inf, which has no place in a ranking.
    """
    score = empty(weight.shape, weight.dtype)
    flat, scores = weight.reshape(-1), score.reshape(-1)
    infinity = keys_of(np.asarray(np.inf, score.dtype))

    def measure(start: int, stop: int) -> bool:
        np.abs(flat[start:stop], out=scores[start:stop])
        return bool(keys_of(scores[start:stop]).max() < infinity)

    if not all(map_slabs(measure, weight.size)):
        raise NotApplicable("it holds NaN or inf")
    return score


def scores_of(site: Site) -> Scores:
    """Returns the scores of data-free pruning, |w| of each element as it is stored.

    A weight that is not in a file is read as a whole each time, and one that is compressed where
    it cannot be decoded by rows.
    """
    constant = decoded(site).constant
    dtype = np.dtype(BY_NAME[site.dtype].numpy)
    if constant is None or constant.part is None:
        whole = partial(_whole_magnitude, site)
        return Scores(math.prod(site.shape), dtype, whole, parted=False)

    def read(start: int, stop: int) -> Score:
        return magnitude(part_of(constant, start, stop))

    return Scores(constant.size, dtype, read)


def _whole_magnitude(site: Site, start: int, stop: int) -> Score:
    return magnitude(weight_of(site)).reshape(-1)[start:stop]


def part_of(constant: Constant, start: int, stop: int) -> NDArray[np.generic]:
    """Returns the elements of a constant in a file from one place to another, 1-D."""
    assert constant.part is not None
    return unpack_elements(constant.part(start, stop), constant.dtype, stop - start)


def zeros_of(site: Site) -> int | None:
    """Returns how many elements of a weight are zero; None where its values cannot be read.

    One that is in a file is read in pieces.
    """
    try:
        constant = decoded(site).constant
        if constant is None or constant.part is None:
            weight = weight_of(site)
            return weight.size - count_nonzero(weight)
        bounds = scores_of(site).bounds()
        live = map_items(lambda ends: count_nonzero(part_of(constant, *ends)), bounds)
        return constant.size - sum(live)
    except ModelFormatError:
        return None


def count_nonzero(weight: NDArray[np.generic]) -> int:
    """Returns how many elements are not zero; floats by their bits, which is faster."""
    if weight.dtype.kind != "f":
        return int(np.count_nonzero(weight))
    bits = weight.reshape(-1).view(f"u{weight.dtype.itemsize}")
    return int(np.count_nonzero(bits << bits.dtype.type(1)))  # without the sign
