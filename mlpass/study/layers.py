"""What samples show of each layer in the model as it is: one replay for any number of configs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from mlpass.errors import CalibrationError, ConfigError, NotApplicable
from mlpass.passes.allocation import calibrated
from mlpass.passes.calibrated import mode_of
from mlpass.passes.plan import Step, magnitude, plan, rank_globally
from mlpass.passes.samples import load_samples
from mlpass.passes.site_grams import Observed, SiteGrams
from mlpass.program.mlpackage import Package
from mlpass.program.sites import Site, find_sites
from mlpass.runtime.interpreter import Interpreter
from mlpass.runtime.replay import MEMORY_BUDGET, replay
from mlpass.solvers.solve import solve
from mlpass.solvers.wanda import Magnitude
from mlpass.study.grid import Candidate
from mlpass.study.trial import Setting


def observe(
    package: Package,
    steps: Sequence[Step],
    samples: Any,
    setting: Setting,
    see: Callable[[Step, Observed], None],
    memory_budget: int = MEMORY_BUDGET,
) -> None:
    """Runs the model as it is on the samples, and shows what each step's site has met.

    Args:
        package: the model.
        steps: of a plan; skipped ones are not looked at.
        samples: in any form that `load_samples` takes.
        setting: what to run them on.
        see: called once for each site that the samples reach.
        memory_budget: bytes of activations that may stay in memory.

    Raises:
        CalibrationError: the samples do not fit, or a layer's inputs hold NaN or inf.
        UnsupportedOpError: ops without kernels.
        ExecutionError: an op failed.
    """
    interpreter = Interpreter(package, backend=setting.backend, function_name=setting.function_name)
    assert interpreter.backend is not None  # the studies take numpy or torch
    plans = [part.plan for part in interpreter.parts]
    nothing: frozenset[Site] = frozenset()
    grams = SiteGrams(steps, plans, interpreter.backend, see, nothing.__contains__)
    replay(interpreter, load_samples(samples), grams, memory_budget=memory_budget)


LayerErrors = tuple[float | None, ...]


def measure_layers(
    setting: Setting, candidates: Sequence[Candidate]
) -> tuple[list[LayerErrors], str | None]:
    """Returns each layer's relative output error for each candidate, and why there are none.

    Weights are pruned by magnitude, and each layer is taken by itself: what it meets is what the
    model as it is makes of the test samples. One replay does for all candidates.

    Raises:
        OSError: a file cannot be read.
    """
    try:
        return magnitude_errors(setting, candidates), None
    except CalibrationError as error:
        return [], f"no errors by layer: {error}"


def magnitude_errors(setting: Setting, candidates: Sequence[Candidate]) -> list[LayerErrors]:
    """Returns the first part of what `measure_layers` does.

    Raises:
        CalibrationError: a layer's inputs hold NaN or inf.
        OSError: a file cannot be read.
    """
    with Package(setting.model) as package:
        sites = find_sites(package.programs)
        plans = [_plan(sites, candidate) for candidate in candidates]
        errors: list[dict[Site, float]] = [{} for _ in candidates]

        def see(step: Step, observed: Observed) -> None:
            with suppress(NotApplicable):  # then it has no error
                weight, gram, layout = calibrated(step.site, observed)
                for steps, known in zip(plans, errors, strict=True):
                    one = steps.get(step.site)
                    if one is None or one.skipped or one.mode is None:
                        continue
                    with suppress(NotApplicable):
                        mode = mode_of(one, magnitude(weight))
                        solution = solve(weight, gram, mode, method=Magnitude(), layout=layout)
                        known[step.site] = solution.error

        observe(package, _pruned_somewhere(sites, plans), setting.test_data, setting, see)
        return [tuple(known.get(site) for site in sites) for known in errors]


def _plan(sites: Sequence[Site], candidate: Candidate) -> dict[Site, Step]:
    """Returns what becomes of each site; nothing where the config does not fit the model."""
    try:
        return {step.site: step for step in rank_globally(plan(sites, candidate.config))}
    except ConfigError:
        return {}


def _pruned_somewhere(sites: Sequence[Site], plans: Sequence[dict[Site, Step]]) -> list[Step]:
    """Returns for each site a step that is not skipped, where any plan has one."""
    found: list[Step] = []
    for site in sites:
        steps = [steps[site] for steps in plans if site in steps]
        found += [step for step in steps if step.skipped is None and step.mode is not None][:1]
    return found
