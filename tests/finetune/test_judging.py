"""How a module is judged on samples that it does not see."""

import numpy as np
import pytest
import torch

from mlpass.finetune import to_module
from mlpass.finetune.feeding import batches, outputs_of
from mlpass.finetune.held_out import HeldOut
from mlpass.finetune.judging import Pair, judged, mean_loss
from mlpass.finetune.losses import Kind, kinds_of
from tests.finetune.networks import FIXTURES, images

KINDS = {None: {"x": Kind("values")}}


def test_samples_count_alike_whatever_their_batches():
    made, wanted = torch.rand(6, 5, generator=torch.Generator().manual_seed(0)), torch.ones(6, 5)
    ways = [[range(6)], [range(1), range(1, 6)], [[number] for number in range(6)]]
    found = [
        [Pair({"x": made[list(some)]}, {"x": wanted[list(some)]}, len(some)) for some in way]
        for way in ways
    ]
    expected = ((made - 1).square().sum(-1) / (5 * 1.001)).mean()
    for pairs in found:
        assert mean_loss(KINDS, pairs) == pytest.approx(float(expected), rel=1e-6)
        one = judged(KINDS, pairs)
        assert one.loss == mean_loss(KINDS, pairs)
        assert one.outputs[0].snr == pytest.approx(
            float(-10 * torch.log10((made - 1).square().sum() / 30)), rel=1e-6
        )


def test_what_the_dense_model_gives_is_made_once():
    """Twice the same, as the dense model gives it, for batches of any size."""
    module = to_module(FIXTURES / "digits_ios15.mlpackage")
    samples = [{"image": image[None]} for image in images(5)[0].numpy()]
    some = batches(module, samples, range(5), 2)
    runs = []
    handle = module.register_forward_hook(lambda *_: runs.append(1))
    with HeldOut(module, some) as held:
        handle.remove()
        assert len(runs) == len(some) == 3
        first, second = ([*held.pairs(module)] for _ in range(2))
    assert [pair.samples for pair in first] == [2, 2, 1]
    for batch, pair, again in zip(some, first, second, strict=True):
        (outputs,) = outputs_of(module, batch)
        for name, value in outputs.items():
            np.testing.assert_array_equal(pair.wanted[name], value.detach())
            np.testing.assert_array_equal(again.wanted[name], pair.wanted[name])
    kinds = kinds_of(module)
    assert mean_loss(kinds, first) == pytest.approx(0, abs=1e-6)
    assert held._file.closed
