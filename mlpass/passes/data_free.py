"""Data-free pruning: every weight site by itself, by magnitude."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from mlpass.errors import NotApplicable
from mlpass.passes.encoding import Replacements, encode_weight
from mlpass.passes.inspect import untouched_record, weight_of
from mlpass.passes.plan import Step, keep_by_cut, layout_of_site, magnitude
from mlpass.program.ir import Op
from mlpass.report.records import LayerRecord


class Editor(Protocol):
    """What carries edits to a model: a package's `Rewriter`, or a `PymilEditor`."""

    def replace(self, op: Op, new_ops: Sequence[Op]) -> None:
        """Puts `new_ops` in the place of `op`."""


def prune_data_free(steps: Sequence[Step], editor: Editor) -> list[LayerRecord]:
    """Carries out a plan by magnitude, and returns a record for each step."""
    bar = tqdm(steps, desc="pruning", unit="weight", disable=None)
    layers = []
    for step in bar:
        bar.set_postfix_str(step.site.name)
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
    weight = weight_of(site)
    try:
        keep = _keep(step, weight)
        if keep.all():
            raise NotApplicable(f"{step.mode} zeroes nothing in it")
        stored = encode_weight(site, weight, keep)
    except NotApplicable as reason:
        return untouched_record(site, str(reason)), []
    layer = replace(
        untouched_record(site, counted=False),
        mode=str(step.mode),
        method="magnitude",
        zeros=stored.zeros,
        sparsity=stored.zeros / keep.size,
        encoding=stored.encoding,
        bytes_after=stored.nbytes,
    )
    return layer, stored.replacements


def _keep(step: Step, weight: NDArray[Any]) -> NDArray[np.bool_]:
    """Returns the keep mask of a weight by its magnitude.

    Raises:
        NotApplicable: the step's mode does not fit the weight.
    """
    score = magnitude(weight)
    if step.cut is not None:
        return keep_by_cut(score, step.cut)
    assert step.mode is not None
    try:
        layout = layout_of_site(step.site)
    except NotApplicable:
        if step.mode.structured:
            raise
        layout = None
    return step.mode.keep(score, layout)
