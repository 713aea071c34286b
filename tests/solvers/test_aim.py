"""The weight to aim at: numpy's least squares for the dense model's outputs, and its share."""

from __future__ import annotations

import numpy as np
import pytest

from mlpass import NM, SparseGPT
from mlpass.solvers import aim
from mlpass.solvers.aim import DAMPENING, Moved, aimed
from mlpass.solvers.gram import Gram
from mlpass.solvers.solve import solve
from mlpass.sparsity.modes import Percentile

ROWS, COLUMNS = 6, 12


def case(samples, noise=0.0, seed=0):
    """A weight, inputs in the pruned and dense model, and streams: what has moved is learnable."""
    rng = np.random.default_rng(seed)
    weight = rng.standard_normal((ROWS, COLUMNS))
    now = rng.standard_normal((samples, COLUMNS)) @ rng.standard_normal((COLUMNS, COLUMNS))
    dense = now @ (np.eye(COLUMNS) + 0.1 * np.random.default_rng(1).standard_normal((COLUMNS,) * 2))
    dense += noise * rng.standard_normal(dense.shape)
    stream = now @ np.random.default_rng(2).standard_normal((COLUMNS, ROWS))
    stream += noise * rng.standard_normal(stream.shape)
    return weight, now, dense, stream


def moved(now, dense, stream=None):
    """What samples tell; `stream` is by how much that of the dense model is more."""
    drift = None if stream is None else (now.T @ stream)[None]
    return Moved.of(Gram(now.T @ now), (now.T @ (dense - now))[None], drift)


def parts(now, dense, stream=None):
    """What most samples tell, what the last eighth, and what all."""
    cut = len(now) - len(now) // 8
    some = [slice(cut), slice(cut, None), slice(None)]
    return [moved(now[s], dense[s], None if stream is None else stream[s]) for s in some]


def ridge(inputs, lacking):
    """numpy's dampened least squares for what is lacking, (rows, columns)."""
    added = DAMPENING * np.mean(np.einsum("sc,sc->c", inputs, inputs))
    square = inputs.T @ inputs + added * np.eye(inputs.shape[1])
    return np.linalg.solve(square, inputs.T @ lacking).T


@pytest.mark.parametrize("streams", [False, True])
def test_it_is_numpys_dampened_least_squares(streams):
    weight, now, dense, stream = case(400)
    lacking = (dense - now) @ weight.T + (stream if streams else 0)
    found, share = aimed(
        weight[None].astype(np.float32), *parts(now, dense, stream if streams else None)
    )
    assert share == 1
    np.testing.assert_allclose(found[0], weight + ridge(now, lacking), rtol=1e-3, atol=1e-3)
    after = now @ (found[0] - weight).T - lacking
    assert np.square(after).sum() < 0.01 * np.square(lacking).sum()


def test_unpruned_it_gives_the_projection_of_the_dense_outputs(monkeypatch):
    monkeypatch.setattr(aim, "DAMPENING", 0.0)
    monkeypatch.setattr(aim, "SHARES", (1.0,))
    weight, now, dense, _ = case(400, noise=0.5)
    target, _ = aimed(weight[None].astype(np.float32), *parts(now, dense))
    kept = solve(target[0], now.T @ now, Percentile(0.0), method=SparseGPT(dampening=0.0))
    base, _ = np.linalg.qr(now)
    projected = base @ (base.T @ (dense @ weight.T))
    np.testing.assert_allclose(now @ kept.weight.T, projected, rtol=1e-3, atol=0.02)


def test_groups_are_aimed_each_by_itself():
    cases = [case(200, seed=seed) for seed in (3, 4)]
    alone = [aimed(each[0][None].astype(np.float32), *parts(*each[1:3]))[0][0] for each in cases]
    cut = 175
    together = []
    for some in (slice(cut), slice(cut, None), slice(None)):
        now = np.stack([each[1][some] for each in cases])
        dense = np.stack([each[2][some] for each in cases])
        gram = Gram(now.mT @ now)
        together.append(Moved.of(gram, now.mT @ (dense - now)))
    weight = np.stack([each[0] for each in cases]).astype(np.float32)
    found, share = aimed(weight, *together)
    assert share == 1
    np.testing.assert_allclose(found, np.stack(alone), rtol=2e-3, atol=2e-3)


def test_what_held_samples_do_not_show_is_not_aimed_at():
    """Few samples, and nothing but noise between the models: the weight itself is nearest."""
    rng = np.random.default_rng(7)
    weight = rng.standard_normal((1, ROWS, COLUMNS)).astype(np.float32)
    now = rng.standard_normal((414, COLUMNS))
    dense = now + rng.standard_normal(now.shape)
    few, many = moved(now[:14], dense[:14]), moved(now[14:], dense[14:])
    found, share = aimed(weight, few, many, moved(now, dense))
    assert share == 0
    assert found is weight


@pytest.mark.parametrize("noise", [0.3, 1.0, 2.0])
def test_the_share_is_the_best_of_the_five_on_held_samples(noise):
    weight, now, dense, stream = case(64, noise=noise)
    _, share = aimed(weight[None].astype(np.float32), *parts(now, dense, stream))
    lacking = (dense - now) @ weight.T + stream
    step = ridge(now[:56], lacking[:56])
    left = {
        part: np.square(lacking[56:] - part * now[56:] @ step.T).sum()
        for part in (0.0, 0.25, 0.5, 0.75, 1.0)
    }
    assert share == min(left, key=left.get)


def test_nothing_has_moved_and_nothing_changes():
    weight, now, _, _ = case(40)
    still = Moved(Gram(now.T @ now))
    given = weight[None].astype(np.float32)
    found, share = aimed(given, still, still, still)
    assert share == 0
    assert found is given


@pytest.mark.parametrize("size", [1e19, 1e-19])
def test_sizes_beyond_fp32_do_no_harm(size):
    weight, now, dense, stream = case(400)
    given = weight[None].astype(np.float32)
    plain, _ = aimed(given, *parts(now, dense, stream))
    sized, share = aimed(given, *parts(now * size, dense * size, stream * size))
    assert share == 1
    np.testing.assert_allclose(sized, plain, rtol=1e-3, atol=1e-3)


def test_pruned_towards_it_outputs_are_nearer_to_the_dense_model():
    weight, now, dense, stream = case(400)
    target, _ = aimed(weight[None].astype(np.float32), *parts(now, dense, stream))
    wanted = dense @ weight.T + stream

    def left(pruned):
        return np.square(now @ pruned.T - wanted).sum()

    own = solve(weight, now.T @ now, NM(2, 4), method=SparseGPT())
    aiming = solve(target[0], now.T @ now, NM(2, 4), method=SparseGPT())
    assert left(aiming.weight) < 0.8 * left(own.weight)
