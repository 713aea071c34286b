"""Biases of attention that nobody trained: distances times slopes; and trained ones."""

from __future__ import annotations

import numpy as np
import pytest
from coremltools.converters.mil.mil import Builder as mb

import mlpass
from mlpass import Config, Percentile
from mlpass.plan.fixed_slopes import is_distances, is_slopes
from tests.plan.test_fixed_rows import MORE
from tests.runtime.programs import program

PLACES = np.arange(16)
APART = -np.abs(np.subtract.outer(PLACES, PLACES))


def slopes(heads):
    """As the paper has them, and for other numbers of heads those of twice as many between."""
    power = 1 << int(np.log2(heads))
    found = 2.0 ** (-8 / power * np.arange(1, power + 1))
    return found if power == heads else np.r_[found, slopes(2 * power)[: 2 * (heads - power) : 2]]


def of_heads(heads, bias):
    return slopes(heads).reshape(-1, *[1] * bias.ndim) * bias


SLOPES = {
    **{f"{heads} heads": of_heads(heads, APART) for heads in (4, 6, 8, 12, 16, 64, 128)},
    "what comes later is banned": np.where(np.tri(16) > 0, of_heads(8, APART), -1e4),
    "the last row": of_heads(8, -PLACES[::-1]),
    "two places": of_heads(8, APART[:2, :2]),
    "flat": of_heads(8, np.ones(16)),
    "flat, of five heads": np.tile(2.0 ** (-8 * np.arange(1, 6) / 5)[:, None], (1, 4)),
}


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_slopes_and_distances_are_known_by_their_numbers(dtype):
    for name, bias in SLOPES.items():
        assert is_slopes(bias.reshape(len(bias), -1).astype(dtype)), name
    for heads in (1, 2, 5):
        table = (-slopes(8)[:heads, None, None] * APART[:4, :5]).reshape(-1, 5)
        assert is_distances(table.astype(dtype))
        assert is_distances(-table.astype(dtype))


OTHERS = {
    **MORE,
    "of rank one, equal columns": lambda w: np.tile(np.exp(w[:, :1]), (1, w.shape[1])),
    "of rank one, in order": lambda w: np.outer(np.sort(np.exp(w[:, 0])), np.exp(w[0])),
    "nearly one number": lambda w: np.tile(3 + 1e-3 * w[:, :1], (1, w.shape[1])),
    "of powers of two": lambda w: 2.0 ** np.rint(w),
    "sparse, positive": lambda w: np.where(w > 1, w, 0),
    "nearly slopes": lambda w: (of_heads(8, PLACES) + 0.01 * w[:8, :16])[: len(w), : w.shape[1]],
    "nearly distances": lambda w: (APART + 0.1 * w[:16, :16])[: len(w), : w.shape[1]],
}


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_trained_ones_are_not(name):
    for seed in range(5):
        weight = OTHERS[name](np.random.default_rng(seed).standard_normal((64, 64)))
        for part in (weight, weight[:4, :4], weight[:, :5]):
            for way in (part, part.T):
                assert not is_slopes(way)
                assert not is_distances(way)


@pytest.mark.parametrize("name", SLOPES)
def test_they_are_left_alone_and_told(name):
    bias = SLOPES[name].astype(np.float32)
    table = bias.reshape(len(bias), -1)
    made = program(lambda x: mb.matmul(x=x, y=table), (2, len(table)))
    (layer,) = mlpass.prune(made, Config(Percentile(0.5), weight_threshold=0)).layers
    assert "a table of positions" in layer.skipped or "a bias of ALiBi" in layer.skipped
