"""Calibrated pruning: each weight is solved for on the activations that it really meets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import ceil
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from mlpass.arrays import HostArray, cast_like, host, in_fp32, limit_of, placed
from mlpass.calibrate.again import approach
from mlpass.calibrate.calibration import Calibration
from mlpass.calibrate.cheaper import int8_instead
from mlpass.calibrate.journal import Finished, Journal
from mlpass.calibrate.shares import allocate
from mlpass.calibrate.sums import Observed
from mlpass.calibrate.walk import observe_dense, walk
from mlpass.errors import CalibrationError, MlpassError, NotApplicable, visible
from mlpass.parallel import map_items, thread_count
from mlpass.plan.steps import Step, check_zeroes, keep_by_cut
from mlpass.report.records import LayerRecord
from mlpass.solvers.aim import aimed
from mlpass.solvers.held_out import ENOUGH, Choice, choose
from mlpass.solvers.solve import Solution, solve
from mlpass.sparsity.layout import Layout
from mlpass.sparsity.modes import Mode, Percentile
from mlpass.weights.lossless import encode_lossless
from mlpass.weights.ops.record import is_gathered
from mlpass.weights.reading import decoded, layout_to_solve, magnitude, weight_of
from mlpass.weights.record import untouched_record
from mlpass.weights.sites import Site
from mlpass.weights.storing import Editor, Encoded, encode_joint, encode_stored, encode_weight

if TYPE_CHECKING:
    from mlpass.program.mlmodel import ModelLike

_NOTHING_NEARER = "on the samples kept back, nothing is nearer"


def prune_calibrated(
    model: ModelLike,
    steps: Sequence[Step],
    calibration: Calibration,
    editor: Editor,
    journal: Journal,
    found: dict[Site, NDArray[np.generic]] | None = None,
) -> dict[Site, LayerRecord]:
    """Carries out a plan on what the samples show, and returns the records of sites they decided.

    Args:
        model: to run: an open package, or a program's graph.
        steps: what is to become of each site.
        calibration: how.
        editor: of the model.
        journal: of layers that are done already.
        found: takes the weights that sites come to; None where nobody asks.

    Raises:
        CalibrationError: the samples do not fit, or a layer's inputs hold NaN or inf.
        ConfigError: the options do not go together.
        UnsupportedOpError: ops without kernels, all named at once.
        ExecutionError: an op failed.
        OSError: the disk is full.
    """
    steps = allocate(model, steps, calibration)
    journal.number(step.site for step in steps)
    pruning = _Pruning(steps, calibration, editor, journal)
    with pruning.bar:
        if calibration.dense_grams and calibration.propagate == "dense":
            with observe_dense(model, steps, calibration) as sites:
                for observed in sites:
                    _note(pruning.solve([observed]), found)
            return pruning.records
        with walk(model, steps, calibration, journal.__contains__) as way:
            for met in way:
                solved = pruning.solve(met.sites)
                _note(solved, found)
                for site, weight in solved:
                    if calibration.propagate == "pruned":
                        met.put(site, weight)
    return pruning.records


def _note(
    solved: Sequence[tuple[Site, NDArray[np.generic]]],
    found: dict[Site, NDArray[np.generic]] | None,
) -> None:
    if found is not None:
        found.update(solved)


class _Solved(NamedTuple):
    """What a site comes to: what the journal keeps of it, and encoded."""

    finished: Finished
    encoded: Encoded


class _Pruning:
    """A run: solves for one site after another."""

    def __init__(
        self,
        steps: Sequence[Step],
        calibration: Calibration,
        editor: Editor,
        journal: Journal,
    ) -> None:
        self.records: dict[Site, LayerRecord] = {}
        self._calibration = calibration
        self._editor = editor
        self._journal = journal
        count = sum(step.prunes for step in steps)
        self.bar = tqdm(total=count, desc="pruning", unit="layer", disable=None)

    def solve(
        self, observed: Sequence[tuple[Step, Observed]]
    ) -> list[tuple[Site, NDArray[np.generic]]]:
        """Solves for sites and has them written; returns the weights of those that change."""
        alone = len(observed) < thread_count() or self._calibration.device not in (None, "cpu")
        run = map if alone else map_items  # alone, each has all cores, or the device has its own
        solved = run(lambda site: self._solved(*site), observed)
        weights = [
            (step.site, self._write(step, found))
            for (step, _), found in zip(observed, solved, strict=True)
        ]
        return [(site, weight) for site, weight in weights if weight is not None]

    def _solved(self, step: Step, observed: Observed) -> _Solved | NotApplicable:
        """Returns a site's solution, or the reason why it cannot be solved for."""
        try:
            known = self._journal.get(step.site)
            if known is not None:
                return self._kept(step, known)
            solution, target = self._solve(step, observed)
            encoded = _encoded(step, solution)
            int8 = int8_instead(
                step.site, observed.gram, solution.weight, encoded.nbytes, solution.error
            )
            known = Finished(solution, observed.samples, observed.tokens, target, int8)
            self._journal.add(step.site, known)
            return _Solved(known, encoded)
        except NotApplicable as reason:
            return reason

    def _kept(self, step: Step, known: Finished) -> _Solved:
        """Returns what an earlier run had finished."""
        try:
            return _Solved(known, _encoded(step, known.solution))
        except (LookupError, ValueError, TypeError, AttributeError) as error:
            if isinstance(error, MlpassError):
                raise
            raise self._journal.broken(step.site, error) from None

    def _write(self, step: Step, found: _Solved | NotApplicable) -> NDArray[np.generic] | None:
        """Has a site written, and returns its weight; None where it stays as it was."""
        site = step.site
        if isinstance(found, NotApplicable):
            if self._calibration.fallback == "skip":
                self.records[site] = untouched_record(site, str(found))
            self.bar.update()
            return None
        (solution, samples, tokens, target, int8), encoded = found
        for old, new in encoded.replacements:
            self._editor.replace(old, new)
        self.records[site] = replace(
            encoded.record(site, step.mode, step.storage),
            method=_name(solution),
            error=solution.error,
            error_before=solution.error_before,
            error_held=solution.error_held,
            error_before_held=solution.error_before_held,
            shrinkage=solution.shrinkage,
            samples_wanted=self._wanted(site, samples, tokens),
            dampening=solution.dampening,
            samples=samples,
            tokens=tokens,
            target=target,
            int8_error=int8,
        )
        error, _ = self.records[site].told_errors
        self.bar.set_postfix_str(f"{visible(site.name)}: error {error:.2g}")
        self.bar.update()
        return solution.weight

    def _wanted(self, site: Site, samples: int, tokens: int) -> int | None:
        """Returns how many samples would do; None where these bring as many rows as columns."""
        use = site.uses[0]
        if not self._calibration.method.needs_samples or is_gathered(use.op.type, use.parameter):
            return None
        columns = layout_to_solve(site).columns
        return None if tokens >= columns else ceil(ENOUGH * columns * samples / tokens)

    def _solve(self, step: Step, observed: Observed) -> tuple[Solution[HostArray], str | None]:
        """Returns the solution for a site, and what it aims at, where that was a question."""
        if observed.gram is None:
            raise NotApplicable(observed.refusal or "no sample reaches it")
        weight = weight_of(step.site)
        score = magnitude(weight)  # refuses NaN and inf
        mode, method, storage = approach(step, mode_of(step, score), self._calibration.method)
        layout = layout_to_solve(step.site, step.mode)
        try:
            weight, wanted, target = _target(step.site, observed, weight, layout)
            choice = Choice(method)
            if observed.parts is not None:
                choice = choose(
                    weight,
                    observed.parts,
                    mode,
                    method=choice.method,
                    storage=step.storage,
                    target=wanted,
                    layout=layout,
                )
            solution = solve(
                weight,
                observed.gram,
                mode,
                method=choice.method,
                storage=storage,
                target=wanted,
                layout=layout,
                error_before=True,
                shrinkage=choice.shrinkage,
            )
        except CalibrationError as error:
            raise CalibrationError(f"{step.site.name!r}: {error}") from None
        if step.storage is None:
            check_zeroes(step, weight, solution.keep)
        asked = self._calibration.method
        spared = None if method == asked else f"not {asked}: its zeros stay where they are"
        reasons = [each for each in (spared, choice.reason, solution.reason) if each]
        return replace(
            solution,
            reason="; ".join(reasons) or None,
            error_held=choice.error,
            error_before_held=choice.before,
        ), target


