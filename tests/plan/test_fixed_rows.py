"""Rows that follow from those before them, which nobody trained; and trained ones."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import scipy.ndimage
import scipy.signal
import torch

from mlpass.plan.fixed_rows import is_levels, is_polynomials, is_shifted
from tests.plan.test_fixed_bands import TRAINED, draws

EYE, PLACES = np.eye(64), np.linspace(-1, 1, 128)


def resized(to, mode):
    """The matrix with which torch resizes 48 samples."""
    line = torch.eye(48)[:, None, :, None]
    made = torch.nn.functional.interpolate(line, size=(to, 1), mode=mode, align_corners=False)
    return made[:, 0, :, 0].T.numpy()


def wavelets(count, levels, taps):
    """The transform of a wavelet, wrapped around: means first, then each level's differences."""
    made = np.eye(count)
    for level in range(levels):
        half = count >> level + 1
        turned = taps[::-1] * (-1) ** np.arange(len(taps))
        rows = np.zeros((2 * half, 2 * half))
        for row in range(2 * half):
            places = (2 * (row % half) + np.arange(len(taps))) % (2 * half)
            np.add.at(rows[row], places, taps if row < half else turned)
        made = scipy.linalg.block_diag(rows, np.eye(count - 2 * half)) @ made
    return made


DAUBECHIES = np.array([0.48296291, 0.8365163, 0.22414387, -0.12940952])


KNOWN = {
    is_levels: {
        "one level": wavelets(32, 1, DAUBECHIES),
        "two levels": wavelets(32, 2, DAUBECHIES),
        "four levels": wavelets(128, 4, DAUBECHIES),
    },
    is_shifted: {
        "differences": np.diff(EYE, axis=0),
        "running sums": np.tri(64),
        "what comes later": np.triu(np.full((64, 64), -1e4), 1),
        "distances": -0.5 * np.abs(np.subtract.outer(np.arange(64), np.arange(64))),
        "distances of heads": np.stack(
            [-scipy.linalg.toeplitz(np.arange(64)) / 2**n for n in range(1, 9)]
        ),
        "smoothing": scipy.ndimage.gaussian_filter1d(EYE, 3, axis=0),
        "Savitzky and Golay": scipy.signal.savgol_filter(EYE, 11, 3, axis=0, mode="constant"),
        "Hilbert": np.imag(scipy.signal.hilbert(EYE, axis=0)),
        "turned": np.tri(64)[::-1],
        "circulant": scipy.linalg.circulant(np.hanning(64)),
        "wavelets": np.stack(
            [np.roll([0.483, 0.8365, 0.2241, -0.1294, *[0] * 60], 2 * n) for n in range(31)]
        ),
        **{f"resized to {to}": resized(to, "bicubic") for to in (80, 96, 144, 24)},
    },
    is_polynomials: {
        "Legendre": np.polynomial.legendre.legvander(PLACES, 31).T,
        "Chebyshev": np.polynomial.chebyshev.chebvander(PLACES, 31).T,
        "Hermite, under a bell": np.polynomial.hermite_e.hermevander(3 * PLACES, 9).T
        * np.exp(-2 * PLACES**2),
        "few": np.polynomial.chebyshev.chebvander(PLACES, 3).T,
        "powers": np.vander(PLACES, 12, increasing=True).T,
        "scaled": np.polynomial.legendre.legvander(PLACES, 31).T
        * np.random.default_rng(0).uniform(0.1, 9, (32, 1)),
    },
}  # fmt: skip


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("rule", KNOWN, ids=lambda rule: rule.__name__)
def test_they_are_known_by_their_numbers(rule, dtype):
    assert [
        name
        for name, weight in KNOWN[rule].items()
        if not rule(weight.reshape(-1, weight.shape[-1]).astype(dtype))
    ] == []


MORE = {
    **TRAINED,
    "diagonal": lambda w: np.diag(w[:, 0])[: len(w)],
    "blocks": lambda w: scipy.linalg.block_diag(*w.reshape(-1, 8, 8)[: len(w) // 8]),
    "one block again and again": lambda w: np.kron(np.eye(8), w[:8, :8]),
    "equal rows": lambda w: np.tile(w[0], (len(w), 1)),
    "equal columns": lambda w: np.tile(w[:, :1], (1, 64)),
    "nearly shifted": lambda w: scipy.linalg.circulant(np.hanning(64)) + 0.05 * w,
    "nearly Legendre": lambda w: (
        np.polynomial.legendre.legvander(np.linspace(-1, 1, 64), 63).T + 0.1 * w
    ),
    "an identity that hardly changed": lambda w: np.eye(len(w)) + 1e-4 * w[:, : len(w)],
    "decays": lambda w: np.exp(-np.outer(np.abs(w[:, 0]) + 0.01, np.arange(w.shape[1]))),
    "four numbers": lambda w: np.digitize(w, [-0.7, 0, 0.7]) - 1.5,
    "mostly one number": lambda w: np.where(abs(w) < 2, 0.5, w),
}


@pytest.mark.parametrize("name", MORE)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_trained_ones_are_not(name):
    for weight in draws(MORE[name]):
        for rule in KNOWN:
            assert not rule(weight), rule.__name__
            assert not rule(weight.T), rule.__name__


def test_few_rows_and_short_ones_say_nothing():
    for rule in KNOWN:
        for shape in ((0, 64), (1, 64), (3, 64), (64, 1), (64, 3)):
            assert not rule(np.ones(shape)), (rule.__name__, shape)
