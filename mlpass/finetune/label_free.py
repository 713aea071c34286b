"""Fine-tuning from package to package with nothing but sample inputs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean

from mlpass.files import temporary_folder
from mlpass.finetune.distillation import distill
from mlpass.finetune.module import to_module
from mlpass.finetune.polishing import polish
from mlpass.finetune.pruner import MagnitudePruner
from mlpass.finetune.schedules import PolynomialDecay
from mlpass.finetune.training import functions_run, unheard
from mlpass.plan.polish import Polish
from mlpass.plan.training import LEARNING_RATE
from mlpass.program.mlmodel import ModelLike, check_outside, open_single
from mlpass.program.opsets.packages import path_of
from mlpass.report.records import Report
from mlpass.runtime.samples import SampleData, load_samples
from mlpass.storage.given import StorageLike
from mlpass.weights.ways import left_alone

_PRUNED = "mlpass prune --joint-compression prunes those, and finetune without a config trains them"
_UPDATES = 20
_SHARE = 10  # of the steps, one in so many tells how it began, and how it ended


def finetune(
    model: ModelLike,
    output: str | os.PathLike[str],
    config: object,
    sample_data: SampleData,
    *,
    steps: int,
    dense: ModelLike | None = None,
    storage: StorageLike = None,
    batch_size: int = 8,
    learning_rate: float = LEARNING_RATE,
    seed: int = 0,
    device: str | None = None,
    minimum_deployment_target: object = None,
    force: bool = False,
) -> Report:
    """Prunes a model while it learns to give what the dense one gives, and writes the result.

    The report's notes tell what it learned.

    The sparsity rises over the first half of the steps; the rate falls to zero over all of them.

    Args:
        model: path of an `.mlpackage`, or an `MLModel`: dense, or pruned already.
        output: path of the `.mlpackage` to write. It appears whole or not at all.
        config: which mode and storage each weight gets; None, and no storage, to keep those that
            `model` has: see `polish`.
        sample_data: inputs without labels, as for calibration, of one function or, as for `prune`,
            of several.
        steps: how many batches to train on.
        dense: the model to come close to; `model` itself where None.
        storage: of weights whose entry names none, rounded to as the result is written.
        batch_size: samples a step of training; those that differ in shape run apart.
        learning_rate: of Adam.
        seed: of the order of the samples.
        device: torch's.
        minimum_deployment_target: that the model is raised to first, as for `prune`.
        force: whether to replace an `output` that exists.

    Raises:
        ConfigError: the config or a number is not valid.
        CalibrationError: there are no samples, or they differ in shape.
        InputError: a sample does not fit the models.
        ExecutionError: the loss is no longer finite, or an op failed.
        ModelFormatError: a model cannot be read.
        UnsupportedOpError: a model has ops that cannot be run.
        OutputExistsError: `output` exists and `force` is False; where it came into being meanwhile,
            the result is kept beside it, by the name that the message has.
        OSError: a file cannot be read or written.
    """
    if minimum_deployment_target is not None:
        with temporary_folder() as folder:
            raised, name, _ = path_of(model, folder, minimum_deployment_target)
            report = finetune(
                raised,
                output,
                config,
                sample_data,
                steps=steps,
                dense=model if dense is None else dense,
                storage=storage,
                batch_size=batch_size,
                learning_rate=learning_rate,
                seed=seed,
                device=device,
                force=force,
            )
        return replace(report, source=name)
    if config is None and storage is None:
        options = Polish(steps=steps, batch_size=batch_size, learning_rate=learning_rate, seed=seed)
        target = model if dense is None else dense
        return polish(model, output, target, sample_data, options, device=device, force=force)
    with open_single(model) as package:
        package.check_target(output, force=force)  # now, not after an hour of work
    check_outside(output, model if dense is None else dense, "the model to learn from")
    samples = load_samples(sample_data, functions=True)
    functions = functions_run(samples)
    module, teacher = (
        to_module(each, device=device, function_name=functions)
        for each in (model, model if dense is None else dense)
    )
    half = max(1, steps // 2) if isinstance(steps, int) else 1
    updates = sorted({1 + half * number // _UPDATES for number in range(_UPDATES)})
    pruner = MagnitudePruner(module, config, PolynomialDecay(updates), storage=storage)
    pruner.prepare()
    losses = distill(
        module,
        teacher,
        samples,
        steps,
        learning_rate=learning_rate,
        pruner=pruner,
        batch_size=batch_size,
        seed=seed,
    )
    left = left_alone(module.weights, _PRUNED)
    notes = (_learned(losses, updates[-1]), *unheard(module, module.sites), *left)
    return replace(pruner.finalize(output, force=force, keep=True), notes=notes)


def _learned(losses: Sequence[float], last_update: int) -> str:
    """Returns what training came to as text: single steps differ by the samples that they see."""
    few = max(1, len(losses) // _SHARE)
    first, last = fmean(losses[:few]), fmean(losses[-few:])
    where = f"the mean of the first and of the last {few}" if few > 1 else "the first and the last"
    return (
        f"trained for {len(losses)} steps; the loss, relative to the dense model's outputs, went "
        f"from {first:.3g} to {last:.3g} ({where}), by way of {max(losses):.3g}: it rises while "
        f"weights are taken away, up to step {last_update}, and falls as the others learn"
    )
