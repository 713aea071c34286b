"""One region tuned: its stored floats learn to give what the dense model has at its end.

Its inputs are those that the tuned regions before it make. What it is to give lies between what
its dense weights make of these (a share of 0) and what the dense model has at its end (a share of
1): the first it can reach, the second makes up for the regions before it. A token counts by its own
size, see `output_loss`: where a few values of a stream are a thousand times as large as the others,
a plain mean square would be those alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import ceil, isfinite
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mlpass.finetune.cutting import Region
from mlpass.finetune.features import write_value
from mlpass.finetune.feeding import chunks
from mlpass.finetune.losses import Kind, output_loss
from mlpass.finetune.stored import StoredModule
from mlpass.finetune.streams import Stream, values_read, wide
from mlpass.finetune.stretch import Live, Made
from mlpass.finetune.training import Descent, put_back, values_of_parameters
from mlpass.plan.regions import Regions
from mlpass.program.ir import TensorType, Value
from mlpass.runtime.ops import is_float

_SHARES = {"own": (0.0,), "mix": (0.5,), "dense": (1.0,), "best": (1.0, 0.5, 0.0)}
# Ops whose values have their channels along axis 1.
_CHANNELS_FIRST = frozenset(
    {"conv", "conv_transpose", "max_pool", "avg_pool", "l2_pool", "batch_norm", "instance_norm"}
)


class Goal(NamedTuple):
    """What a region is trained towards.

    Attributes:
        stream: of the dense model, past the region.
        region: of it, the same.
        inputs: for its inputs those that the tuned region has, which it is given as well.
        values: for outputs of the region those of the dense model.
        kinds: of these outputs.
    """

    stream: Stream
    region: Region
    inputs: Mapping[Value, Value]
    values: Mapping[Value, Value]
    kinds: Mapping[Value, Kind]


class Tuning(NamedTuple):
    """A region that is to be tuned.

    Attributes:
        stream: of the model, come to the region.
        region: the region.
        goal: what it is to give.
        names: of the parameters that train.
        number: of the region: its random order follows from it and the seed.
    """

    stream: Stream
    region: Region
    goal: Goal
    names: Sequence[str]
    number: int

    @property
    def module(self) -> StoredModule:
        """Whose region it is."""
        module = self.stream.module
        assert isinstance(module, StoredModule)  # what trains is stored
        return module

    def heard(self, numbers: Sequence[int]) -> list[int]:
        """Returns those samples of some that train the region, by functions that read it."""
        stage, given = self.stream.stage, self.stream.given
        read = values_read(stage, self.region)
        heard = set()
        for function in {step.function for number in numbers for step in given[number]}:
            member = stage.of(function)
            trains = self.module.read_as(read & member.plan.makers.keys())
            if not (trains.isdisjoint(self.names) or member.values.isdisjoint(self.goal.values)):
                heard.add(function)
        return [n for n in numbers if any(step.function in heard for step in given[n])]


class Tuned(NamedTuple):
    """What the tuning of a region came to: losses on the samples that are held out.

    Attributes:
        before: with the values as they were.
        after: with those that were kept.
        kept: the epoch that they are of; 0 where none was better.
        share: of the dense model's values in what that epoch aimed at.
    """

    before: float
    after: float
    kept: int
    share: float


def goal_of(stream: Stream, mine: Region, its: Region, likes: Mapping[Value, Value]) -> Goal:
    """Returns what a region is to give.

    Args:
        stream: of the dense model.
        mine: the region.
        its: the dense model's.
        likes: for values of the model those of the dense one.
    """
    values = {
        value: likes[value]
        for value in mine.outputs
        if is_float(value.type) and value in likes and likes[value] in its.outputs
    }
    steps = stream.stage.plan.block.steps
    square = {
        value
        for step in steps
        if step.op.type in _CHANNELS_FIRST
        for value in (*step.op.inputs.get("x", ()), *step.op.outputs)
    }
    kinds = {
        value: Kind("values", 1 - _rank(like) if like in square and _rank(like) > 1 else -1)
        for value, like in values.items()
    }
    own = {likes[value]: value for value in mine.inputs if likes.get(value) in its.inputs}
    return Goal(stream, its, own, values, kinds)


def shares_of(options: Regions) -> Sequence[float]:
    """Returns the shares of the dense model's values that a region aims at, one after another."""
    return _SHARES[options.target]


