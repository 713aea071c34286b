"""Random ops, by their distributions."""

import array_api_strict
import numpy as np
import pytest
import torch
from array_api_compat import torch as torch_namespace
from harness import NAMESPACES, run
from scipy import stats

from mlpass.runtime.kernels.random import classes_at, random_categorical, random_uniform

SHAPE = [40, 500]
OPS = {
    "random_bernoulli": {"shape": SHAPE, "prob": 0.3},
    "random_normal": {"shape": SHAPE, "mean": 2.0, "stddev": 3.0},
    "random_uniform": {"shape": SHAPE, "low": -1.0, "high": 4.0},
    "random_categorical": {"x": np.log(np.asarray([[1, 2, 5]] * 40, np.float32)), "size": 500},
}


@pytest.mark.parametrize("op", OPS)
def test_a_seed_draws_the_same_in_every_namespace(op):
    first, *others = [run(op, {**OPS[op], "seed": 7}, namespace) for namespace in NAMESPACES]
    assert first.shape == (40, 500)
    assert first.dtype == np.float32
    for other in others:
        assert other.dtype == np.float32
        assert (other == first).all()
    assert (run(op, {**OPS[op], "seed": 8}, "numpy") != first).any()


@pytest.mark.parametrize("op", OPS)
def test_no_seed_draws_anew(op):
    first, second = (run(op, OPS[op], "numpy") for _ in range(2))
    assert (first != second).any()
    assert (run(op, {**OPS[op], "seed": -1}, "numpy") != first).any()


def test_normal():
    drawn = run("random_normal", {**OPS["random_normal"], "seed": 1}, "numpy").reshape(-1)
    assert stats.kstest(drawn, stats.norm(2, 3).cdf).pvalue > 0.01
    drawn = run("random_normal", {"shape": [20_000], "seed": 2}, "numpy")
    assert stats.kstest(drawn, "norm").pvalue > 0.01


def test_uniform():
    drawn = run("random_uniform", {**OPS["random_uniform"], "seed": 1}, "numpy").reshape(-1)
    assert stats.kstest(drawn, stats.uniform(-1, 5).cdf).pvalue > 0.01
    drawn = run("random_uniform", {"shape": [20_000], "seed": 2}, "numpy")
    assert stats.kstest(drawn, "uniform").pvalue > 0.01


def test_uniform_stays_below_its_upper_bound():
    bound = np.nextafter(np.float32(1), np.float32(2))
    drawn = random_uniform(np, shape=[1000], low=1.0, high=bound, seed=1)
    assert (drawn == 1).all()


@pytest.mark.parametrize("namespace", ["numpy", "torch"])
def test_without_any_spread(namespace):
    for op, attributes in [
        ("random_normal", {"mean": 1.0, "stddev": 0.0}),
        ("random_uniform", {"low": 1.0, "high": 1.0}),
        ("random_bernoulli", {"prob": 1.0}),
    ]:
        assert (run(op, {"shape": [2, 1, 3], **attributes}, namespace) == 1).all()
    assert (run("random_bernoulli", {"shape": [9], "prob": 0.0}, namespace) == 0).all()


@pytest.mark.parametrize("prob", [0.5, 0.3, 0.9])
def test_bernoulli(prob):
    drawn = run("random_bernoulli", {"shape": [20_000], "prob": prob, "seed": 3}, "numpy")
    assert set(drawn.tolist()) == {0.0, 1.0}
    assert stats.binomtest(int(drawn.sum()), drawn.size, prob).pvalue > 0.01


@pytest.mark.parametrize("mode", ["logits", "probs"])
def test_categorical(mode):
    probabilities = np.random.default_rng(0).dirichlet(np.ones(9), (2, 3)).astype(np.float32)
    x = np.log(probabilities) + 7 if mode == "logits" else probabilities
    drawn = run("random_categorical", {"x": x, "mode": mode, "size": 20_000, "seed": 4}, "numpy")
    assert drawn.shape == (2, 3, 20_000)
    for place in np.ndindex(2, 3):
        counts = np.bincount(drawn[place].astype(int), minlength=9)
        expected = probabilities[place].astype(float)
        result = stats.chisquare(counts, expected / expected.sum() * 20_000)
        assert result.pvalue > 0.01 / 6


def test_categorical_never_draws_what_has_no_probability():
    x = np.asarray([[0, 1, 0, 3, 0]], np.float32)
    drawn = run("random_categorical", {"x": x, "mode": "probs", "size": 5000, "seed": 5}, "numpy")
    assert set(drawn.reshape(-1).tolist()) == {1.0, 3.0}


@pytest.mark.parametrize("xp", [np, array_api_strict, torch_namespace], ids=lambda xp: xp.__name__)
def test_classes_share_the_unit_out(xp):
    weights = xp.asarray([0.0, 1.0, 0.0, 3.0, 0.0])
    places = xp.asarray([0.0, 0.2, 0.25, 0.7, 1.0])
    classes = classes_at(xp, weights, places)
    assert [int(classes[place]) for place in range(5)] == [1, 1, 3, 3, 3]


def test_categorical_draws_one_by_default():
    assert run("random_categorical", {"x": np.zeros(1, np.float32)}, "numpy").tolist() == [0.0]
    x = torch.zeros((2, 4), requires_grad=True)
    assert random_categorical(torch_namespace, x=x).shape == (2, 1)
    x = array_api_strict.zeros((2, 4), dtype=array_api_strict.float32)
    assert random_categorical(array_api_strict, x=x).shape == (2, 1)


def test_categorical_of_another_mode():
    with pytest.raises(ValueError, match=r"mode: must be logits or probs. Got 'odds'."):
        run("random_categorical", {"x": np.zeros(1, np.float32), "mode": "odds"}, "numpy")
