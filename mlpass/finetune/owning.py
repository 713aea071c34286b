"""What each window of regions trains: the parameters that no region beyond it reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mlpass.finetune.cutting import Region, cut
from mlpass.finetune.entry import Stage
from mlpass.finetune.module import values_of
from mlpass.finetune.stored import StoredModule
from mlpass.finetune.streams import values_read
from mlpass.finetune.training import trained_of
from mlpass.finetune.weights import is_weight
from mlpass.plan.regions import Regions
from mlpass.program.ir import Value


def regions_of(module: StoredModule, options: Regions, memory_budget: int) -> list[list[Region]]:
    """Returns the regions of each stage, small enough for as many as train together."""
    budget = memory_budget // options.window
    return [
        cut(
            stage.plan,
            weights_of(module, stage),
            budget,
            options.batch_size,
            stage.part.groups,
        )
        for stage in module.stages
    ]


def weights_of(module: StoredModule, stage: Stage) -> dict[Value, int]:
    """Returns how many elements train of each constant value of a stage that is a weight."""
    return {
        value: module.floats[module.parameter_of(name)].size
        for name, site in module.sites.items()
        if is_weight(site)
        for value in values_of(site)
        if value in stage.plan.makers
    }


def readers_of(module: StoredModule, cuts: Sequence[Sequence[Region]]) -> dict[str, set[int]]:
    """Returns the numbers of the regions, of all stages, that read each parameter."""
    readers: dict[str, set[int]] = {name: set() for name in module.floats}
    reading = [
        values_read(stage, region)
        for stage, regions in zip(module.stages, cuts, strict=True)
        for region in regions
    ]
    for number, values in enumerate(reading):
        for name in module.read_as(values):
            readers[name].add(number)
    return readers


def owned_by_windows(
    module: StoredModule,
    cuts: Sequence[Sequence[Region]],
    readers: Mapping[str, set[int]],
    options: Regions,
) -> list[list[str]]:
    """Returns for each window of regions the parameters that it alone reads, and that train.

    Where there is no weight among them nothing is: biases alone are not worth a training.
    """
    found: list[list[str]] = []
    names = trained_of(module, weights_only=options.weights_only)
    start = 0
    for regions in cuts:
        numbers = range(start, start + len(regions))
        for first in range(max(1, len(regions) - options.window + 1)):
            mine = set(numbers[first : first + options.window])
            own = [name for name in names if readers[name] and readers[name] <= mine]
            found.append([] if all(map(module.is_beside, own)) else own)
        start += len(regions)
    return found
