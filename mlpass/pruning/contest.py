"""The division of a budget, judged beside one form for all weights on samples that no solve saw."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlpass.blas import one_blas_thread
from mlpass.calibrate.budget import Division
from mlpass.calibrate.calibration import Calibration
from mlpass.calibrate.outputs import (
    error_of,
    has_floats,
    interpreter_of,
    other_weights,
    outputs_of,
)
from mlpass.program.ir import Op
from mlpass.program.mlmodel import ModelLike
from mlpass.report.records import LayerRecord
from mlpass.runtime.samples import Sample, functions_in
from mlpass.weights.sites import Site
from mlpass.weights.storing import Editor

_EVERY = 8  # of so many samples one is kept back
_MOST = 32
_NOT_JUDGED = "not judged on {} samples kept back: no output is of floats"

Weights = dict[Site, NDArray[np.generic]]
Solve = Callable[[Division, Editor, Weights], list[LayerRecord]]


class Edits:
    """What is to be replaced in a model: an editor that leaves it to another."""

    def __init__(self) -> None:
        """Replaces nothing yet."""
        self._made: list[tuple[Op, Sequence[Op]]] = []

    def replace(self, op: Op, new_ops: Sequence[Op]) -> None:
        """Notes that `new_ops` are to be in the place of `op`."""
        self._made.append((op, new_ops))

    def carry_out(self, editor: Editor) -> None:
        """Has all of it replaced."""
        for op, new_ops in self._made:
            editor.replace(op, new_ops)


class Solved(NamedTuple):
    """What a division came to, not written yet."""

    division: Division
    layers: list[LayerRecord]
    edits: Edits


def split(calibration: Calibration) -> tuple[Calibration, list[Sample]]:
    """Returns a calibration on most of its samples, and the others; none where they are few.

    Of each function that samples name some are kept back, where it has two or more.
    """
    samples = list(calibration.sample_data)
    every = max(_EVERY, -(-len(samples) // _MOST))
    groups: dict[tuple[str | None, ...], list[int]] = {}
    for number, one in enumerate(samples if len(samples) >= _EVERY else ()):
        groups.setdefault(functions_in([one]), []).append(number)
    held = {
        number
        for group in groups.values()
        if len(group) > 1
        for number in group[min(_EVERY, len(group)) - 1 :: every]
    }
    learnt = [sample for number, sample in enumerate(samples) if number not in held]
    return replace(calibration, sample_data=learnt), [samples[number] for number in sorted(held)]


def better(
    model: ModelLike,
    division: Division,
    calibration: Calibration,
    held: Sequence[Sample],
    solve: Solve,
) -> Solved:
    """Returns the division or its rival, whichever leaves the outputs nearer what they were.

    The division itself where no output is of floats, so that nothing tells them apart, and where
    the samples do not: its rival was expected to be no better.

    Args:
        model: to run: an open package.
        division: of a budget, with a rival.
        calibration: how it is run.
        held: samples to judge on.
        solve: carries out a division: returns a record for each step, and fills in the weights.

    Raises:
        MlpassError: as `prune_calibrated`.
        OSError: the disk is full.
    """
    interpreter = interpreter_of(model, calibration)
    with one_blas_thread():
        dense = outputs_of(interpreter, held)
    if not has_floats(dense):
        edits = Edits()
        record = replace(division.record, judged=_NOT_JUDGED.format(len(held)))
        layers = solve(division, edits, {})
        return Solved(replace(division, record=record), layers, edits)
    rivals = [division]
    if division.rival is not None and division.rival.steps != division.steps:
        rivals.append(division.rival)
    tried, told, errors = [], [], []
    for each in rivals:
        edits = Edits()
        weights: Weights = {}
        tried.append(Solved(each, solve(each, edits, weights), edits))
        with one_blas_thread(), other_weights(interpreter, weights):
            found = outputs_of(interpreter, held)
        told.append(f"{error_of(dense, found):.3g} with {each.name}")
        errors.append([error_of([own], [one]) for own, one in zip(dense, found, strict=True)])
    best = 1 if len(tried) > 1 and _is_nearer(*errors) else 0
    told.insert(0, told.pop(best))
    text = f"outputs' error on {len(held)} samples kept back: {', '.join(told)}"
    won = tried[best]
    record = replace(won.division.record, judged=text)
    return won._replace(division=replace(won.division, record=record))


def _is_nearer(first: Sequence[float], second: Sequence[float]) -> bool:
    """Returns whether the second errors are less than the first, by more than chance may make."""
    gains = np.subtract(first, second)
    doubt = np.std(gains, ddof=1) / np.sqrt(gains.size) if gains.size > 1 else 0.0
    return bool(np.mean(gains) > doubt)
