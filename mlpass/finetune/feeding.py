"""What a module is trained on: samples in batches, and its outputs for them."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from mlpass.finetune.features import read_feature
from mlpass.finetune.module import ProgramModule
from mlpass.runtime.calls import function_of
from mlpass.runtime.failures import of_sample
from mlpass.runtime.features import read_input
from mlpass.runtime.given import steps_for
from mlpass.runtime.samples import Sample

T = TypeVar("T")

Outputs = Mapping[str, Tensor]


class Step(NamedTuple):
    """What a prediction takes, of one sample or of several.

    Attributes:
        function: that it is for; None where the samples name none.
        inputs: by name; of the stages of a model also what those before have made.
    """

    function: str | None
    inputs: dict[str, Tensor]


Given = Sequence[Sequence[Step]]  # by sample and step


@dataclass(frozen=True)
class Batch:
    """Samples of one shape and length, for one function or the same ones in the same order.

    Attributes:
        count: how many they are.
        share: of the samples that are trained on at a time, which may be of several shapes.
        steps: what they give to each step; mostly there is one.
    """

    count: int
    share: float
    steps: Sequence[Step]


def outputs_of(module: ProgramModule, batch: Batch) -> list[Outputs]:
    """Returns a module's outputs for each step of a batch, on one state."""
    state = module.make_state() if len(batch.steps) > 1 else None
    return [module(state, step.function, batch.count, **step.inputs) for step in batch.steps]


def batches_of(
    module: ProgramModule,
    samples: Sequence[Sample],
    batch_size: int,
    seed: int,
    numbers: Sequence[int] | None = None,
    most: int | None = None,
) -> Iterator[list[Batch]]:
    """Yields samples without end, all of them in random order before any again.

    Args:
        module: that they are for.
        samples: to draw from.
        batch_size: how many are yielded at a time: see `batches`.
        seed: of the order.
        numbers: of the samples that are drawn; all where None.
        most: see `batches`.

    Raises:
        InputError: a sample does not fit the module.
    """
    generator = np.random.default_rng(seed)
    drawn = np.arange(len(samples)) if numbers is None else np.asarray(numbers)
    waiting: list[int] = []
    while True:
        while len(waiting) < batch_size:
            waiting += drawn[generator.permutation(len(drawn))].tolist()
        chosen, waiting = waiting[:batch_size], waiting[batch_size:]
        yield batches(module, samples, chosen, most)


def batches(
    module: ProgramModule,
    samples: Sequence[Sample],
    numbers: Sequence[int],
    most: int | None = None,
) -> list[Batch]:
    """Returns samples in batches, those of one shape and length together.

    Args:
        module: that they are for.
        samples: to choose from.
        numbers: of those that are chosen.
        most: of them in a batch; None for as many as there are.

    Raises:
        InputError: a sample does not fit the module.
    """
    alike: dict[Hashable, list[list[Step]]] = {}
    for number in numbers:
        read = read_sample(module, samples[number], number)
        alike.setdefault(tuple(map(shapes_of, read)), []).append(read)
    return [
        Batch(len(some), len(some) / len(numbers), [*map(_joined, zip(*some, strict=True))])
        for every in alike.values()
        for some in chunks(every, most or len(every))
    ]


def read_sample(module: ProgramModule, sample: Sample, number: int) -> list[Step]:
    """Returns the steps of a sample.

    Raises:
        InputError: it does not fit the module.
    """
    steps = steps_for(sample, module, number)
    read = []
    for place, inputs in enumerate(steps):
        with of_sample(number, place, len(steps)):
            entry = module.runner(inputs)
            taken = entry.taken(inputs)
            arrays = {each.name: read_input(each, taken.get(each.name)) for each in entry.inputs}
        tensors = {name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}
        read.append(Step(function_of(inputs), tensors))
    return read


def inputs_of(module: ProgramModule, samples: Sequence[Sample]) -> Given:
    """Returns what a module is given on its device.

    Raises:
        InputError: a sample does not fit.
    """
    return [
        [
            Step(
                step.function,
                {
                    each.name: read_feature(each, step.inputs[each.name], module.device)
                    for each in module.entry(step.function).inputs
                },
            )
            for step in read_sample(module, sample, number)
        ]
        for number, sample in enumerate(samples)
    ]


def shapes_of(step: Step) -> Hashable:
    """Returns what is equal for steps that can run at once: their function, and all shapes."""
    return step.function, *((name, each.shape) for name, each in step.inputs.items())


def chunks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Yields items, so many at a time."""
    return (items[start : start + size] for start in range(0, len(items), size))


def _joined(samples: Sequence[Step]) -> Step:
    """Returns a step of samples of one shape as that of a batch."""
    joined = {}
    for name, first in samples[0].inputs.items():
        parts = [sample.inputs[name] for sample in samples]
        joined[name] = first
        if len(parts) > 1:
            joined[name] = torch.cat(parts) if first.ndim else torch.stack(parts)
    return Step(samples[0].function, joined)
