"""Sequences: a module's steps on one state are the Interpreter's, and train as one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import mlpass
from mlpass import Percentile
from mlpass.errors import InputError
from mlpass.finetune import (
    ConstantSparsity,
    MagnitudePruner,
    distill,
    distillation_loss,
    finetune,
    to_module,
)
from mlpass.runtime.interpreter import Interpreter
from tests.runtime.sequences import STATEFUL, lm_sequences, predicted


def run(module, *samples):
    """The logits of some sequences, batched, step by step on one state."""
    state = module.make_state()
    return [
        module(state, **{name: np.concatenate([s[name] for s in step]) for name in step[0]})
        for step in zip(*samples, strict=True)
    ]


def test_steps_on_one_state_are_the_interpreters_in_a_batch_too():
    samples = lm_sequences(4, 4)
    made = run(to_module(STATEFUL), *samples)
    for number, sample in enumerate(samples):
        _, wanted = predicted(Interpreter(STATEFUL), sample)
        for step, outputs in enumerate(wanted):
            got = made[step]["logits"][number].detach().numpy().ravel()
            np.testing.assert_allclose(got, outputs["logits"].ravel(), rtol=0.02, atol=0.02)


def test_without_a_state_each_step_starts_from_zeros():
    (sample,) = lm_sequences(3)
    module = to_module(STATEFUL)
    (*_, last) = run(module, sample)
    assert not torch.allclose(last["logits"], module(**sample[2])["logits"], atol=1e-2)


def test_gradients_flow_from_the_last_step_to_the_first():
    (sample,) = lm_sequences(3)
    module = to_module(STATEFUL)
    state = module.make_state()
    first = torch.tensor(0.0, requires_grad=True)
    for number, step in enumerate(sample):
        made = module(state, **step)["logits"]
        if number == 0:
            for cell in state.values():
                cell.value = cell.value * (1 + first)
    made.square().sum().backward()
    assert first.grad is not None and first.grad != 0


@pytest.mark.slow
def test_distilling_goes_through_all_steps():
    samples = lm_sequences(4, 4, 4)
    module, dense = to_module(STATEFUL), to_module(STATEFUL)
    pruner = MagnitudePruner(module, Percentile(0.6), ConstantSparsity(0))
    pruner.prepare()
    pruner.step()
    with torch.no_grad():
        pairs = zip(run(module, *samples), run(dense, *samples), strict=True)
        wanted = torch.stack([distillation_loss(*pair) for pair in pairs]).mean()
    losses = distill(module, dense, samples, 6, learning_rate=1e-3, pruner=pruner, batch_size=3)
    assert losses[0] == pytest.approx(float(wanted), rel=1e-4)
    assert losses[-1] < losses[0] * 0.8


def test_sequences_of_different_lengths_count_as_much_as_those_of_one(tmp_path):
    """Two of 3 steps run at once, one of 2 by itself: the loss is the mean of all three."""
    samples = lm_sequences(3, 2, 3)
    mlpass.prune(STATEFUL, tmp_path / "pruned.mlpackage", Percentile(0.5))
    pruned, dense = to_module(tmp_path / "pruned.mlpackage"), to_module(STATEFUL)
    (together,) = distill(pruned, dense, samples, 1, learning_rate=1e-12, batch_size=3)
    (alike,) = distill(pruned, dense, samples[::2], 1, learning_rate=1e-12, batch_size=2)
    (shorter,) = distill(pruned, dense, samples[1:2], 1, learning_rate=1e-12, batch_size=1)
    assert together == pytest.approx((2 * alike + shorter) / 3, rel=1e-4)
    assert shorter != pytest.approx(alike, rel=1e-2)


def test_from_package_to_package(tmp_path):
    output = tmp_path / "out.mlpackage"
    report = finetune(STATEFUL, output, Percentile(0.5), lm_sequences(3, 3), steps=2, batch_size=2)
    assert report.sparsity == pytest.approx(0.5, abs=0.05)
    kept = mlpass.compare(STATEFUL, output, lm_sequences(3))
    assert kept.samples == 1 and 0 < kept.outputs[0].snr < 60


def test_a_step_that_does_not_fit_is_named(tmp_path):
    samples = lm_sequences(3, 3)
    samples[1][2] |= {"tokens": np.zeros((3, 3, 3))}
    with pytest.raises(InputError, match="^sample 1, step 2: input 'tokens': must be"):
        finetune(STATEFUL, tmp_path / "out.mlpackage", Percentile(0.5), samples, steps=1)
