"""Distillation: training with nothing but sample inputs, towards the dense model's outputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from mlpass.errors import CalibrationError, ConfigError, ExecutionError
from mlpass.finetune.apart import run_apart
from mlpass.finetune.feeding import Outputs, batches_of, outputs_of
from mlpass.finetune.losses import check_shapes, masked_places
from mlpass.finetune.module import ProgramModule, to_module
from mlpass.finetune.pruner import MagnitudePruner
from mlpass.finetune.training import Gradients
from mlpass.options import check_count
from mlpass.plan.training import LEARNING_RATE
from mlpass.runtime.backends.threads import fixed_threads
from mlpass.runtime.given import warn_of_each
from mlpass.runtime.samples import load_samples

if TYPE_CHECKING:
    from mlpass.program.mlmodel import ModelLike

_MOST_SAMPLES = 1 << 16  # in a batch
_HIGHEST_RATE = 1000  # as far as an element may move in a step
_LARGEST_SEED = (1 << 64) - 1


def distillation_loss(outputs: Outputs, wanted: Outputs) -> Tensor:
    """Returns the mean over float outputs of ||output - wanted||^2 / ||wanted||^2.

    Places that are masked do not count: where infinity is wanted, or minus infinity is given.

    Raises:
        CalibrationError: there is no float output to compare, or one is of another shape.
    """
    parts = []
    for name, target in wanted.items():
        if target.is_floating_point() and name in outputs:
            check_shapes(name, outputs, wanted)
            masked = masked_places(outputs[name], target)
            power = target.masked_fill(masked, 0).square().sum()
            error = (outputs[name] - target).masked_fill(masked, 0).square().sum()
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
        dense: the model to come close to: a path, an `MLModel` or a module; of a model, what is run
            is called as in `module`.
        samples: inputs without labels, as for calibration, for the functions that both modules run;
            the loss of a sequence is the mean over its steps.
        steps: how many batches to train on; the samples are drawn in random order, again and again.
        optimizer: over the module's parameters; where None Adam.
        learning_rate: of that Adam; it falls to zero along a half cosine.
        pruner: prepared; stepped after each step of the optimizer.
        batch_size: samples a step; those of one shape, and sequences of one length, run at once.
        loss: of the module's outputs and the dense model's.
        seed: of the order of the samples.

    Raises:
        ConfigError: a number is out of its range.
        CalibrationError: there are no samples, or outputs do not follow from what trains.
        InputError: a sample does not fit the models.
        ExecutionError: the loss is no longer finite, or an op failed.
    """
    check_count("steps", steps)
    check_count("batch_size", batch_size, high=_MOST_SAMPLES)
    check_count("seed", seed, low=0, high=_LARGEST_SEED)
    number = isinstance(learning_rate, int | float) and not isinstance(learning_rate, bool)
    if not number or not 0 < learning_rate <= _HIGHEST_RATE:
        raise ConfigError(
            f"learning_rate: must be a number above 0, at most {_HIGHEST_RATE}. "
            f"Got {learning_rate!r}."
        )
    if not isinstance(dense, ProgramModule):
        dense = to_module(dense, function_name=module.function_name)
    drawn = load_samples(samples, functions=True)
    warn_of_each(module, drawn)
    most = 1 if run_apart(module) or run_apart(dense) else None
    batches = batches_of(module, drawn, batch_size, seed, most=most)
    decay = None
    if optimizer is None:
        optimizer = torch.optim.Adam(module.parameters(), lr=learning_rate)
        decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    losses: list[float] = []
    gradients = Gradients(steps)
    bar = tqdm(range(steps), desc="training", unit="step", disable=None)
    for _ in bar:
        optimizer.zero_grad()
        losses.append(0.0)
        for batch in next(batches):
            with torch.no_grad():
                wanted = outputs_of(dense, batch)
            pairs = zip(outputs_of(module, batch), wanted, strict=True)
            error = torch.stack([loss(*pair) for pair in pairs]).mean() * batch.share
            losses[-1] += float(error.detach())
            if not np.isfinite(losses[-1]):
                raise ExecutionError(
                    f"training: the loss of step {len(losses)} is {losses[-1]}: use a lower rate"
                )
            gradients.add(error)
        gradients.check()
        optimizer.step()
        if decay is not None:
            decay.step()
        if pruner is not None:
            pruner.step()
        bar.set_postfix_str(f"loss {losses[-1]:.3g}")
    return losses
