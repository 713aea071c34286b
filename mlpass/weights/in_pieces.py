"""A large weight, pruned by magnitude without ever being in memory as a whole."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import numpy as np

from mlpass.buffers import empty
from mlpass.errors import NotApplicable
from mlpass.parallel import map_ahead, map_items
from mlpass.program.dtypes import pack_elements
from mlpass.program.ir import Constant, Raw
from mlpass.sparsity.mode import Mode
from mlpass.sparsity.packing import mask_part, unmark_first, zero_out
from mlpass.sparsity.pieces import WHOLE, Rule, Scores, cut_rule, rule_of
from mlpass.sparsity.select import Cut, keys_of
from mlpass.storage.storage import Storage
from mlpass.weights.in_bands import encode_exact_in_bands, encode_in_bands
from mlpass.weights.lossless import Smallest, check_decoded
from mlpass.weights.reading import (
    decoded,
    layout_for,
    layout_to_solve,
    magnitude,
    part_of,
    scores_of,
    zeros_of,
)
from mlpass.weights.sites import Site
from mlpass.weights.storing import Encoded, encode_joint_mask, encode_mask


def encode_in_pieces(
    site: Site,
    mode: Mode,
    cut: tuple[Cut, np.dtype[np.generic]] | None,
    storage: Storage | None = None,
) -> Encoded | None:
    """Returns a weight as it will be stored; None where it is small, or has to be held whole.

    Of the elements that are stored as they are only a mask is held: they are read once more as
    they are written.

    Args:
        site: whose weight it is.
        mode: that prunes it.
        cut: where the mode ranks all weights together, what that means for this one, and the float
            type whose keys that is stated in.
        storage: to round to; None where what is kept stays as it is.

    Raises:
        ModelFormatError: the model is too old for the storage.
        NotApplicable: the mode does not fit the weight, or zeroes nothing in it; or the form
            cannot say it.
    """
    if math.prod(site.shape) <= WHOLE:
        return None
    exact = storage is not None and storage.exact
    if exact:
        check_decoded(site)
    dense = decoded(site)
    constant = dense.constant
    if constant is None or constant.part is None:
        return None
    used = dense if site.is_sparse else site
    scores = scores_of(dense)
    rule = _rule(used, mode, cut, scores)
    if rule is None:
        return None
    bounds = scores.bounds(rule.unit)
    live = storage is None or exact or site.is_masked  # what is zero stays so
    mask, untouched = _marked(constant, rule, bounds, live=live)
    stored = int(np.bitwise_count(mask).sum(dtype=np.int64))
    if rule.check is not None:
        rule.check(constant.size - stored)
    if exact:
        encoded = encode_exact_in_bands(site, mask, stored, whole=untouched)
        return _masked(dense, mask, stored, bounds) if isinstance(encoded, Smallest) else encoded
    if storage is not None:
        return encode_in_bands(dense, storage, mask, stored, layout_to_solve(used, mode))
    if untouched:
        raise NotApplicable(f"{mode} zeroes nothing in it")
    if site.is_masked and stored == constant.size - (zeros_of(dense) or 0):
        raise NotApplicable(f"{mode} zeroes nothing more in it")
    if used.constant is None:
        return encode_joint_mask(used, mask, stored)
    return _masked(used, mask, stored, bounds)


def _masked(site: Site, mask: Raw, stored: int, bounds: Sequence[tuple[int, int]]) -> Encoded:
    """Returns a weight as it will be stored, its elements as they are, read as they are written."""
    constant = site.constant
    assert constant is not None  # asked before

    def made(dense: bool) -> Constant:
        def elements(ends: tuple[int, int]) -> Raw:
            values, keep = part_of(constant, *ends), mask_part(mask, *ends)
            values = zero_out(values, keep) if dense else np.compress(keep, values)
            return pack_elements(values, constant.dtype)

        shape = constant.shape if dense else (stored,)
        pieces = partial(map_ahead, elements, bounds)
        return Constant.in_pieces(pieces, constant.dtype.name, shape, constant)

    return encode_mask(site, mask, stored, lambda: made(False), lambda: made(True))


def _marked(
    constant: Constant, rule: Rule, bounds: Sequence[tuple[int, int]], *, live: bool
) -> tuple[Raw, bool]:
    """Returns the mask bits of what is kept, and whether the rule keeps all elements."""
    mask: Raw = empty((-(-constant.size // 8),), np.uint8)
    tied: Raw = empty(mask.shape if rule.ties else (0,), np.uint8)

    def mark_piece(ends: tuple[int, int]) -> bool:
        score = magnitude(part_of(constant, *ends))
        stored, at = rule.keep(ends[0], score), slice(ends[0] // 8, -(-ends[1] // 8))
        if rule.ties and rule.tied is not None:
            tied[at] = np.packbits(rule.tied(score), bitorder="little")
        untouched = bool(stored.all())
        if live:
            stored &= keys_of(score) != 0
        mask[at] = np.packbits(stored, bitorder="little")
        return untouched

    untouched = all(map_items(mark_piece, bounds)) and not rule.ties
    unmark_first(rule.ties, tied, mask)
    return mask, untouched


def _rule(
    site: Site, mode: Mode, cut: tuple[Cut, np.dtype[np.generic]] | None, scores: Scores
) -> Rule | None:
    """Returns the rule by which a weight is pruned; None where it is to be ranked whole."""
    if cut is not None:
        return cut_rule(*cut)
    return rule_of(mode, scores, layout_for(site, mode))
