"""The last polish: a compressed model's stored floats learn to give what the dense model gives.

Masks and codes stay, so forms and bytes do. Part of the samples is held out: the step that is best
on those is kept, the untouched model being step 0.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil, isfinite

import torch
from tqdm import tqdm

from mlpass.errors import ExecutionError
from mlpass.finetune.feeding import Batch, batches, batches_of, outputs_of
from mlpass.finetune.judging import Judged, judged
from mlpass.finetune.losses import Kind, kinds_of, output_loss
from mlpass.finetune.module import ProgramModule
from mlpass.finetune.stored import StoredModule, to_stored_module
from mlpass.finetune.stored_writing import write_stored
from mlpass.finetune.training import Descent, divided, put_back, trained_of, values_of_parameters
from mlpass.plan.polish import Polish
from mlpass.program.mlmodel import ModelLike, check_outside, open_single
from mlpass.report.records import Report
from mlpass.runtime.backends.threads import fixed_threads
from mlpass.runtime.doubts import warn_of
from mlpass.runtime.samples import Sample, SampleData, load_samples

_ROOM = 1 << 30  # bytes kept for the gradient of the samples that go through at once
_LOOKS = 16  # at the held-out samples in the course of a run


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
        sample_data: two inputs or more without labels, as for calibration.
        options: of the training.
        device: torch's.
        force: whether to replace an `output` that exists.

    Raises:
        ConfigError: an option is not valid.
        CalibrationError: there are too few samples.
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
    module = to_stored_module(model, device=device)
    teacher = StoredModule(dense, device=device, function_name=None, held=False)
    done = polish_module(module, teacher, load_samples(sample_data), options)
    report = write_stored(
        module, output, trained=trained_of(module, weights_only=options.weights_only), force=force
    )
    return replace(report, notes=tuple(str(done).split("\n")))


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
        CalibrationError: there are too few samples.
        InputError: a sample does not fit the models.
        ExecutionError: the module's outputs are not finite, or an op failed.
    """
    warn_of(module, samples)
    held, drawn = divided(len(samples), options.held_out, options.seed)
    kinds = kinds_of(module, options.logits)
    most = _together(module, samples, drawn[0])
    judges = batches(module, samples, held, most)
    names = trained_of(module, weights_only=options.weights_only)
    descent = Descent(module, names, options.learning_rate, options.steps)
    before = best = _judge(module, teacher, judges, kinds)
    if not isfinite(before.loss):
        raise ExecutionError(
            f"polish: the loss of the model as it is is {before.loss}: compare it with the dense "
            "one on these samples (mlpass compare)"
        )
    kept, values = 0, values_of_parameters(module, names)
    every = ceil(options.steps / _LOOKS)
    size = min(options.batch_size, len(drawn))
    drawing = batches_of(module, samples, size, options.seed, drawn, most)
    bar = tqdm(range(1, options.steps + 1), desc="polishing", unit="step", disable=None)
    bar.set_postfix_str(f"held-out loss {before.loss:.4g}")
    for step in bar:
        module.train()
        descent.clear()
        error = 0.0
        for batch in next(drawing):
            loss = _loss(module, teacher, batch, kinds)
            loss.backward()  # type: ignore[no-untyped-call]
            error += float(loss.detach())
        finite = isfinite(error)
        if finite:
            descent.step()
        if not finite or step % every == 0 or step == options.steps:
            found = _judge(module, teacher, judges, kinds)
            if found.loss < best.loss:
                best, kept, values = found, step, values_of_parameters(module, names)
            bar.set_postfix_str(f"held-out loss {before.loss:.4g} -> {best.loss:.4g}")
            if not finite or step - kept > options.steps // 2:
                break
    put_back(module, values)
    module.eval()
    return Polished(step, kept, len(drawn), len(held), before, best)


def _together(module: StoredModule, samples: Sequence[Sample], number: int) -> int:
    """Returns how many samples like that of a number go through at once."""
    one, two = (
        _kept_bytes(module, *batches(module, samples, [number] * count)) for count in (1, 2)
    )
    return max(1, _ROOM // max(1, two - one))


def _kept_bytes(module: StoredModule, batch: Batch) -> int:
    """Returns the bytes that are kept for the gradient of a batch."""
    kept = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    module.train()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        outputs = outputs_of(module, batch)
    del outputs  # they held what is kept
    return sum(kept.values())


def _loss(
    module: StoredModule,
    teacher: ProgramModule,
    batch: Batch,
    kinds: Mapping[str, Kind],
) -> torch.Tensor:
    """Returns the loss of a batch, the mean over its steps, times its share."""
    with torch.no_grad():
        wanted = outputs_of(teacher, batch)
    pairs = zip(outputs_of(module, batch), wanted, strict=True)
    losses = [output_loss(kinds, *pair, batch.count) for pair in pairs]
    return torch.stack(losses).mean() * batch.share


@torch.no_grad()
def _judge(
    module: StoredModule,
    teacher: ProgramModule,
    batches: Sequence[Batch],
    kinds: Mapping[str, Kind],
) -> Judged:
    """Returns how the package that would be written does on the samples that are held out."""
    module.eval()
    return judged(
        kinds,
        (
            (made, wanted, batch.count)
            for batch in batches
            for made, wanted in zip(
                outputs_of(module, batch), outputs_of(teacher, batch), strict=True
            )
        ),
    )
