"""Pruning from package to package."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from mlpass.calibrate.budget import Budget, Division, divide_budget
from mlpass.calibrate.calibration import Calibration
from mlpass.calibrate.constants import find_all
from mlpass.calibrate.journal import Journal, digest_of_run
from mlpass.files import naming
from mlpass.ledger import journal_path
from mlpass.plan.config import Config, op_config_of
from mlpass.plan.steps import Step, rank_globally
from mlpass.program.mlmodel import open_package
from mlpass.program.mlpackage import Package
from mlpass.program.opsets.packages import raise_package
from mlpass.program.opsets.targets import opset_of
from mlpass.program.writing import Targets, named
from mlpass.pruning.carrying import carry_out_all, plan_programs
from mlpass.pruning.contest import Weights, better, split
from mlpass.pruning.data_free import prune_data_free
from mlpass.pruning.notes import notes_of, unheard
from mlpass.report.records import LayerRecord, Report
from mlpass.weights.ensures import Told, ensure_written
from mlpass.weights.record import function_records
from mlpass.weights.sites import gather_sites
from mlpass.weights.storing import Editor


def prune_package(
    source: object,
    output: Targets,
    config: Config,
    calibration: Calibration | None = None,
    *,
    budget: Budget | None = None,
    joint_compression: bool = False,
    minimum_deployment_target: object = None,
    force: bool = False,
    resume: bool = False,
    journaled: bool = True,
) -> Report:
    """Prunes a package or an `MLModel` to a new package, and returns what was done.

    Args:
        source: as for `prune`, and so are the others.
        output: the package to write.
        config: which mode each weight gets; from `open_config` where there is a budget.
        calibration: how weights are solved for on samples; None where they are not.
        budget: of the weight files; None where each weight gets what the config says.
        joint_compression: as for `prune`.
        minimum_deployment_target: that it is raised to; None where it is not.
        force: whether to replace an `output` that exists.
        resume: whether to go on with what a run that died had finished.
        journaled: whether what is finished is kept for that.

    Raises:
        MlpassError: as `prune`; or the package was not written as the report says.
        OSError: a file cannot be read or written.
    """
    with open_package(source) as package:
        if minimum_deployment_target is not None:
            raise_package(package, opset_of(minimum_deployment_target))
        steps = plan_programs(package.programs, config, joint=joint_compression)
        functions, bytes_before = function_records(package.programs), package.nbytes
        first = package.check_target(output, force=force)
        kept = calibration if journaled else None
        settings = {"config": config, "budget": budget, "joint": joint_compression}
        with (
            naming(first, journal_path(first)),
            _journal(package, first, kept, settings, resume) as journal,
            package.rewrite(output, force=force) as rewriter,
        ):
            steps, division = rank_globally(steps), None
            if budget is None:
                layers = carry_out_all(package, steps, calibration, rewriter, journal)
            else:
                division, layers = _divided(package, steps, calibration, budget, rewriter, journal)
                steps = [*division.steps, *division.constants]
            told = [Told(step.site, layer) for step, layer in zip(steps, layers, strict=True)]
            find = gather_sites if division is None else find_all
            rewriter.ensure(partial(ensure_written, told=told, find=find))
        every = None if division is not None else op_config_of(config.global_config)
        notes = notes_of(package, steps, told, every, joint=joint_compression)
        notes += unheard(package, layers, calibration)
        record = None if division is None else division.reported(layers, rewriter.weights_nbytes)
        nbytes = rewriter.nbytes
        return Report(
            package.name,
            named(output),
            bytes_before,
            nbytes,
            functions,
            tuple(layers),
            notes,
            budget=record,
        )


def _divided(
    package: Package,
    steps: Sequence[Step],
    calibration: Calibration | None,
    budget: Budget,
    editor: Editor,
    journal: Journal,
) -> tuple[Division, list[LayerRecord]]:
    """Returns how a budget was divided and carried out, with a record for each of its steps.

    Where samples are kept back they decide between it and its rival.
    """
    before = sum(path.stat().st_size for path in package.weight_paths)
    learnt, held = (None, []) if calibration is None else split(calibration)
    division = divide_budget(package, package.programs, steps, learnt, budget, before)
    if learnt is None or not held:
        layers = carry_out_all(package, division.steps, learnt, editor, journal)
    else:

        def solve(tried: Division, edits: Editor, weights: Weights) -> list[LayerRecord]:
            kept = journal if tried is division else None
            return carry_out_all(package, tried.steps, learnt, edits, kept, weights)

        division, layers, edits = better(package, division, learnt, held, solve)
        edits.carry_out(editor)
    return division, [*layers, *prune_data_free(division.constants, editor)]


def _journal(
    package: Package,
    output: Path,
    calibration: Calibration | None,
    settings: Mapping[str, object],
    resume: bool,
) -> Journal:
    """Returns the journal of a run; one that is not calibrated keeps none."""
    if calibration is None:
        return Journal()
    digest = digest_of_run(package, settings, calibration)
    return Journal(journal_path(output), digest, resume=resume)
