"""A large weight, pruned by magnitude without ever being in memory as a whole."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlpass.buffers import empty
from mlpass.errors import NotApplicable
from mlpass.program.dtypes import pack_elements, unpack_elements
from mlpass.program.ir import Constant, Raw
from mlpass.sparsity.mode import Mode
from mlpass.sparsity.packing import mark, stored_elements
from mlpass.sparsity.pieces import Rule, Scores, cut_rule, rule_of
from mlpass.sparsity.select import Cut
from mlpass.weights.reading import layout_of_site, magnitude
from mlpass.weights.sites import Site
from mlpass.weights.storing import Encoded, encode_mask

WHOLE = 1 << 25  # bytes of a weight: what is no larger is read as a whole, which is faster


def scores_in_pieces(site: Site) -> Scores | None:
    """Returns the magnitudes of a weight, read piece by piece; None where it is small, or computed.

    Reading raises NotApplicable where the weight holds NaN or inf.
    """
    constant = site.constant
    if constant is None or constant.part is None or constant.nbytes <= WHOLE:
        return None

    def score(start: int, stop: int) -> NDArray[Any]:
        return magnitude(_elements(constant, start, stop))

    return Scores(constant.size, np.dtype(constant.dtype.numpy), score)


def _elements(constant: Constant, start: int, stop: int) -> NDArray[Any]:
    """Returns the elements from one place to another."""
    assert constant.part is not None  # asked before
    return unpack_elements(constant.part(start, stop), constant.dtype, stop - start)


def encode_in_pieces(
    site: Site, mode: Mode, cut: tuple[Cut, np.dtype[Any]] | None
) -> Encoded | None:
    """Returns a weight as it will be stored; None where it is small, or has to be ranked whole.

    Of the elements that are stored only a mask is held: they are read once more as they are
    written.

    Args:
        site: whose weight it is.
        mode: that prunes it.
        cut: where the mode ranks all weights together, what that means for this one, and the float
            type whose keys that is stated in.

    Raises:
        NotApplicable: the mode does not fit the weight, or zeroes nothing in it.
    """
    scores = scores_in_pieces(site)
    if scores is None:
        return None
    constant = site.constant
    assert constant is not None  # it has scores
    rule = _rule(site, mode, cut, scores)
    if rule is None:
        return None
    mask: Raw = empty((-(-constant.size // 8),), np.uint8)
    kept, stored = 0, 0
    bounds = scores.bounds(rule.unit)
    for start, stop in bounds:
        values = _elements(constant, start, stop)
        keep = rule.keep(start, magnitude(values))
        kept += int(np.count_nonzero(keep))
        mask[start // 8 : -(-stop // 8)], count = mark(values, keep)
        stored += count
    if rule.check is not None:
        rule.check(constant.size - kept)
    if kept == constant.size:
        raise NotApplicable(f"{mode} zeroes nothing in it")

    def elements(dense: bool) -> Iterator[Raw]:
        for start, stop in bounds:
            bits = mask[start // 8 : -(-stop // 8)]
            yield pack_elements(
                stored_elements(_elements(constant, start, stop), bits, dense=dense), constant.dtype
            )

    def made(dense: bool) -> Constant:
        shape = constant.shape if dense else (stored,)
        return Constant.in_pieces(lambda: elements(dense), constant.dtype.name, shape, constant)

    return encode_mask(site, mask, stored, lambda: made(False), lambda: made(True))


def _rule(
    site: Site, mode: Mode, cut: tuple[Cut, np.dtype[Any]] | None, scores: Scores
) -> Rule | None:
    """Returns the rule by which a weight is pruned; None where it is to be ranked whole."""
    if cut is not None:
        rule, dtype = cut_rule(cut[0]), cut[1]
        return rule._replace(keep=lambda at, score: rule.keep(at, score.astype(dtype, copy=False)))
    try:
        layout = layout_of_site(site)
    except NotApplicable:
        if mode.structured:
            raise
        layout = None
    return rule_of(mode, scores, layout)
