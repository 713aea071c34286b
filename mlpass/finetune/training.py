"""What each training of a compressed model shares: what trains, on what, and at which rate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil

import numpy as np
import torch
from torch import Tensor

from mlpass.errors import CalibrationError
from mlpass.finetune.stored import StoredModule

_WARM = 8  # one in so many steps warms up
_BETAS = (0.9, 0.95)


def trained_of(module: StoredModule, *, weights_only: bool) -> list[str]:
    """Returns the names of the parameters that train."""
    return [name for name in module.floats if not (weights_only and module.is_beside(name))]


def divided(count: int, held_out: float, seed: int) -> tuple[list[int], list[int]]:
    """Returns the numbers of the samples that are held out, and of those to train on.

    Raises:
        CalibrationError: there are too few.
    """
    if count < 2:
        raise CalibrationError(
            "sample_data: training needs two samples or more, one to train on and one to judge by. "
            f"Got {count}."
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


def values_of_parameters(module: StoredModule, names: Sequence[str]) -> dict[str, Tensor]:
    """Returns a copy of what parameters are now."""
    return {name: module.get_parameter(name).detach().clone() for name in names}


@torch.no_grad()
def put_back(module: StoredModule, values: Mapping[str, Tensor]) -> None:
    """Sets parameters to what they were."""
    for name, value in values.items():
        module.get_parameter(name).copy_(value)
