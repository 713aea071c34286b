"""Distillation: training with nothing but sample inputs, towards the dense model's outputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from mlpass.errors import CalibrationError, ConfigError, ExecutionError
from mlpass.finetune.module import ProgramModule, to_module
from mlpass.finetune.pruner import MagnitudePruner
from mlpass.options import check_count
from mlpass.runtime.backends.threads import fixed_threads
from mlpass.runtime.failures import of_sample
from mlpass.runtime.features import check_names, read_input
from mlpass.runtime.samples import Sample, load_samples, steps_of

if TYPE_CHECKING:
    from mlpass.program.mlmodel import ModelLike

Outputs = Mapping[str, Tensor]
LEARNING_RATE = 1e-4
_MOST_SAMPLES = 1 << 16  # in a batch
_LARGEST_SEED = (1 << 64) - 1


def distillation_loss(outputs: Outputs, wanted: Outputs) -> Tensor:
    """Returns the mean over float outputs of ||output - wanted||^2 / ||wanted||^2.

    Places where infinities are wanted, such as masked logits, do not count.

    Raises:
        CalibrationError: there is no float output to compare.
    """
    parts = []
    for name, target in wanted.items():
        if target.is_floating_point() and name in outputs:
            infinite = target.isinf()
            power = target.masked_fill(infinite, 0).square().sum()
            error = (outputs[name] - target).masked_fill(infinite, 0).square().sum()
            parts.append(error / power.clamp_min(torch.finfo(target.dtype).tiny))
    if not parts:
        raise CalibrationError(
            f"outputs: not one of {', '.join(wanted)} is a float output of both models"
        )
    return torch.stack(parts).mean()


@fixed_threads()
def distill(
    module: ProgramModule,
    dense: ModelLike,
    samples: object,
    steps: int,
    *,
    optimizer: torch.optim.Optimizer | None = None,
    learning_rate: float = LEARNING_RATE,
    pruner: MagnitudePruner | None = None,
    batch_size: int = 8,
    loss: Callable[[Outputs, Outputs], Tensor] = distillation_loss,
    seed: int = 0,
) -> list[float]:
    """Trains a module towards the dense model's outputs, and returns the loss of each step.

    Args:
        module: to train.
        dense: the model to come close to: a path, an `MLModel` or a module.
        samples: inputs without labels, as for calibration; the loss of a sequence is the mean over
            its steps.
        steps: how many batches to train on; the samples are drawn in random order, again and again.
        optimizer: over the module's parameters; where None Adam.
        learning_rate: of that Adam; it falls to zero along a half cosine.
        pruner: prepared; stepped after each step of the optimizer.
        batch_size: samples a batch; above 1 they must be of the same shapes, sequences of the same
            length.
        loss: of the module's outputs and the dense model's.
        seed: of the order of the samples.

    Raises:
        ConfigError: a number is out of its range.
        CalibrationError: there are no samples, or they differ in shape or length.
        InputError: a sample does not fit the models.
        ExecutionError: the loss is no longer finite, or an op failed.
    """
    check_count("steps", steps)
    check_count("batch_size", batch_size, high=_MOST_SAMPLES)
    check_count("seed", seed, low=0, high=_LARGEST_SEED)
    number = isinstance(learning_rate, int | float) and not isinstance(learning_rate, bool)
    if not number or not learning_rate > 0:
        raise ConfigError(f"learning_rate: must be a number above 0. Got {learning_rate!r}.")
    teacher = dense if isinstance(dense, ProgramModule) else to_module(dense)
    batches = _batches(module, load_samples(samples), batch_size, seed)
    decay = None
    if optimizer is None:
        optimizer = torch.optim.Adam(module.parameters(), lr=learning_rate)
        decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    losses: list[float] = []
    bar = tqdm(range(steps), desc="training", unit="step", disable=None)
    for _ in bar:
        batch = next(batches)
        with torch.no_grad():
            wanted = _outputs(teacher, batch)
        pairs = zip(_outputs(module, batch), wanted, strict=True)
        error = torch.stack([loss(*pair) for pair in pairs]).mean()
        losses.append(float(error.detach()))
        if not np.isfinite(losses[-1]):
            raise ExecutionError(
                f"training: the loss of step {len(losses)} is {losses[-1]}: use a lower rate"
            )
        optimizer.zero_grad()
        error.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if decay is not None:
            decay.step()
        if pruner is not None:
            pruner.step()
        bar.set_postfix_str(f"loss {losses[-1]:.3g}")
    return losses


def _outputs(module: ProgramModule, batch: Sequence[Outputs]) -> list[Outputs]:
    """Returns a module's outputs for each step of a batch, on one state."""
    if len(batch) == 1:
        return [module(**batch[0])]
    state = module.make_state()
    return [module(state, **step) for step in batch]


def _batches(
    module: ProgramModule, samples: Sequence[Sample], batch_size: int, seed: int
) -> Iterator[list[dict[str, Tensor]]]:
    """Yields batches of samples without end, all samples in random order before any again.

    A batch has as many steps as its samples have; mostly one.
    """
    generator = np.random.default_rng(seed)
    waiting: list[int] = []
    while True:
        while len(waiting) < batch_size:
            waiting += generator.permutation(len(samples)).tolist()
        chosen, waiting = waiting[:batch_size], waiting[batch_size:]
        batch = [_read(module, samples[number], number) for number in chosen]
        lengths = list(dict.fromkeys(map(len, batch)))
        if len(lengths) > 1:
            raise CalibrationError(
                f"sample_data: sequences of {', '.join(map(str, lengths))} steps in one batch: use "
                "a batch_size of 1"
            )
        yield [_joined(step) for step in zip(*batch, strict=True)]


def _read(module: ProgramModule, sample: Sample, number: int) -> list[dict[str, Tensor]]:
    """Returns the inputs of each step of a sample."""
    steps = steps_of(sample)
    read = []
    for place, inputs in enumerate(steps):
        with of_sample(number, place, len(steps)):
            check_names(inputs, module.inputs)
            arrays = {each.name: read_input(each, inputs.get(each.name)) for each in module.inputs}
        read.append({name: torch.from_numpy(np.array(array)) for name, array in arrays.items()})
    return read


def _joined(samples: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Returns samples as one batch.

    Raises:
        CalibrationError: they differ in shape.
    """
    joined = {}
    for name in samples[0]:
        parts = [sample[name] for sample in samples]
        if len({part.shape for part in parts}) > 1:
            shapes = ", ".join(str(shape) for shape in {tuple(part.shape): 0 for part in parts})
            raise CalibrationError(
                f"sample_data: {name!r} has the shapes {shapes} in one batch: use a batch_size of 1"
            )
        joined[name] = parts[0]
        if len(parts) > 1:
            joined[name] = torch.cat(parts) if parts[0].ndim else torch.stack(parts)
    return joined
