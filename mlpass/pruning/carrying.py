"""What is done alike to a package and to a pymil program: a plan, and carrying it out."""

from __future__ import annotations

from collections.abc import Sequence

from mlpass.calibrate.calibration import Calibration
from mlpass.calibrate.journal import Journal
from mlpass.calibrate.layers import prune_calibrated
from mlpass.plan.config import Config
from mlpass.plan.steps import Step, check_storages, plan
from mlpass.program.ir import Program
from mlpass.program.mlpackage import Package
from mlpass.pruning.contest import Weights
from mlpass.pruning.data_free import carry_out, prune_data_free
from mlpass.report.records import LayerRecord
from mlpass.runtime.sources import unreached
from mlpass.weights.joint import OLD, check_opset
from mlpass.weights.record import untouched_record
from mlpass.weights.sites import find_sites
from mlpass.weights.storing import Editor


def plan_programs(programs: Sequence[Program], config: Config, *, joint: bool) -> list[Step]:
    """Returns what is to become of each weight site of a model's programs.

    Raises:
        ConfigError: an entry of the config matches nothing, or two contradict each other.
        ModelFormatError: a program is too old for joint compression, or for a storage.
    """
    sites = find_sites(programs)
    steps = plan(sites, config, joint=joint)
    if joint and any(step.skipped in (None, OLD) and step.storage is None for step in steps):
        check_opset(sites)
    check_storages(steps)
    return steps


def carry_out_all(
    model: Package | Program,
    steps: Sequence[Step],
    calibration: Calibration | None,
    editor: Editor,
    journal: Journal | None = None,
    found: Weights | None = None,
) -> list[LayerRecord]:
    """Carries out a plan, and returns a record for each step.

    Args:
        model: to run on samples.
        steps: of the plan.
        calibration: how weights are solved for on samples; None where they are not.
        editor: of the model.
        journal: of what is solved already.
        found: takes the weights that sites come to on samples.

    Raises:
        MlpassError: as `prune_calibrated`.
        OSError: the disk is full.
    """
    if calibration is None:
        return prune_data_free(steps, editor)
    decided = prune_calibrated(model, steps, calibration, editor, journal or Journal(), found)
    beyond = unreached(model)

    def undecided(step: Step) -> LayerRecord:
        if not step.prunes:
            return untouched_record(step.site, step.skipped)
        if calibration.fallback == "skip":
            reasons = (beyond[use.op] for use in step.site.uses if use.op in beyond)
            return untouched_record(step.site, next(reasons, "no sample reaches it"))
        return carry_out(step, editor)

    return [decided.get(step.site) or undecided(step) for step in steps]