def tune_region(
    tuning: Tuning,
    options: Regions,
    samples: tuple[Sequence[int], Sequence[int]],
    tell: Callable[[Tuned], None],
) -> Tuned:
    """Trains a region and leaves its module with the best of its epochs.

    Args:
        tuning: what to train.
        options: of the training.
        samples: the numbers of those that are held out, and of those to train on.
        tell: is given what an epoch came to.
    """
    module, names = tuning.module, tuning.names
    held, drawn = (tuning.heard(numbers) for numbers in samples)
    size = min(options.batch_size, len(drawn))
    steps = options.epochs * ceil(len(drawn) / size)
    judge = 0.0 if options.target == "own" else 1.0
    before = _judged(tuning, held, judge)
    best, values = Tuned(before, before, 0, judge), values_of_parameters(module, names)
    first = values
    for share in shares_of(options) if before > 0 and isfinite(before) else ():
        put_back(module, first)
        descent = Descent(module, names, options.learning_rate, steps)
        generator = np.random.default_rng([options.seed, tuning.number])
        for epoch in range(1, 1 + options.epochs):
            module.train()
            order = [drawn[place] for place in generator.permutation(len(drawn))]
            for numbers in chunks(order, size):
                descent.clear()
                for some in tuning.stream.chunks(numbers, tuning.stream.size):
                    loss = region_loss(tuning, some, share) * (len(some) / len(numbers))
                    if loss.requires_grad:  # or nothing that it gives follows from a weight
                        loss.backward()  # type: ignore[no-untyped-call]
                descent.step()
            found = _judged(tuning, held, judge)
            if found < best.after:
                best, values = (
                    Tuned(before, found, epoch, share),
                    values_of_parameters(module, names),
                )
            tell(best)
            if not isfinite(found):
                break
    put_back(module, values)
    module.eval()
    return best


def region_loss(tuning: Tuning, numbers: Sequence[int], share: float = 1.0) -> Tensor:
    """Returns how far a region's outputs for samples are from those wanted, the mean over steps.

    Steps for a function that the region has nothing to give of do not count.
    """
    stream, region, goal, _, _ = tuning
    given = stream.of(numbers, region.inputs)
    wanted = _wanted(goal, numbers, given, share)
    with stream.lent(region):
        made = stream.run(region, given)
        losses = [
            output_loss(
                {value.name: goal.kinds[value] for value in other},
                {value.name: write_value(one[value], len(numbers)) for value in other},
                {value.name: like for value, like in other.items()},
                len(numbers),
            )
            for one, other in zip(made, wanted, strict=True)
            if other
        ]
    return torch.stack(losses).mean()


@torch.no_grad()
def _wanted(
    goal: Goal, numbers: Sequence[int], given: Sequence[Live], share: float
) -> list[dict[Value, Tensor]]:
    """Returns what a region is to give for each step of some samples."""
    likes = goal.values
    found: list[tuple[float, Made]] = []
    if share > 0:
        live = goal.stream.of(numbers, list(likes.values()))
        found.append((share, [step.values for step in live]))
    if share < 1:
        others = goal.stream.of(numbers, goal.region.inputs)
        for (_, theirs), (_, mine) in zip(others, given, strict=True):
            theirs.update(
                (like, mine[value]) for like, value in goal.inputs.items() if value in mine
            )
        with goal.stream.lent(goal.region):
            found.append((1 - share, goal.stream.run(goal.region, others)))
    parts = [
        [
            {
                value: weight * write_value(step[like], len(numbers))
                for value, like in likes.items()
                if like in step
            }
            for step in made
        ]
        for weight, made in found
    ]
    return [
        {value: torch.stack([part[value] for part in step]).sum(0) for value in step[0]}
        for step in zip(*parts, strict=True)
    ]


@torch.no_grad()
def _judged(tuning: Tuning, held: Sequence[int], share: float) -> float:
    """Returns the loss on samples of what would be written."""
    tuning.module.eval()
    parts = list(tuning.stream.chunks(held, wide(tuning.stream.size)))
    losses = [float(region_loss(tuning, part, share)) for part in parts]
    return float(np.average(losses, weights=list(map(len, parts))))


def _rank(value: Value) -> int:
    return len(value.type.shape) if isinstance(value.type, TensorType) else 0
