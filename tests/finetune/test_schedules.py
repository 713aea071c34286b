"""Schedules, against coremltools' own."""

import pytest
from coremltools.optimize.torch.pruning import ModuleMagnitudePrunerConfig
from coremltools.optimize.torch.pruning.pruning_scheduler import (
    ConstantSparsityScheduler,
    PolynomialDecayScheduler,
)

from mlpass.errors import ConfigError
from mlpass.finetune import ConstantSparsity, PolynomialDecay

PAIRS = [
    (ConstantSparsity(0), ConstantSparsityScheduler(begin_step=0)),
    (ConstantSparsity(7), ConstantSparsityScheduler(begin_step=7)),
    *(
        (
            PolynomialDecay(steps, power=power),
            PolynomialDecayScheduler(update_steps=list(steps), power=power),
        )
        for steps in ([4], [1, 2, 3], range(3, 20, 4), range(0, 20, 3))
        for power in (1, 3)
    ),
]


@pytest.mark.parametrize(("ours", "theirs"), PAIRS)
@pytest.mark.parametrize(("initial", "target"), [(0.0, 0.75), (0.3, 0.9), (0.5, 0.5), (0.6, 0.2)])
def test_sparsities_are_coremltools(ours, theirs, initial, target):
    config = ModuleMagnitudePrunerConfig(initial_sparsity=initial, target_sparsity=target)
    sparsity = initial
    for step in range(1, 25):
        sparsity = theirs.compute_sparsity(step, sparsity, config)
        assert ours.sparsity(step, initial, target) == sparsity, step


def test_options_may_be_named_and_left_out():
    assert ConstantSparsity() == ConstantSparsity(begin_step=0)
    assert PolynomialDecay(update_steps=range(1, 4)) == PolynomialDecay([1, 2, 3], power=3)
    assert PolynomialDecay([1, 2]).sparsity(2, initial=0.0, target=0.5) == 0.5


@pytest.mark.parametrize("steps", [[], [-1], [1.5], [True], [3, 2], [2, 2], ["1"]])
def test_update_steps_must_ascend(steps):
    with pytest.raises(ConfigError, match="update_steps: must be ascending ints of 0 or more. Got"):
        PolynomialDecay(steps)


@pytest.mark.parametrize("power", [0, -1, "3", True, float("nan")])
def test_power_must_be_above_zero(power):
    with pytest.raises(ConfigError, match="power: must be a number above 0. Got"):
        PolynomialDecay([1], power=power)


@pytest.mark.parametrize("step", [-1, 1.0, True, None])
def test_begin_step_must_be_a_step(step):
    with pytest.raises(ConfigError, match="begin_step: must be an int of 0 or more. Got"):
        ConstantSparsity(step)
