"""The last polish: a compressed model's stored floats learn to give what the dense model gives.

Masks and codes stay, so forms and bytes do. Part of the samples is held out: the step that is best
on those is kept, the untouched model being step 0.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil, isfinite

import torch
from tqdm import tqdm

from mlpass.errors import ExecutionError
from mlpass.finetune.apart import run_apart
from mlpass.finetune.feeding import Batch, batches, batches_of, outputs_of
from mlpass.finetune.held_out import HeldOut
from mlpass.finetune.judging import Judged, judged, mean_loss
from mlpass.finetune.losses import Kinds, kinds_of, output_loss
from mlpass.finetune.module import ProgramModule
from mlpass.finetune.stored import StoredModule, to_stored_module
from mlpass.finetune.stored_writing import write_stored
from mlpass.finetune.training import (
    Descent,
    Gradients,
    by_functions,
    divided_by_functions,
    functions_run,
    put_back,
    trained_of,
    unheard,
    values_of_parameters,
)
from mlpass.plan.polish import Polish
from mlpass.program.mlmodel import ModelLike, check_outside, open_single
from mlpass.report.records import Report
from mlpass.runtime.backends.threads import fixed_threads
from mlpass.runtime.given import warn_of_each
from mlpass.runtime.samples import Sample, SampleData, functions_in, load_samples

_ROOM = 1 << 29  # bytes kept for the gradient of the samples that go through at once
_LOOKS = 16  # at the held-out samples in the course of a run
_LOST = 2  # times the loss before: the rate will not get it back as it falls


@dataclass(frozen=True)
class Polished:
    """What a polish came to.

    Attributes:
        steps: that were taken.
        kept: the step whose values were kept; 0 is the module as it was.
        trained: how many samples it was trained on.
        held_out: how many chose the step.
        before: how the module did.
        after: how it does now.
    """

    steps: int
    kept: int
    trained: int
    held_out: int
    before: Judged
    after: Judged

    def __str__(self) -> str:
        kept = f"step {self.kept} kept" if self.kept else "none was better, the model is as it was"
        losses = f"{self.before.loss:.4g} -> {self.after.loss:.4g}"
        lines = [
            f"polished for {self.steps} steps on {self.trained} samples: {kept}",
            f"on {self.held_out} samples held out: loss {losses}",
            *self.before.told(self.after),
        ]
        return "\n".join(lines)


def polish(
    model: ModelLike,
    output: str | os.PathLike[str],
    dense: ModelLike,
    sample_data: SampleData,
    options: Polish,
    *,
    device: str | None = None,
    force: bool = False,
) -> Report:
    """Polishes a compressed model and writes it, in the same forms; its notes tell what it learned.

    Args:
        model: path of an `.mlpackage`, or an `MLModel`: pruned, quantized, palettized or several.
        output: path of the `.mlpackage` to write. It appears whole or not at all.
        dense: the model to come close to.
        sample_data: two inputs or more without labels, as for calibration; of several functions,
            as for `prune`, each gets two or more.
        options: of the training.
        device: torch's.
        force: whether to replace an `output` that exists.

    Raises:
        ConfigError: an option is not valid.
        CalibrationError: there are too few samples, or outputs do not follow from what trains.
        InputError: a sample does not fit the models.
        ExecutionError: the model's outputs are not finite, or an op failed.
        ModelFormatError: a model cannot be read, or has nothing to train.
        UnsupportedOpError: a model has ops that cannot be run.
        OutputExistsError: `output` exists and `force` is False; where it came into being meanwhile,
            the result is kept beside it, by the name that the message has.
        OSError: a file cannot be read or written.
    """
    with open_single(model) as package:
        package.check_target(output, force=force)  # now, not after an hour of work
    check_outside(output, dense, "the model to learn from")
    samples = load_samples(sample_data, functions=True)
    functions = functions_run(samples)
    module = to_stored_module(model, device=device, function_name=functions)
    teacher = StoredModule(dense, device=device, function_name=functions, held=False)
    done = polish_module(module, teacher, samples, options)
    trained = trained_of(module, weights_only=options.weights_only)
    report = write_stored(module, output, trained=trained, force=force)
    silent = unheard(module, trained if done.kept else ())
    return replace(report, notes=(*str(done).split("\n"), *silent))


@fixed_threads()
def polish_module(
    module: StoredModule, teacher: ProgramModule, samples: Sequence[Sample], options: Polish
) -> Polished:
    """Trains a module, leaves it with the best of its steps, and returns what that came to.

    Args:
        module: to train.
        teacher: whose outputs it is to give.
        samples: two or more.
        options: of the training.

    Raises:
        ConfigError: there is no output of a name.
        CalibrationError: there are too few samples, or outputs do not follow from what trains.
        InputError: a sample does not fit the models.
        ExecutionError: the module's outputs are not finite, or an op failed.
    """
    warn_of_each(module, samples)
    held, drawn = divided_by_functions(samples, options.held_out, options.seed)
    kinds = kinds_of(module, options.logits, functions_in(samples))
    most = 1
    if not run_apart(module):
        most = min(_together(module, samples, some[0]) for some in by_functions(samples, drawn))
    names = trained_of(module, weights_only=options.weights_only)
    descent = Descent(module, names, options.learning_rate, options.steps)
    gradients = Gradients(options.steps)
    with HeldOut(teacher, batches(module, samples, held, most)) as judges:
        before = judged(kinds, judges.pairs(module))
        if not isfinite(before.loss):
            raise ExecutionError(
                f"polish: the loss of the model as it is is {before.loss}: compare it with the "
                "dense one on these samples (mlpass compare)"
            )
        least, kept, values = before.loss, 0, values_of_parameters(module, names)
        every = ceil(options.steps / _LOOKS)
        size = min(options.batch_size, len(drawn))
        drawing = batches_of(module, samples, size, options.seed, drawn, most)
        bar = tqdm(range(1, options.steps + 1), desc="polishing", unit="step", disable=None)
        for step in bar:
            bar.set_postfix_str(f"held-out loss {before.loss:.4g} -> {least:.4g}")
            finite = _descend(descent, gradients, module, teacher, next(drawing), kinds)
            if not finite or step % every == 0 or step == options.steps:
                found = mean_loss(kinds, judges.pairs(module))
                if found < least:
                    least, kept, values = found, step, values_of_parameters(module, names)
                if not finite or found > _LOST * before.loss:
                    break
        put_back(module, values)
        after = judged(kinds, judges.pairs(module)) if kept else before
    return Polished(step, kept, len(drawn), len(held), before, after)


def _together(module: StoredModule, samples: Sequence[Sample], number: int) -> int:
    """Returns how many samples like that of a number go through at once."""
    one, two = (
        _kept_bytes(module, *batches(module, samples, [number] * count)) for count in (1, 2)
    )
    return max(1, _ROOM // max(1, two - one))


def _kept_bytes(module: StoredModule, batch: Batch) -> int:
    """Returns the bytes that are kept for the gradient of a batch."""
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()  # a tensor would hold the graph, and that the tensor
        kept[storage.data_ptr()] = storage

    module.train()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda _: torch.empty(0)):
        outputs_of(module, batch)  # there is no way back
    return sum(storage.nbytes() for storage in kept.values())


def _descend(
    descent: Descent,
    gradients: Gradients,
    module: StoredModule,
    teacher: ProgramModule,
    batches: Sequence[Batch],
    kinds: Kinds,
) -> bool:
    """Takes a step, where the loss of some batches is finite; returns whether it is."""
    module.train()
    descent.clear()
    error = 0.0
    for batch in batches:
        with torch.no_grad():
            wanted = outputs_of(teacher, batch)
        both = zip(batch.steps, outputs_of(module, batch), wanted, strict=True)
        losses = [
            output_loss(kinds[step.function], made, like, batch.count) for step, made, like in both
        ]
        loss = torch.stack(losses).mean() * batch.share  # the mean over its steps
        gradients.add(loss)
        error += float(loss.detach())
    gradients.check()
    if isfinite(error):
        descent.step()
    return isfinite(error)
