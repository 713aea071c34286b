"""What a module is trained on: samples in batches, and its outputs for them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from mlpass.errors import CalibrationError
from mlpass.finetune.features import read_feature
from mlpass.finetune.module import ProgramModule
from mlpass.runtime.failures import of_sample
from mlpass.runtime.features import read_input
from mlpass.runtime.samples import Sample, steps_of

Outputs = Mapping[str, Tensor]
Named = Sequence[Sequence[Mapping[str, Tensor]]]  # by sample, step and name
Batch = list[dict[str, Tensor]]  # as many steps as its samples have; mostly one


def outputs_of(module: ProgramModule, batch: Sequence[Outputs]) -> list[Outputs]:
    """Returns a module's outputs for each step of a batch, on one state."""
    if len(batch) == 1:
        return [module(**batch[0])]
    state = module.make_state()
    return [module(state, **step) for step in batch]


def batches_of(
    module: ProgramModule,
    samples: Sequence[Sample],
    batch_size: int,
    seed: int,
    numbers: Sequence[int] | None = None,
) -> Iterator[Batch]:
    """Yields batches of samples without end, all samples in random order before any again.

    Args:
        module: that they are for.
        samples: to draw from.
        batch_size: how many make a batch.
        seed: of the order.
        numbers: of the samples that are drawn; all where None.

    Raises:
        CalibrationError: samples of one batch differ in shape or length.
        InputError: a sample does not fit the module.
    """
    generator = np.random.default_rng(seed)
    drawn = np.arange(len(samples)) if numbers is None else np.asarray(numbers)
    waiting: list[int] = []
    while True:
        while len(waiting) < batch_size:
            waiting += drawn[generator.permutation(len(drawn))].tolist()
        chosen, waiting = waiting[:batch_size], waiting[batch_size:]
        yield batch_of(module, samples, chosen)


def batch_of(module: ProgramModule, samples: Sequence[Sample], numbers: Sequence[int]) -> Batch:
    """Returns the samples of these numbers as a batch; raises as `batches_of` does."""
    batch = [read_sample(module, samples[number], number) for number in numbers]
    lengths = list(dict.fromkeys(map(len, batch)))
    if len(lengths) > 1:
        raise CalibrationError(
            f"sample_data: sequences of {', '.join(map(str, lengths))} steps in one batch: use "
            "a batch_size of 1"
        )
    return [_joined(step) for step in zip(*batch, strict=True)]


def read_sample(module: ProgramModule, sample: Sample, number: int) -> list[dict[str, Tensor]]:
    """Returns the inputs of each step of a sample.

    Raises:
        InputError: it does not fit the module.
    """
    steps = steps_of(sample)
    read = []
    for place, inputs in enumerate(steps):
        with of_sample(number, place, len(steps)):
            taken = module.taken(inputs)
            arrays = {each.name: read_input(each, taken.get(each.name)) for each in module.inputs}
        read.append({name: torch.from_numpy(np.array(array)) for name, array in arrays.items()})
    return read


def inputs_of(module: ProgramModule, samples: Sequence[Sample], batch_size: int) -> Named:
    """Returns what a module is given on its device.

    Raises:
        CalibrationError: samples that are to make a batch differ in shape or length.
        InputError: a sample does not fit.
    """
    read = [
        [
            {
                each.name: read_feature(each, step[each.name], module.device)
                for each in module.inputs
            }
            for step in read_sample(module, sample, number)
        ]
        for number, sample in enumerate(samples)
    ]
    for number, sample in enumerate(read if batch_size > 1 else ()):
        if _shapes(sample) != _shapes(read[0]):
            raise CalibrationError(
                f"sample_data: sample {number} is of another shape or length than the first: use a "
                "batch_size of 1"
            )
    return read


def _shapes(sample: Sequence[Outputs]) -> list[dict[str, torch.Size]]:
    return [{name: tensor.shape for name, tensor in step.items()} for step in sample]


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
