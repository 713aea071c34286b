"""Data-free pruning: every weight site by itself, by magnitude."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from mlpass.errors import NotApplicable, visible
from mlpass.plan.steps import Step, check_zeroes, keep_by_cut
from mlpass.report.records import LayerRecord
from mlpass.weights.in_pieces import encode_in_pieces
from mlpass.weights.nearest import encode_nearest
from mlpass.weights.reading import layout_for, magnitude, weight_of
from mlpass.weights.record import untouched_record
from mlpass.weights.storing import Editor, Encoded, Replacements, encode_weight


def prune_data_free(steps: Sequence[Step], editor: Editor) -> list[LayerRecord]:
    """Carries out a plan by magnitude, and returns a record for each step."""
    bar = tqdm(steps, desc="pruning", unit="weight", disable=None)
    layers = []
    for step in bar:
        bar.set_postfix_str(visible(step.site.name))
        layers.append(carry_out(step, editor))
    return layers


def carry_out(step: Step, editor: Editor) -> LayerRecord:
    """Carries out one step and returns its record; its arrays are let go before the next."""
    layer, replacements = _pruned(step)
    for old, new in replacements:
        editor.replace(old, new)
    return layer


def _pruned(step: Step) -> tuple[LayerRecord, Replacements]:
    """Returns the record of one step, and each op that is replaced with those in its place."""
    site = step.site
    if step.skipped or step.mode is None:
        return untouched_record(site, step.skipped), []
    try:
        pieces = encode_in_pieces(site, step.mode, step.cut, step.storage)
        if pieces is not None:
            return _record(step, pieces), pieces.replacements
        weight = weight_of(site)
        keep = _keep(step, weight)
        if step.storage is not None:
            stored = encode_nearest(site, weight, keep, step.mode, step.storage)
        else:
            check_zeroes(step, weight, keep)
            stored = encode_weight(site, weight, keep)
    except NotApplicable as reason:
        return untouched_record(site, str(reason)), []
    return _record(step, stored), stored.replacements


def _record(step: Step, stored: Encoded) -> LayerRecord:
    return replace(
        untouched_record(step.site, counted=False),
        mode=str(step.mode),
        storage=None if step.storage is None else str(step.storage),
        method="magnitude",
        zeros=stored.zeros,
        sparsity=stored.zeros / math.prod(step.site.shape),
        encoding=stored.encoding,
        bytes_after=stored.nbytes,
    )


def _keep(step: Step, weight: NDArray[np.generic]) -> NDArray[np.bool_]:
    """Returns the keep mask of a weight by its magnitude."""
    score = magnitude(weight)
    if step.cut is not None:
        return keep_by_cut(score, step.cut)
    assert step.mode is not None
    return step.mode.keep(score, layout_for(step.site, step.mode))
