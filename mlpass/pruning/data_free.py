"""Data-free pruning: every weight site by itself, by magnitude."""

from __future__ import annotations

from collections.abc import Sequence

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
        stored = encode_in_pieces(site, step.mode, step.cut, step.storage)
        if stored is None:
            stored = _encoded(step)
    except NotApplicable as reason:
        return untouched_record(site, str(reason)), []
    return stored.record(site, step.mode, step.storage), stored.replacements


def _encoded(step: Step) -> Encoded:
    """Returns a weight that is held as a whole as it will be stored."""
    assert step.mode is not None  # asked before
    weight, mode = weight_of(step.site), step.mode
    score = magnitude(weight)
    if step.cut is not None:
        keep = keep_by_cut(score, step.cut)
    else:
        keep = mode.keep(score, layout_for(step.site, mode))
    if step.storage is not None:
        return encode_nearest(step.site, weight, keep, mode, step.storage)
    check_zeroes(step, weight, keep)
    return encode_weight(step.site, weight, keep)
