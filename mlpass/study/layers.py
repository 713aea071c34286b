"""What samples show of each layer in the model as it is: one replay for any number of configs."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlpass.calibrate.budget import open_config
from mlpass.calibrate.calibration import Calibration
from mlpass.calibrate.gram_folder import GramFolder
from mlpass.calibrate.layers import mode_of
from mlpass.calibrate.shares import calibrated
from mlpass.calibrate.walk import observe_dense
from mlpass.errors import CalibrationError, ConfigError, NotApplicable
from mlpass.plan.steps import Step, plan, rank_globally
from mlpass.program.mlpackage import Package
from mlpass.runtime.samples import Sample, functions_in
from mlpass.solvers.gram import Gram
from mlpass.solvers.nearest import nearest
from mlpass.solvers.solve import solve
from mlpass.solvers.wanda import Magnitude
from mlpass.sparsity.layout import Layout
from mlpass.sparsity.modes import Percentile
from mlpass.study.grid import Candidate
from mlpass.study.trial import Setting
from mlpass.weights.reading import magnitude
from mlpass.weights.sites import Site, find_sites

LayerErrors = tuple[float | None, ...]


def measure_layers(
    setting: Setting, candidates: Sequence[Candidate]
) -> tuple[list[LayerErrors], str | None]:
    """Returns each layer's relative output error for each candidate; or why there is nothing.

    Weights are pruned by magnitude, and each layer is taken by itself: what it meets is what the
    model as it is makes of the test samples. One replay does for all candidates.

    Raises:
        OSError: a file cannot be read.
    """
    with Package(setting.model) as package:
        sites = find_sites(package.programs)
        plans = [_plan(setting, sites, candidate) for candidate in candidates]
        errors: list[dict[Site, float | None]] = [{} for _ in candidates]
        steps = _pruned_somewhere(sites, plans)
        try:
            with observe_dense(package, steps, calibration_of(setting, setting.judged)) as found:
                for step, observed in found:
                    with suppress(NotApplicable):  # then it has no error
                        layer = calibrated(step.site, observed)
                        for planned, known in zip(plans, errors, strict=True):
                            known[step.site] = _error_of(planned.get(step.site), *layer)
        except CalibrationError as error:
            return [], f"no errors by layer: {error}"
        return [tuple(known.get(site) for site in sites) for known in errors], None


def _error_of(
    step: Step | None, weight: NDArray[np.generic], gram: Gram, layout: Layout
) -> float | None:
    """Returns the relative output error of a weight that is pruned as a step says; None without."""
    if step is None or not step.prunes:
        return None
    with suppress(NotApplicable):
        mode = mode_of(step, magnitude(weight))
        if step.storage is None:
            return solve(weight, gram, mode, method=Magnitude(), layout=layout).error
        keep = mode.keep(magnitude(weight), layout)
        found = nearest(weight, keep, step.storage, layout).weight
        whole = Percentile(0.0)  # it is measured as it is
        return solve(found, gram, whole, method=Magnitude(), target=weight, layout=layout).error
    return None


def share_grams(setting: Setting, candidates: Sequence[Candidate], folder: Path) -> Setting:
    """Returns the setting with what layers meet in the model as it is, where several ask for it.

    Candidates that solve for a layer on what the pruned ones before it make have their own Grams.

    Raises:
        CalibrationError: the samples do not fit, or a layer's inputs hold NaN or inf.
        OSError: there is no room.
    """
    asking = [one for one in candidates if one.looks_at_dense]
    if len(asking) < 2:
        return setting
    place = folder / "grams"
    place.mkdir()
    with Package(setting.model) as package:
        sites = find_sites(package.programs)
        steps = _pruned_somewhere(sites, [_plan(setting, sites, candidate) for candidate in asking])
        calibration = calibration_of(setting, setting.learnt)
        with observe_dense(package, steps, calibration) as found:
            GramFolder(place).write(sites, found)
    return setting.having(grams=str(place))


def calibration_of(
    setting: Setting, samples: Sequence[Sample] | None, **options: Any
) -> Calibration:
    """Returns how a study runs a model on samples, only to look at it."""
    given = samples or ()
    return Calibration(
        Magnitude(),
        given,
        functions=functions_in(given),
        backend=setting.backend,
        function_name=setting.function_name,
        **options,
    )


def _plan(setting: Setting, sites: Sequence[Site], candidate: Candidate) -> dict[Site, Step]:
    """Returns what becomes of each site; nothing where the config does not fit the model."""
    config = candidate.config
    if "budget" in candidate.options:
        config = open_config(config, None)
    try:
        steps = plan(sites, config, joint=setting.joint_compression)
        return {step.site: step for step in rank_globally(steps)}
    except ConfigError:
        return {}


def _pruned_somewhere(sites: Sequence[Site], plans: Sequence[dict[Site, Step]]) -> list[Step]:
    """Returns for each site a step that is not skipped, where any plan has one."""
    found: list[Step] = []
    for site in sites:
        steps = [steps[site] for steps in plans if site in steps]
        found += [step for step in steps if step.prunes][:1]
    return found
