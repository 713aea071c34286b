"""All samples on their way through a model, region by region: what is live, and no more."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor

from mlpass.errors import ExecutionError
from mlpass.finetune.batching import PerSample
from mlpass.finetune.cutting import Region
from mlpass.finetune.entry import Stage
from mlpass.finetune.feeding import Given, Step, chunks
from mlpass.finetune.module import ProgramModule, running
from mlpass.finetune.stretch import Live, Made, differing, run_mapped, run_stretch
from mlpass.program.ir import Argument, StateType, Value
from mlpass.runtime.failures import of_sample
from mlpass.runtime.function_plan import reads
from mlpass.runtime.spill import SampleValues, Spill
from mlpass.runtime.stretches import ops_of, uses_of

_WIDE = 4  # batches that run as one where there are no gradients


class Stream:
    """All samples in one stage of a model, as far as they have come.

    Attributes:
        module: whose stage it is.
        stage: that they go through.
        given: what is known of them by name before it.
        shared: what is live and the same for all samples.
        size: how many samples run together.
    """

    def __init__(
        self,
        module: ProgramModule,
        stage: Stage,
        regions: Sequence[Region],
        given: Given,
        *,
        batch_size: int,
        memory_budget: int,
        behind: int = 0,
    ) -> None:
        """Starts.

        Args:
            module: the model.
            stage: of it.
            regions: of the stage; each is run once, in their order.
            given: what is known by name: the model's inputs, and outputs of stages before.
            batch_size: samples that run together.
            memory_budget: bytes of values that may stay in memory; the rest goes to files.
            behind: what was live before the last so many regions can still be asked for.
        """
        self.module, self.stage = module, stage
        self.shared: dict[Argument, Tensor] = {}
        self._regions, self.given, self.size = regions, given, batch_size
        ends = [region.end for region in regions]
        crossing = {*stage.plan.block.inputs, *(one for each in regions for one in each.outputs)}
        uses = {
            value: sorted({sum(end <= at for end in ends) for at in places})
            for value, places in uses_of(stage.plan).items()
            if value in crossing
        }
        self._last = {value: places[-1] for value, places in uses.items()}
        self._spill = Spill(memory_budget, module.backend, uses)
        self._values: list[list[SampleValues]] = []
        self._at, self._behind = 0, behind
        self._differing: dict[Region, list[Value]] = {}
        self._apart: set[tuple[Region, bool]] = set()  # with gradients or without
        count = 0
        for steps in given:
            self._values.append([])
            for step in steps:
                values = SampleValues(stage.part.constants, self._spill, count)
                bound = {
                    value: step.inputs[value.name]
                    for value in stage.of(step.function).plan.block.inputs
                    if not isinstance(value.type, StateType)
                }
                values.update(bound.items())
                self._values[-1].append(values)
                self._spill.note([values], list(bound), -1)
                count += 1

    def close(self) -> None:
        """Lets go of everything."""
        self._values.clear()
        self._spill.__exit__()

    def chunks(self, numbers: Sequence[int], size: int) -> Iterator[Sequence[int]]:
        """Yields numbers of samples, so many at a time, those of the same functions together."""
        alike: dict[Hashable, list[int]] = {}
        for number in numbers:
            alike.setdefault(tuple(map(_function_of, self.given[number])), []).append(number)
        return (part for some in alike.values() for part in chunks(some, size))

    def of(self, numbers: Sequence[int], wanted: Sequence[Value]) -> list[Live]:
        """Returns values that are live, for each step of some samples.

        Args:
            numbers: of the samples, as from `chunks`.
            wanted: the values; states are left out, and what the step's function has nothing of.
        """
        return [
            Live(
                step.function,
                {
                    value: self._joined(value, [self._values[number][place] for number in numbers])
                    for value in wanted
                    if value in self.stage.of(step.function).values
                    and not isinstance(value.type, StateType)
                },
            )
            for place, step in enumerate(self.given[numbers[0]])
        ]

    def _joined(self, value: Value, samples: Sequence[SampleValues]) -> object:
        if value in self.shared:
            return self.shared[value]
        found = [values[value] for values in samples]
        return found[0] if self.size == 1 else PerSample(torch.stack(found))

    def run(self, region: Region, given: Sequence[Live]) -> Made:
        """Returns a region's outputs: see `run_stretch`. It is mapped as a whole where it can be.

        The region must be lent to.
        """
        how = region, torch.is_grad_enabled()
        if self.size > 1 and how not in self._apart:
            if region not in self._differing:
                self._differing[region] = differing(self.stage, region, self.shared)
            outputs = self._differing[region]
            try:
                return run_mapped(self.module, self.stage, region, given, outputs)
            except (ExecutionError, RuntimeError, TypeError, ValueError):
                # It has an op that is mapped by a rule, or not at all: or is wrong, and says so
                # again.
                self._apart.add(how)
        return run_stretch(self.module, self.stage, region, given)

    def advance(self, numbers: Sequence[int] | None = None) -> Region:
        """Runs the next region, and returns it.

        Args:
            numbers: of the samples that are still wanted; all where None.
        """
        region = self._regions[self._at]
        wanted = range(len(self._values)) if numbers is None else numbers
        with torch.no_grad(), self.lent(region):
            for part in self.chunks(wanted, wide(self.size)):
                with of_samples(part):
                    self._keep(part, self.run(region, self.of(part, region.inputs)))
        self.forget(region)
        self._at += 1
        gone = [value for value, last in self._last.items() if last < self._at - self._behind]
        for value in gone:
            del self._last[value]
            self.shared.pop(value, None)
        for steps in self._values:
            for values in steps:
                for value in gone:
                    values.pop(value, None)
                self._spill.note([values], (), self._at - 1)
        return region

    def forget(self, region: Region) -> None:
        """Lets go of what the program states for a region; what is read again is read anew."""
        constants = self.stage.part.constants
        for step in self.stage.plan.block.steps[region.start : region.end]:
            for op in ops_of(step):
                for sources in op.inputs.values():
                    for source in filter(constants.__contains__, sources):
                        constants.forget(source)

    def _keep(self, numbers: Sequence[int], made: Made) -> None:
        for step, found in enumerate(made):
            for place, number in enumerate(numbers):
                values = self._values[number][step]
                for value, one in found.items():
                    if self.size > 1 and not isinstance(one, PerSample):
                        self.shared[value] = one
                    else:
                        values[value] = one.samples[place].clone() if self.size > 1 else one
                self._spill.note([values], list(found), self._at)

    @contextmanager
    def lent(self, region: Region) -> Iterator[None]:
        """Lets a region run as the module says: with its parameters, in a session."""
        read = values_read(self.stage, region)
        with running(self.module.backend), self.module.lending(self.stage, read):
            yield

    def results(self, number: int) -> Sequence[Step]:
        """Returns what is known of a sample by name after the last region, for each step."""
        shared = self.shared
        return [
            Step(
                step.function,
                {
                    **step.inputs,
                    **{
                        name: shared[value] if value in shared else values[value]
                        for name, value in self.stage.of(step.function).results.items()
                    },
                },
            )
            for step, values in zip(self.given[number], self._values[number], strict=True)
        ]

    def all_results(self) -> Given:
        """Returns the same for all samples."""
        return [self.results(number) for number in range(len(self._values))]


def _function_of(step: Step) -> str | None:
    return step.function


def values_read(stage: Stage, region: Region) -> set[Value]:
    """Returns every value that the steps of a region read, constants among them."""
    steps = stage.plan.block.steps[region.start : region.end]
    return {value for step in steps for value in reads(step.op)}


def wide(size: int) -> int:
    """Returns how many samples run together without gradients, which need less memory."""
    return size if size == 1 else size * _WIDE


def of_samples(numbers: Sequence[int]) -> AbstractContextManager[None]:
    """Has an error name the sample that it is about, where it is one alone."""
    return of_sample(numbers[0]) if len(numbers) == 1 else nullcontext()
