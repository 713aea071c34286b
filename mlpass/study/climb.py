"""The rungs of `choose`: what is tried, in which order, and at which sparsity."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from mlpass.errors import MlpassError
from mlpass.plan.config import Config
from mlpass.program.mlpackage import Package
from mlpass.pruning.prune import prune
from mlpass.report.choice import Attempt, Target
from mlpass.report.front import SIZE_NOISE, SNR_NOISE
from mlpass.report.records import Report
from mlpass.report.study import Trial
from mlpass.solvers.admm import ADMM
from mlpass.solvers.problem import Method
from mlpass.solvers.sparsegpt import SparseGPT
from mlpass.solvers.wanda import Magnitude
from mlpass.sparsity.modes import Percentile
from mlpass.storage.storage import Storage
from mlpass.study.grid import Candidate, make_candidates
from mlpass.study.space import forms, is_old_package, within
from mlpass.study.trial import Setting, measure, run_trial

RUNGS = ("data-free", "storages", "sparsegpt", "admm", "budget", "fine-tuning")

# Given a pruned package, a target, samples and the model as it was, trains what is kept, writes
# the result to the target and returns its report.
Finetune = Callable[[str, str, object, str], Report]

_STEP = 0.05  # of the sparsities that are tried where only the quality is a target
_FINE = 0.005  # of those where the size is one
_BUMPS = 4
_SOLVED = 2  # of them that are solved on samples as well


@dataclass(frozen=True)
class Variant:
    """One way to prune, at any sparsity.

    Attributes:
        method: that scores.
        scope: of the `Percentile`.
        allocate: how calibrated pruning divides the sparsity among layers.
    """

    method: Method
    scope: str = "weight"
    allocate: str | None = None

    def at(self, sparsity: float) -> Candidate:
        """Returns the candidate of a sparsity."""
        mode = Percentile(round(sparsity, 6), scope=self.scope)
        options = {} if self.allocate is None else {"allocate": self.allocate}
        return Candidate(str(mode), Config(global_config=mode), self.method, options)


_VARIANTS: dict[str, tuple[Variant, ...]] = {
    "data-free": (Variant(Magnitude()), Variant(Magnitude(), scope="global")),
    "sparsegpt": (Variant(SparseGPT()), Variant(SparseGPT(), allocate="error")),
    "admm": (Variant(ADMM()), Variant(ADMM(), allocate="error")),
}


@dataclass
class Climb:
    """A climb on its way."""

    setting: Setting
    target: Target
    folder: Path
    attempts: list[Attempt] = field(default_factory=list)
    packages: list[str] = field(default_factory=list)
    sparsities: list[float] = field(default_factory=list)

    @property
    def best(self) -> int | None:
        """The number of the best attempt that holds the target, None where none does.

        The smallest is best where the quality is a target, the one of the best quality otherwise.
        Of those that noise does not tell from it, one that its processor takes well goes first.
        """
        holding = [n for n, attempt in enumerate(self.attempts) if not attempt.misses]
        if not holding:
            return None
        best = max(holding, key=self._worth)
        near = [number for number in holding if self._is_near(number, best)]
        fewest = min(len(self.attempts[number].trial.cautions) for number in near)
        taken = [n for n in near if len(self.attempts[n].trial.cautions) == fewest]
        return max(taken, key=self._worth)

    def _is_near(self, number: int, best: int) -> bool:
        """Returns whether noise does not tell an attempt from the best one."""
        one, other = self.attempts[number].trial, self.attempts[best].trial
        if self.wants_quality:
            return (one.nbytes or 0) <= (other.nbytes or 0) * (1 + SIZE_NOISE)
        return one.worth >= other.worth - (SNR_NOISE if other.value is None else 0.0)

    @property
    def nearest(self) -> int | None:
        """The number of the attempt that comes nearest to the target: fewest misses, then best."""
        done = [n for n, attempt in enumerate(self.attempts) if attempt.trial.failed is None]
        attempts = self.attempts
        return max(
            done,
            key=lambda n: (-len(attempts[n].misses), attempts[n].trial.worth),
            default=None,
        )

    @property
    def wants_quality(self) -> bool:
        """Whether a quality is a target."""
        return self.target.snr is not None or self.target.value is not None

    def _worth(self, number: int) -> tuple[float, float]:
        trial = self.attempts[number].trial
        quality, size = trial.worth, -float(trial.nbytes or 0)
        return (size, quality) if self.wants_quality else (quality, size)

    @cached_property
    def is_old(self) -> bool:
        """Whether the model's op set has only the first compressed forms, of iOS16."""
        with Package(self.setting.model) as package:
            return is_old_package(package)

    def smallest_sparsity(self) -> float | None:
        """Returns the least sparsity at which the size holds, None where nothing is enough."""
        assert self.target.nbytes is not None
        if self.setting.nbytes <= self.target.nbytes:
            return 0.0  # as it is; with a few zeros it may be larger
        low, high = 0, round(1 / _FINE)  # of sparsities; the low one is not enough
        while low < high:
            middle = (low + high) // 2
            if self._fits(middle * _FINE):
                high = middle
            else:
                low = middle + 1
        return low * _FINE if self._fits(low * _FINE) else None

    def _fits(self, sparsity: float) -> bool:
        """Returns whether the size holds with that share of zeros."""
        assert self.target.nbytes is not None
        probe = str(self.folder / "probe.mlpackage")
        mode, joint = Percentile(min(1.0, sparsity)), self.setting.joint_compression
        prune(self.setting.model, probe, mode, joint_compression=joint, force=True)
        return self.setting.nbytes_of(probe) <= self.target.nbytes

    def try_rung(self, rung: str, sparsity: float | None) -> None:
        """Tries the variants of a rung; those after the first rung follow what was best before.

        Args:
            rung: one of `RUNGS` but the last.
            sparsity: at which the size holds; None where only the quality is a target.
        """
        if rung == "storages":
            self._try_storages()
            return
        if rung == "budget":
            self._try_budget()
            return
        for variant in self._variants(rung):
            if sparsity is not None:
                self._fit(rung, variant, sparsity)
            else:
                self._push(rung, variant)

    def train(self, finetune: Finetune) -> None:
        """Trains what the nearest attempts keep, until the target holds.

        Where the size is a target, that is the nearest attempt; else what is smaller than the best,
        or the next two sparsities above what holds the target, the higher one first.
        """
        if self.target.nbytes is not None:
            starts = [self.nearest]
        else:
            starts = self._smaller() or self._sparser()
        for start in starts:
            if start is not None and self._train(finetune, start):
                return

    def _try_storages(self) -> None:
        """Tries storages without zeros, without samples; and on samples those of most promise."""
        found = [
            (storage, self._run("storages", _stored(storage), 0.0))
            for storage in forms(self.is_old)
        ]
        limit = self.target.nbytes
        if limit is None:
            best = self.best
            limit = None if best is None else self.attempts[best].trial.nbytes
        fitting = [
            (storage, trial)
            for storage, trial in found
            if trial.nbytes is not None and (limit is None or trial.nbytes <= limit)
        ]
        fitting.sort(key=lambda each: each[1].worth, reverse=True)
        for storage, _ in fitting[:_SOLVED]:
            self._run("storages", _stored(storage, SparseGPT()), 0.0)

    def _try_budget(self) -> None:
        """Tries the division of the size among the weights, where a size is a target.

        What a program says of compressed weights counts too: as much as it did for the storages
        that were tried, and after an attempt that is too large as much as it did there. Of a model
        that holds the size as it is nothing is divided.
        """
        if self.target.nbytes is None or self.setting.nbytes <= self.target.nbytes:
            return
        stored = [n for n, each in enumerate(self.attempts) if each.rung == "storages"]
        written = [self.packages[n] for n in stored if self.attempts[n].trial.failed is None]
        beside = max(map(self._beside_weights, [self.setting.model, *written]))
        for _ in range(_BUMPS):
            if self.target.nbytes <= beside:
                return
            trial = self._run("budget", within(self.target.nbytes - beside), 0.0)
            if trial.nbytes is None or trial.nbytes <= self.target.nbytes:
                return
            beside = max(beside + 1, self._beside_weights(self.packages[-1]))

    def _beside_weights(self, path: str) -> int:
        """Returns the bytes of what counts that are not in the weight files of a package."""
        with Package(path) as package:
            weights = sum(each.stat().st_size for each in package.weight_paths)
        return self.setting.nbytes_of(path) - weights

    def _smaller(self) -> list[int | None]:
        """Returns the attempts of less bytes than the best one, those of the best outputs first."""
        best = self.best
        limit = 0 if best is None else self.attempts[best].trial.nbytes or 0
        smaller: list[int | None] = [
            number
            for number, attempt in enumerate(self.attempts)
            if not attempt.trial.failed and (attempt.trial.nbytes or limit) < limit
        ]
        smaller.sort(key=lambda number: self.attempts[number or 0].trial.worth, reverse=True)
        return smaller[:_SOLVED]

    def _sparser(self) -> list[int | None]:
        """Returns attempts two steps and one step sparser than what holds the target."""
        holding = [n for n, attempt in enumerate(self.attempts) if not attempt.misses]
        above = max((self.sparsities[number] for number in holding), default=0.0)
        return [max(self._at(above + times * _STEP), default=None) for times in (2, 1)]

    def _at(self, sparsity: float) -> list[int]:
        """Returns the calibrated attempts of a sparsity."""
        return [
            number
            for number, attempt in enumerate(self.attempts)
            if abs(self.sparsities[number] - sparsity) < _STEP / 2 and not attempt.trial.failed
        ]

    def _train(self, finetune: Finetune, start: int) -> bool:
        output = str(self.folder / f"{len(self.attempts)}.mlpackage")
        before = self.attempts[start].trial
        trial = replace(before, method=f"{before.method} + fine-tuning", report=None, command=None)
        samples = self.setting.sample_data
        try:
            report = finetune(self.packages[start], output, samples, self.setting.model)
            report = replace(report, source=self.setting.model)
            trial = measure(self.setting, trial, report, output)
        except MlpassError as error:
            trial = replace(trial, failed=str(error))
        return self._note("fine-tuning", trial, output, self.sparsities[start])

    def _variants(self, rung: str) -> Iterator[Variant]:
        variants = _VARIANTS[rung]
        best = self.nearest if self.best is None else self.best
        if rung != "admm" or best is None:
            yield from variants
        else:  # costly: what divided the sparsity best before does so again
            allocated = "allocate" in self.attempts[best].trial.options
            yield variants[allocated]

    def _fit(self, rung: str, variant: Variant, sparsity: float) -> None:
        """Tries a variant where the size should hold, and a little above where it does not."""
        for bump in range(_BUMPS):
            share = min(1.0, sparsity + bump * _FINE)
            trial = self._try(rung, variant, share)
            if trial.nbytes is None or trial.nbytes <= (self.target.nbytes or 0):
                return

    def _push(self, rung: str, variant: Variant) -> None:
        """Finds, by bisection, the highest sparsity at which a variant still holds the target."""
        best = self.best
        low = 0 if best is None else round(self.sparsities[best] / _STEP)
        high = round(1 / _STEP)
        step = low + 1 if best is not None else (low + high) // 2
        while high - low > 1:
            self._try(rung, variant, step * _STEP)
            if self.attempts[-1].misses:
                high = step
            else:
                low = step
            step = (low + high) // 2

    def _try(self, rung: str, variant: Variant, sparsity: float) -> Trial:
        return self._run(rung, variant.at(sparsity), sparsity)

    def _run(self, rung: str, candidate: Candidate, sparsity: float) -> Trial:
        output = str(self.folder / f"{len(self.attempts)}.mlpackage")
        trial = run_trial(self.setting, candidate, output)
        self._note(rung, trial, output, sparsity)
        return trial

    def _note(self, rung: str, trial: Trial, output: str, sparsity: float) -> bool:
        """Notes an attempt, and returns whether the target holds."""
        misses = tuple(self.target.misses(trial))
        self.attempts.append(Attempt(rung, trial, misses))
        self.packages.append(output)
        self.sparsities.append(sparsity)
        return not misses


def _stored(storage: Storage, method: Method | None = None) -> Candidate:
    """Returns the candidate of a storage for all weights."""
    (candidate,) = make_candidates([storage], method)
    return candidate


def built_in_finetune(steps: int, function_name: str | None = None) -> Finetune | None:
    """Returns label-free fine-tuning with the torch extra, None where that is not there.

    Args:
        steps: batches that it trains on.
        function_name: the one that the samples are for; None where they say so, or for the default.
    """
    if find_spec("torch") is None or find_spec("mlpass.finetune") is None:
        return None

    def finetune(package: str, output: str, samples: object, dense: str) -> Report:
        train = import_module("mlpass.finetune").finetune
        given = samples if function_name is None else {function_name: samples}
        report: Report = train(package, output, None, given, steps=steps, dense=dense, force=True)
        return report

    return finetune
