"""MagnitudePruner: prunes a module while it trains, and writes it back."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mlpass.errors import ConfigError, NotApplicable
from mlpass.finetune.masks import PrunedParameter, keep_masks, pruned_parameter
from mlpass.finetune.module import ProgramModule
from mlpass.finetune.schedules import ConstantSparsity, Schedule
from mlpass.finetune.weights import opened
from mlpass.finetune.writing import report_module, write_module
from mlpass.plan.config import configured
from mlpass.plan.steps import check_storages, plan
from mlpass.report.records import Report
from mlpass.storage.given import StorageLike
from mlpass.weights.reading import weight_of

_UNREAD = "the function that is trained does not read it"


class MagnitudePruner:
    """Prunes weights by magnitude, more and more of them as a schedule says, while they train.

    The mask multiplies the weight in the forward pass. The weight itself stays dense: what is
    pruned may come back when the mask is made anew, unless it is `frozen`. A weight that is stored
    sparse in the model keeps its zeros throughout.

    Source: Zhu and Gupta, "To prune, or not to prune", 2017. Steps, masks and sparsities are those
    of `coremltools.optimize.torch.pruning.MagnitudePruner`.
    """

    def __init__(
        self,
        module: ProgramModule,
        config: object = None,
        schedule: Schedule | None = None,
        *,
        storage: StorageLike = None,
        initial_sparsity: float = 0.0,
        frozen: bool = False,
    ) -> None:
        """Notes what is to be done; `prepare` does it.

        Args:
            module: from `to_module`.
            config: which mode and storage each weight gets, in any form that `mlpass.prune` takes;
                None to keep the zeros that the weights have, and make no others.
            schedule: the course of sparsity; from the first step on the target, where None.
            storage: how values are kept of weights whose entry in `config` names no storage:
                `finalize` rounds them to the nearest; training itself knows nothing of it.
            initial_sparsity: 0 to 1, that of all weights before the schedule's first update.
            frozen: whether what was pruned once stays out.

        Raises:
            ConfigError: an option or the config is not valid.
            OSError: a YAML file cannot be read.
        """
        if not isinstance(module, ProgramModule):
            raise ConfigError(
                f"module: must be one that to_module made. Got {type(module).__name__}."
            )
        number = isinstance(initial_sparsity, int | float)
        if not number or isinstance(initial_sparsity, bool) or not 0 <= initial_sparsity <= 1:
            raise ConfigError(
                f"initial_sparsity: must be a number in [0, 1]. Got {initial_sparsity!r}."
            )
        if schedule is not None and not callable(getattr(schedule, "sparsity", None)):
            raise ConfigError(
                "schedule: must be a ConstantSparsity, a PolynomialDecay, or have their method "
                f"sparsity(step, initial, target). Got {schedule!r}."
            )
        self.module = module
        nothing = config is None and storage is None
        self.config = None if nothing else configured(config, storage)
        self.schedule: Schedule = ConstantSparsity() if schedule is None else schedule
        self.initial_sparsity = float(initial_sparsity)
        self.frozen = frozen
        self.step_count = 0
        self._pruned: dict[str, PrunedParameter] | None = None
        self._skipped: dict[str, str] = {}
        self._sparsities: dict[str, float] = {}

    def prepare(self) -> ProgramModule:
        """Returns the module, with masks of the initial sparsity.

        Raises:
            ConfigError: an entry of the config matches nothing, or names no sparsity.
            ModelFormatError: the model is too old for a storage.
        """
        if self._pruned is not None:
            return self.module
        names = self.module.parameter_names
        if self.config is None:
            self._pruned = {}
            for site in self.module.weights:
                if site.name in names and not (keep := weight_of(site) != 0).all():
                    self.module.set_mask(names[site.name], torch.from_numpy(keep))
            return self.module
        found: dict[str, PrunedParameter] = {}
        steps = plan([opened(site) for site in self.module.weights], self.config)
        check_storages(steps)
        for step in steps:
            reason = step.skipped or (None if step.site.name in names else _UNREAD)
            try:
                if reason is None and step.mode is not None:
                    name = names[step.site.name]
                    found[name] = pruned_parameter(name, step.site, step.mode, step.storage)
            except NotApplicable as error:
                reason = str(error)
            if reason is not None:
                self._skipped[step.site.name] = reason
        self._pruned = found
        self._sparsities = dict.fromkeys(found, self.initial_sparsity)
        self._update(found)
        return self.module

    def step(self) -> None:
        """Goes one step on in the schedule: call it after each of the optimizer's.

        Raises:
            ConfigError: `prepare` was not called.
            ExecutionError: a weight holds NaN or inf.
        """
        weights = self._prepared("step")
        self.step_count += 1
        changed = {}
        for name, weight in weights.items():
            sparsity = self.schedule.sparsity(self.step_count, self.initial_sparsity, weight.target)
            if sparsity != self._sparsities[name]:
                changed[name] = weight
                self._sparsities[name] = sparsity
        self._update(changed)

    def report(self) -> Report:
        """Returns the weights as they are now, each with its share of zeros.

        Raises:
            ConfigError: `prepare` was not called.
        """
        pruned = self._prepared("report")
        return report_module(self.module, pruned, self._skipped)

    def finalize(
        self, output: str | os.PathLike[str], *, force: bool = False, keep: bool = False
    ) -> Report:
        """Writes the model with its trained weights, sparse where they are masked.

        Those that have a storage are rounded to its nearest values. Training may go on after it.

        Args:
            output: path of the `.mlpackage` to write. It appears whole or not at all.
            force: whether to replace an `output` that exists.
            keep: whether, where one exists that is not to be replaced, the model is written beside
                it; the error then has its name.

        Raises:
            ConfigError: `prepare` was not called.
            ExecutionError: a weight does not fit its stored type.
            ModelFormatError: the model is no longer the one that was trained.
            OutputExistsError: `output` exists and `force` is False.
            OSError: a file cannot be read or written.
        """
        pruned = self._prepared("finalize")
        return write_module(self.module, output, pruned, self._skipped, force=force, keep=keep)

    def state_dict(self) -> dict[str, object]:
        """Returns where in its schedule it is; the masks are in the module's `state_dict`."""
        return {"step_count": self.step_count, "sparsities": dict(self._sparsities)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on where another one was; load the module's `state_dict`, too.

        Raises:
            ConfigError: `prepare` was not called; or the state is that of other weights.
        """
        self._prepared("load_state_dict")
        if set(state["sparsities"]) != set(self._sparsities):
            strange = sorted(set(state["sparsities"]) ^ set(self._sparsities))
            raise ConfigError(
                f"state: belongs to another config: only one of the two prunes "
                f"{', '.join(map(repr, strange[:3]))}"
            )
        self.step_count = int(state["step_count"])
        self._sparsities = {name: float(value) for name, value in state["sparsities"].items()}

    def _prepared(self, what: str) -> dict[str, PrunedParameter]:
        if self._pruned is None:
            raise ConfigError(f"{what}: call prepare() first")
        return self._pruned

    def _update(self, weights: Mapping[str, PrunedParameter]) -> None:
        """Makes the masks of `weights` anew."""
        masters = {name: self._master(name) for name in weights}
        outside = {name: self._stay_out(name) for name in weights}
        for name, out in outside.items():
            if out is not None:
                masters[name] = np.where(out, np.float32(0), masters[name])
        masks = keep_masks(list(weights.values()), masters, self._sparsities, nested=self.frozen)
        for name, keep in masks.items():
            out = outside[name]
            self.module.set_mask(name, torch.from_numpy(keep if out is None else keep & ~out))

    def _stay_out(self, name: str) -> NDArray[np.bool_] | None:
        """Returns what of a weight must not come back; None where all of it may."""
        mask = self.module.mask_of(name) if self.frozen else None
        if mask is not None:
            return np.asarray(~mask.cpu().numpy())
        return weight_of(self.module.sites[name]) == 0 if name in self.module.sparse else None

    def _master(self, name: str) -> NDArray[np.float32]:
        return np.asarray(self.module.get_parameter(name).detach().cpu().numpy())
