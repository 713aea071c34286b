"""What each training of a compressed model shares: what trains, on what, and at which rate."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping, Sequence
from math import ceil

import numpy as np
import torch
from torch import Tensor

from mlpass.errors import CalibrationError
from mlpass.finetune.module import Names, ProgramModule, values_of
from mlpass.finetune.stored import StoredModule
from mlpass.runtime.samples import Sample, check_functions, functions_in

_WARM = 8  # one in so many steps warms up
_BETAS = (0.9, 0.95)


def trained_of(module: StoredModule, *, weights_only: bool) -> list[str]:
    """Returns the names of the parameters that train."""
    return [name for name in module.floats if not (weights_only and module.is_beside(name))]


Parts = tuple[list[int], list[int]]


def by_functions(samples: Sequence[Sample], numbers: Sequence[int]) -> list[list[int]]:
    """Returns numbers of samples, those together that are for the same functions."""
    if len(functions_in(samples)) == 1:
        return [list(numbers)]
    found: dict[Hashable, list[int]] = {}
    for number in numbers:
        found.setdefault(functions_in([samples[number]]), []).append(number)
    return list(found.values())


def divided_by_functions(samples: Sequence[Sample], held_out: float, seed: int) -> Parts:
    """Returns what `divided` does, with some held out of the samples of every function.

    Raises:
        CalibrationError: there are too few of a function.
    """
    held: list[int] = []
    drawn: list[int] = []
    for numbers in by_functions(samples, range(len(samples))):
        named = [name for name in functions_in([samples[numbers[0]]]) if name is not None]
        of = f" for {', '.join(named)}" if named else ""
        first, second = divided(len(numbers), held_out, seed, of)
        held += [numbers[place] for place in first]
        drawn += [numbers[place] for place in second]
    return sorted(held), sorted(drawn)


def divided(count: int, held_out: float, seed: int, of: str = "") -> Parts:
    """Returns the numbers of the samples that are held out, and of those to train on.

    Raises:
        CalibrationError: there are too few.
    """
    if count < 2:
        raise CalibrationError(
            f"sample_data: training needs two samples or more{of}, one to train on and one to "
            f"judge by. Got {count}."
        )
    order = np.random.default_rng(seed).permutation(count).tolist()
    held = min(max(1, round(count * held_out)), count - 1)
    return sorted(order[:held]), sorted(order[held:])


class Descent:
    """Adam on some parameters. The rate rises over an eighth of the steps and falls to zero.

    It is the most that an element of a weight moves in a step: a scale moves by that much less as
    its codes are large.
    """

    def __init__(
        self, module: StoredModule, names: Sequence[str], learning_rate: float, steps: int
    ) -> None:
        """Begins.

        Args:
            module: whose parameters they are.
            names: of them.
            learning_rate: the highest one.
            steps: that there will be.
        """
        warm = ceil(steps / _WARM)
        groups = [
            {"params": [module.get_parameter(name)], "lr": learning_rate / module.gains[name]}
            for name in names
        ]
        self._optimizer = torch.optim.Adam(groups, betas=_BETAS)
        self._schedule = torch.optim.lr_scheduler.LambdaLR(
            self._optimizer, lambda step: min((step + 1) / warm, 1) * (steps - step) / steps
        )

    def clear(self) -> None:
        """Forgets the gradients of the step before."""
        self._optimizer.zero_grad()

    def step(self) -> None:
        """Moves the parameters by their gradients."""
        self._optimizer.step()
        self._schedule.step()


class Gradients:
    """Adds the gradients of losses to those of parameters, and knows whether there were any."""

    def __init__(self, steps: int) -> None:
        """Has seen none, of so many steps of training."""
        self._left, self._seen = steps, False

    def add(self, loss: Tensor) -> None:
        """Adds that of a loss, where it has one."""
        if loss.requires_grad:
            loss.backward()  # type: ignore[no-untyped-call]
            self._seen = True

    def check(self) -> None:
        """Looks back on a step: a sample may go where no weight is, but not all of them.

        Raises:
            CalibrationError: it was the last, and no loss had a gradient.
        """
        self._left -= 1
        if not (self._left or self._seen):
            raise CalibrationError(
                "outputs: not one that is a float follows from the weights, other than by whole "
                "numbers, so there is nothing to learn; prune without training"
            )


def values_of_parameters(module: StoredModule, names: Sequence[str]) -> dict[str, Tensor]:
    """Returns a copy of what parameters are now."""
    return {name: module.get_parameter(name).detach().clone() for name in names}


@torch.no_grad()
def put_back(module: StoredModule, values: Mapping[str, Tensor]) -> None:
    """Sets parameters to what they were."""
    for name, value in values.items():
        module.get_parameter(name).copy_(value)


def functions_run(samples: Sequence[Sample]) -> Names:
    """Returns the functions that a module is to run for samples, as `to_module` takes them.

    Raises:
        CalibrationError: some samples name one and others do not.
    """
    functions = functions_in(samples)
    check_functions(functions)
    return [name for name in functions if name is not None] or None


def unheard(module: ProgramModule, trained: Collection[str]) -> tuple[str, ...]:
    """Returns a note where functions without samples read what was trained on those of others.

    Args:
        module: that was trained.
        trained: names of the parameters.
    """
    run, sites = module.run_values, module.sites.items()
    others = [
        {place.rpartition("/")[2] for place in site.functions} - module.entries.keys()
        for name, site in sites
        if module.parameter_of(name) in trained and not run.issuperset(values_of(site))
    ]
    if not (silent := set().union(*others)):
        return ()
    heard, told = (", ".join(sorted(names)) for names in (module.entries, silent))
    text = (
        f"{sum(map(bool, others))} of what was trained on samples of {heard} alone are read by "
        f"{told} as well: sample_data={{function: samples}} (--sample-data FUNCTION=PATH, once for "
        "each) has all of them heard"
    )
    return (text,)
