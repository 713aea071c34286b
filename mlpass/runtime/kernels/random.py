"""Random ops. A seed of -1 draws anew each time; any other draws the same values each time.

Values come from numpy under every backend, so that a seed gives the same ones everywhere. They are
not Core ML's own: what a seed means there is not documented.
"""

from __future__ import annotations

from math import prod

import numpy as np

from mlpass.arrays import Array, Namespace
from mlpass.runtime.kernels.registry import kernel


@kernel("random_bernoulli")
def random_bernoulli(
    xp: Namespace, *, shape: tuple[int, ...], prob: float = 0.5, seed: int = -1
) -> Array:
    """() -> shape of 1 with probability `prob`, else 0, as floats."""
    drawn = _generator(seed).random(shape) < prob
    return xp.asarray(drawn.astype(np.float32))


@kernel("random_normal")
def random_normal(
    xp: Namespace, *, shape: tuple[int, ...], mean: float = 0.0, stddev: float = 1.0, seed: int = -1
) -> Array:
    """() -> shape of values of a normal distribution."""
    drawn = _generator(seed).standard_normal(shape, dtype=np.float32)
    scaled = np.float32(mean) + np.float32(stddev) * drawn
    return xp.asarray(np.asarray(scaled))


@kernel("random_uniform")
def random_uniform(
    xp: Namespace, *, shape: tuple[int, ...], low: float = 0.0, high: float = 1.0, seed: int = -1
) -> Array:
    """() -> shape of values evenly distributed in [low, high)."""
    least, bound = np.float32(low), np.float32(high)
    drawn = least + (bound - least) * _generator(seed).random(shape, dtype=np.float32)
    # Rounding may reach the bound.
    return xp.asarray(np.minimum(drawn, np.nextafter(bound, least)))


@kernel("random_categorical")
def random_categorical(
    xp: Namespace, *, x: Array, mode: str = "logits", size: int = 1, seed: int = -1
) -> Array:
    """x (..., classes) of logits or probabilities -> (..., size) of class numbers, as floats."""
    if mode not in ("logits", "probs"):
        raise ValueError(f"mode: must be logits or probs. Got {mode!r}.")
    weights = x if mode == "probs" else xp.exp(x - xp.max(x, axis=-1, keepdims=True))
    rows = xp.reshape(weights, (prod(x.shape[:-1]), x.shape[-1]))
    values = _generator(seed).random((rows.shape[0], size), dtype=np.float32)
    drawn = xp.asarray(values, device=x.device)
    chosen = [classes_at(xp, rows[row, :], drawn[row, :]) for row in range(rows.shape[0])]
    return xp.reshape(xp.astype(xp.stack(chosen), xp.float32), (*x.shape[:-1], size))


def classes_at(xp: Namespace, weights: Array, places: Array) -> Array:
    """weights (classes,) not negative, places (...) in [0, 1] -> int (...) of class numbers.

    The classes share [0, 1] out among them by their weights. One without weight has no place.
    """
    # numpy has the standard's name only since 2.1.
    bounds = getattr(xp, "cumsum" if xp is np else "cumulative_sum")(weights)
    classes = xp.searchsorted(bounds, places * bounds[-1], side="right")
    # The upper end, which rounding may reach, belongs to the last class that has a place.
    return xp.minimum(classes, xp.searchsorted(bounds, bounds[-1:], side="left"))


def _generator(seed: int) -> np.random.Generator:
    return np.random.default_rng(None if seed == -1 else seed % 2**32)