def _target(
    site: Site, observed: Observed, weight: NDArray[np.generic], layout: Layout
) -> tuple[NDArray[np.generic], NDArray[np.generic] | None, str | None]:
    """Returns the weight to prune, exactly what it is to be, and what it aims at as text."""
    if site.is_masked and observed.aim is not None:
        return weight, None, "own: its zeros stay where they are"
    if observed.aim is None:
        return weight, None, observed.own and f"own: {observed.own}"
    matrix = layout.matrix(weight)
    learnt, held, whole = observed.aim
    found, share = aimed(in_fp32(placed(matrix, whole.gram.diagonal)), learnt, held, whole)
    if not share:
        still = whole.cross is None and whole.drift is None
        reason = "its inputs are those of the dense model" if still else _NOTHING_NEARER
        return weight, None, f"own: {reason}"
    wanted = layout.join(host(found))
    limit = limit_of(weight)
    stream = "" if whole.drift is None else " stream"
    text = f"dense{stream}" + ("" if share == 1 else f", {share:g} of the way")
    return cast_like(wanted.clip(-limit, limit), weight), wanted, text


def mode_of(step: Step, score: NDArray[np.generic]) -> Mode:
    """Returns the mode of a step; where it ranks all weights together, this one's share of it."""
    assert step.mode is not None
    if step.cut is None:
        return step.mode
    zeros = score.size - int(np.count_nonzero(keep_by_cut(score, step.cut)))
    return Percentile(min(1.0, (zeros + 0.5) / score.size) if zeros < score.size else 1.0)


def _encoded(step: Step, solution: Solution[HostArray]) -> Encoded:
    if step.storage is not None and step.storage.exact:
        return encode_lossless(step.site, solution.weight, solution.keep)
    if step.storage is not None:
        return encode_stored(decoded(step.site), solution, step.storage)
    if (codes := solution.parts.get("codes")) is not None:
        return encode_joint(step.site, solution.weight, solution.keep, codes)
    return encode_weight(step.site, solution.weight, solution.keep)


def _name(solution: Solution[HostArray]) -> str:
    """Returns what pruned a weight, and why that is not what was asked for."""
    return f"{solution.method}, {solution.reason}" if solution.reason else solution.method
