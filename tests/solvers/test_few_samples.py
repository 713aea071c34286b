"""Fewer samples than columns: the Gram tells little, and a mask leaves little error or none."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import torch

from mlpass.solvers.admm import ADMM
from mlpass.solvers.gram import Gram, accumulate
from mlpass.solvers.solve import solve
from mlpass.solvers.sparsegpt import SparseGPT
from mlpass.sparsity.layout import matrix_layout
from mlpass.sparsity.modes import NM, Block, Percentile
from mlpass.storage.palette import Palette
from mlpass.storage.quantized import Quantized
from mlpass.weights.ops.convolutions import conv_layout

from .layers import exact_error, layer, stored
from .test_peer import peer_weight

MODES = [Percentile(0.5), Percentile(0.5, scope="row"), NM(2, 4), Block(0.5, 4)]


def few(samples, correlated, columns=64, rows=48):
    """Returns a weight and few inputs."""
    if correlated:
        return layer(rows, columns, samples)
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((rows, columns), np.float32)
    return weight, rng.standard_normal((samples, columns), np.float32)


def least_squares(weight, inputs, keep, dampening):
    """Returns the best weights on a mask that stay near the old ones, by scipy, row by row."""
    columns = weight.shape[1]
    power = np.sqrt(dampening * np.square(inputs).sum() / columns)
    rows = np.vstack([inputs, power * np.eye(columns)]).astype(np.float64)
    found = np.zeros(weight.shape)
    for row, kept, old in zip(found, keep, weight, strict=True):
        row[kept] = scipy.linalg.lstsq(rows[:, kept], rows @ old)[0]
    return found


@pytest.mark.parametrize("correlated", [False, True])
@pytest.mark.parametrize("samples", [16, 32, 48])
@pytest.mark.parametrize("mode", MODES, ids=str)
def test_sparsegpt_is_near_the_least_error_of_its_mask(mode, samples, correlated):
    weight, inputs = few(samples, correlated)
    gram, layout = accumulate(None, inputs)[0], matrix_layout(*weight.shape)
    found = solve(weight, gram, mode, method=SparseGPT())
    best = least_squares(weight, inputs, found.keep, 0.01)
    # Eight steps get this far; more would fit the samples more closely, and new ones less.
    assert found.error <= 2 * exact_error(weight, best, gram, layout) + 1e-3
    assert found.error == pytest.approx(
        exact_error(weight, found.weight, gram, layout), rel=1e-3, abs=1e-7
    )


@pytest.mark.parametrize("mode", [Percentile(0.5), NM(2, 4)], ids=str)
def test_32_rows_for_64_columns_leave_a_fraction_of_coremltools_error(mode):
    weight, inputs = few(32, correlated=False)
    linear = torch.nn.Linear(64, 48, bias=False)
    linear.weight.data = torch.from_numpy(weight.copy())
    theirs = peer_weight(linear, torch.from_numpy(inputs), mode, 0.01)
    gram, layout = accumulate(None, inputs)[0], matrix_layout(*weight.shape)
    base = exact_error(weight, theirs, gram, layout)
    assert solve(weight, gram, mode, method=SparseGPT()).error < 0.4 * base
    assert solve(weight, gram, mode, method=ADMM()).error < 0.1 * base


@pytest.mark.parametrize("samples", [8, 32, 44])
def test_with_few_samples_sparsegpt_is_the_one_with_refit(samples):
    weight, inputs = few(samples, correlated=True)
    gram = accumulate(None, inputs)
    plain, refitted = (
        solve(weight, gram, NM(2, 4), method=SparseGPT(refit=refit)) for refit in (False, True)
    )
    assert plain.weight.tobytes() == refitted.weight.tobytes()


@pytest.mark.parametrize("correlated", [False, True])
@pytest.mark.parametrize("samples", [64, 96, 256])
def test_with_samples_enough_the_sweep_is_the_last_word(samples, correlated):
    weight, inputs = few(samples, correlated)
    gram = accumulate(None, inputs)
    assert not Gram(gram).is_short
    plain, refitted = (
        solve(weight, gram, NM(2, 4), method=SparseGPT(refit=refit)) for refit in (False, True)
    )
    assert plain.weight.tobytes() != refitted.weight.tobytes()


def test_few_columns_that_others_tell_are_no_reason_for_a_closer_look(monkeypatch):
    looked = []
    monkeypatch.setattr(Gram, "_is_short", lambda gram: bool(looked.append(gram)))
    weight, inputs = few(256, correlated=False)
    for told in (1, 2, 32):
        inputs[:, :told] = inputs[:, -told:]
        solve(weight, accumulate(None, inputs), NM(2, 4), method=SparseGPT())
        assert bool(looked) == (told == 32)


def test_groups_of_few_samples_are_refitted_as_well():
    layout = conv_layout((24, 14, 3, 3), 2)
    weight, gram = stored(layout, samples=0.4, loudness=2)
    plain, refitted = (
        solve(weight, gram, Percentile(0.5), method=SparseGPT(refit=refit), layout=layout)
        for refit in (False, True)
    )
    assert plain.weight.tobytes() == refitted.weight.tobytes()


def test_columns_that_no_sample_reaches_make_no_samples_few():
    inputs = few(256, correlated=True)[1]
    inputs[:, ::2] = 0
    assert not Gram(accumulate(None, inputs)).is_short
    assert Gram(accumulate(None, inputs[:20])).is_short


def test_columns_that_only_rounding_ties_to_others_make_no_samples_few():
    gram = np.array([[1, 1e-3], [1e-3, 1e-12]], np.float32)  # correlated a thousandfold
    assert not Gram(gram).is_short
    assert solve(np.ones((4, 2), np.float32), gram, NM(1, 2), method=SparseGPT()).keep.any()


@pytest.mark.parametrize("mode", [Percentile(0.5), NM(2, 4)], ids=str)
def test_quantized_and_palettized_weights_lose_no_more_on_inputs_that_no_solve_saw(mode):
    weight, inputs = few(32, correlated=False)
    gram = accumulate(None, inputs)
    unseen = np.random.default_rng(1).standard_normal((2000, weight.shape[1]), np.float32)

    def lost(storage):
        found = solve(weight, gram, mode, method=SparseGPT(), storage=storage).weight
        return np.square((found - weight) @ unseen.T).sum()

    assert lost(Quantized("int8")) < lost(None)
    assert lost(Palette()) < lost(None)


@pytest.mark.parametrize("mode", [Percentile(0.5), NM(2, 4)], ids=str)
def test_on_a_device_few_samples_are_as_few(apart, mode):
    weight, inputs = few(32, correlated=True)
    gram = accumulate(None, inputs)
    here = solve(weight, gram, mode, method=SparseGPT())
    there = solve(torch.from_numpy(weight), torch.from_numpy(gram), mode, method=SparseGPT())
    assert there.error == pytest.approx(here.error, rel=0.05)
