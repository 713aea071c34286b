"""Filters, signs and choices that nobody trained, known by their numbers, and trained ones."""

from __future__ import annotations

import itertools

import coremltools as ct
import numpy as np
import pytest
import scipy.fft
import scipy.linalg
import scipy.ndimage
import scipy.signal
from coremltools.converters.mil.mil import Builder as mb

import mlpass
from mlpass import Config, Percentile
from mlpass.plan import fixed_filters
from mlpass.plan.fixed_filters import (
    is_choice,
    is_repeated_filter,
    is_signs,
    is_turned,
    is_turned_whole,
    may_repeat,
)
from tests.runtime.programs import convert, program

RANDOM = np.random.default_rng(0)


def haar(count):
    """Haar's transform: means and differences of all levels."""
    if count == 1:
        return np.ones((1, 1))
    means = np.kron(haar(count // 2), [1, 1])
    return np.vstack([means, np.kron(np.eye(count // 2), [1, -1])]) / np.sqrt(2)


TRIANGLE = scipy.signal.windows.triang(4)
GAUSS = scipy.signal.windows.gaussian(11, 1.5)
SOBEL = np.outer([1, 2, 1], [1, 0, -1])
HAAR = np.einsum("ux,vy->uvxy", scipy.linalg.hadamard(2), scipy.linalg.hadamard(2)) / 2
WAVELET = scipy.signal.firwin(8, 0.5)
REPEATED = {
    "upsampling": np.tile(np.outer(TRIANGLE, TRIANGLE), (64, 1, 1, 1)),
    "upsampling, dense": np.einsum("io,yx->ioyx", np.eye(21), np.outer(TRIANGLE, TRIANGLE)),
    "blur": np.tile(np.outer(GAUSS, GAUSS), (3, 1, 1, 1)),
    "edges": np.tile(SOBEL, (16, 1, 1, 1)),
    "edges both ways": np.tile(np.stack([SOBEL, SOBEL.T])[:, None], (16, 1, 1, 1)),
    "scaled": np.outer(GAUSS, GAUSS) * RANDOM.uniform(0.1, 3, (24, 1, 1, 1)),
    "wavelet": np.tile(
        np.stack([WAVELET, WAVELET[::-1] * (-1) ** np.arange(8)])[:, None], (9, 1, 1)
    ),
}
SIGNS = {
    "Hadamard": scipy.linalg.hadamard(64),
    "Hadamard, ortho": scipy.linalg.hadamard(256)[:100] / 16,
    "Haar of three channels": np.tile(HAAR.reshape(4, 4), (3, 1)),
    "Haar of channels": np.tile(HAAR.reshape(4, 4), (8, 1)),
    "Haar, all levels": haar(64),
    "Haar, all levels, both ways": np.kron(haar(8), haar(8)),
    "Haar, two levels": np.vstack([np.kron(np.eye(16), haar(4)[n]) for n in range(4)]),
    "Hadamard of heads": scipy.linalg.block_diag(*[scipy.linalg.hadamard(16) / 4] * 4),
    "Hadamard, rows scaled": scipy.linalg.hadamard(32) * RANDOM.uniform(0.5, 2, (32, 1)),
}
ACROSS, DOWN = np.meshgrid(np.arange(11) - 5.0, np.arange(11) - 5.0)
ALONG = np.stack([ACROSS * np.cos(a) + DOWN * np.sin(a) for a in np.arange(8) * np.pi / 8])
BELL = np.exp(-0.5 * (ACROSS**2 + 2 * DOWN**2) / 9)
ROUND = [(0, 0), (0, 1), (0, 2), (1, 2), (2, 2), (2, 1), (2, 0), (1, 0)]


def compass(ring, centre=0):
    """A filter of 3 by 3, turned by an eighth at a time."""
    turned = np.full((8, 1, 3, 3), float(centre))
    for turn, kernel in enumerate(turned[:, 0]):
        for at, value in zip(ROUND, np.roll(ring, turn), strict=True):
            kernel[at] = value
    return turned


PREWITT, ROBINSON = [1, 1, 1, 0, -1, -1, -1, 0], [1, 2, 1, 0, -1, -2, -1, 0]
TURNED = {
    "Prewitt, four ways": compass(PREWITT)[:4],
    "Prewitt, all ways": compass(PREWITT),
    "Robinson, all ways": compass(ROBINSON),
    "Gabors, even": (BELL * np.cos(ALONG))[:, None],
    "Gabors, odd": (BELL * np.sin(ALONG))[:, None],
    "edges of all kinds": np.stack(
        [SOBEL, SOBEL.T, scipy.signal.convolve2d(SOBEL, SOBEL.T)[1:-1, 1:-1], BELL[4:7, 4:7]]
    )[:, None],
    "Morlets": np.stack([np.exp(-0.5 * (n := np.arange(-16, 17) / s) ** 2) * np.cos(5 * n)
                         for s in range(1, 9)])[:, None],
    "Morlets of an even length": np.stack(
        [np.exp(-0.5 * (n := np.arange(-16, 16) / s) ** 2) * np.cos(5 * n) for s in range(1, 9)]
    )[:, None],
    "low passes": np.stack([scipy.signal.firwin(33, c) for c in np.linspace(0.1, 0.9, 9)])[:, None],
}  # fmt: skip
CHOICES = {
    "identity": np.eye(64),
    "one-hot": np.eye(64)[RANDOM.integers(0, 64, 100)],
    "turned": np.roll(np.eye(64), 3, axis=1) * 0.3,
    "bands": np.repeat(np.eye(32), 8, axis=0),
}


def in_rows(weight, dtype):
    return np.ascontiguousarray(weight, dtype).reshape(
        -1, int(np.prod(weight.shape[2:])) if weight.ndim > 2 else weight.shape[1]
    )


def test_one_filter_in_common_is_known_only_where_it_is_there_turned_around():
    """A trained weight of rank one has it, too: a pointwise layer and one filter, merged."""
    for shape, seed in itertools.product([(64, 8), (12, 9), (256, 25)], range(20)):
        rng = np.random.default_rng(seed)
        one = rng.standard_normal(shape[1])
        for filters in (one, np.stack([one, rng.standard_normal(shape[1])])):
            weight = np.resize(filters, shape) * rng.standard_normal((shape[0], 1))
            assert not is_repeated_filter(weight)
        assert is_repeated_filter(np.resize(one + one[::-1], shape))
        assert is_repeated_filter(np.resize([one, one[::-1]], shape))


def test_weights_that_are_the_same_for_a_strand_turned_around_are_trained():
    """As those of networks for both strands of DNA are: w[i, j] is w[-i, -j]."""
    for seed in range(20):
        weight = np.random.default_rng(seed).standard_normal((16, 16))
        assert not is_turned_whole(weight + weight[::-1, ::-1])
        assert not is_turned_whole(weight - weight[::-1, ::-1])


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_they_are_known_by_their_numbers(dtype):
    for rule, known in (
        (is_repeated_filter, REPEATED),
        (is_signs, SIGNS),
        (is_choice, CHOICES),
        (is_turned, TURNED),
    ):
        assert [name for name, weight in known.items() if not rule(in_rows(weight, dtype))] == []
    for weight in REPEATED.values():
        assert may_repeat(in_rows(weight, dtype)[:8])


DAUBECHIES = np.array([0.48296291, 0.83651630, 0.22414387, -0.12940952])
PAIR = [DAUBECHIES, DAUBECHIES[::-1] * (-1) ** np.arange(4)]


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_wavelets_of_two_directions_are_known(dtype):
    planes = np.stack([np.outer(down, across) for down in PAIR for across in PAIR])
    assert is_repeated_filter(in_rows(np.tile(planes[:, None], (16, 1, 1, 1)), dtype))


@pytest.mark.parametrize("size", [3, 5, 7])
def test_many_filters_that_were_trained_to_be_symmetric_are_trained(size):
    for seed in range(20):
        weight = np.random.default_rng(seed).standard_normal((32, 1, size, size))
        weight += weight[..., ::-1]
        weight += weight[..., ::-1, :]
        for dtype in (np.float16, np.float32):
            assert not is_turned(in_rows(weight, dtype))
            assert not is_turned(in_rows(weight.reshape(32, 1, -1), dtype))


def test_many_gabors_are_known():
    steps = np.linspace(0.4, 1.6, 8)[:, None, None]
    waves = np.concatenate([BELL * np.cos(step * ALONG) for step in steps])
    assert len(waves) == 64
    assert is_turned(in_rows(waves[:, None], np.float16))


TRAINED = {
    "random": lambda w: w,
    "sparse": lambda w: np.where(abs(w) < 1.2, 0, w),
    "very sparse": lambda w: np.where(abs(w) < 2.2, 0, w),
    "binary": np.sign,
    "ternary": lambda w: np.sign(w) * (abs(w) > 0.7),
    "ternary, scaled": lambda w: np.sign(w) * (abs(w) > 1.8) * abs(w[:, :1]),
    "one a row": lambda w: np.where(abs(w) == abs(w).max(axis=1, keepdims=True), w, 0),
    "of few steps": np.rint,
    "zero": np.zeros_like,
    "equal": np.ones_like,
    "inf": lambda w: np.full_like(w, np.inf),
    "nan": lambda w: np.full_like(w, np.nan),
}


@pytest.mark.parametrize("name", TRAINED)
@pytest.mark.parametrize(
    "shape", [(32, 9), (4096, 3), (96, 25), (24, 2), (6, 3), (64, 64)], ids=str
)
@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")
def test_trained_ones_are_not(name, shape):
    for seed in range(5):
        weight = TRAINED[name](np.random.default_rng(seed).standard_normal(shape))
        for rule in (is_repeated_filter, is_signs, is_choice, is_turned):
            assert not rule(weight), rule.__name__


FIXED = {
    "upsampling": (
        lambda x: mb.conv_transpose(
            x=mb.reshape(x=x, shape=[1, 64, 2, 2]),
            weight=REPEATED["upsampling"].astype(np.float32),
            strides=[2, 2],
            groups=64,
        ),
        "one filter in common",
    ),
    "blur": (
        lambda x: mb.conv(
            x=mb.reshape(x=x, shape=[1, 16, 4, 4]),
            weight=np.tile(np.outer(TRIANGLE, TRIANGLE), (16, 1, 1, 1)).astype(np.float32),
            groups=16,
        ),
        "one filter in common",
    ),
    "Haar": (
        lambda x: mb.conv(
            x=mb.reshape(x=x, shape=[1, 16, 4, 4]),
            weight=np.tile(HAAR.reshape(4, 1, 2, 2), (16, 1, 1, 1)).astype(np.float32),
            strides=[2, 2],
            groups=16,
        ),
        "signs at right angles",
    ),
    "Gabors": (
        lambda x: mb.conv(
            x=mb.reshape(x=x, shape=[1, 1, 16, 16]),
            weight=np.concatenate([TURNED["Gabors, even"]] * 3).astype(np.float32),
        ),
        "turned by half is itself",
    ),
    "Hadamard": (
        lambda x: mb.linear(x=x, weight=scipy.linalg.hadamard(256).astype(np.float32)),
        "signs at right angles",
    ),
    "Haar, all levels": (
        lambda x: mb.linear(x=x, weight=haar(256).T.astype(np.float32)),
        "signs at right angles",
    ),
    "one-hot": (
        lambda x: mb.matmul(x=x, y=np.roll(np.eye(256, dtype=np.float32), 5, axis=0)),
        "chooses or adds up",
    ),
    "Fourier, complex": (
        lambda x: mb.linear(x=x, weight=complex_fourier(128).astype(np.float32)),
        "Fourier or cosine transform",
    ),
    "sines": (
        lambda x: mb.linear(
            x=x, weight=scipy.fft.dst(np.eye(256), 1, norm="ortho").astype(np.float32)
        ),
        "Fourier or cosine transform",
    ),
}


def complex_fourier(samples):
    """Returns what multiplies real and imaginary parts, one after the other."""
    spectrum = np.fft.fft(np.eye(samples))
    return np.block([[spectrum.real, -spectrum.imag], [spectrum.imag, spectrum.real]])


@pytest.mark.slow_but_every(2)
@pytest.mark.parametrize("name", FIXED)
def test_they_are_left_alone_and_told(name, tmp_path):
    build, reason = FIXED[name]
    source, out = tmp_path / "in.mlpackage", tmp_path / "out.mlpackage"
    made = program(build, (1, 256))
    convert(made, pass_pipeline=ct.PassPipeline.EMPTY).save(str(source))
    config = Config(Percentile(0.5), weight_threshold=0)
    for report in (mlpass.prune(source, out, config), mlpass.prune(made, config)):
        (layer,) = report.layers
        assert reason in str(layer.skipped)
        assert layer.encoding == "dense"
    x = {"x": RANDOM.standard_normal((1, 256)).astype(np.float32)}
    before, after = (mlpass.Interpreter(path).predict(x) for path in (source, out))
    assert all(np.array_equal(before[key], after[key]) for key in before)


def test_what_is_not_a_number_is_not_fixed():
    """A broken file may hold any bits: no warning comes of them."""
    broken = np.full((16, 9), 0x7D01, np.uint16).view(np.float16)  # a signalling NaN
    assert not fixed_filters.may_repeat(broken)
    assert not fixed_filters.is_repeated_filter(broken)
    assert not fixed_filters.is_signs(broken)
    assert not fixed_filters.is_choice(broken)


def chebyshev(degree):
    """Trefethen's differentiation matrix ("Spectral Methods in MATLAB", program `cheb`)."""
    points = np.cos(np.pi * np.arange(degree + 1) / degree)
    signs = np.r_[2, np.ones(degree - 1), 2] * (-1.0) ** np.arange(degree + 1)
    apart = points[:, None] - points + np.eye(degree + 1)
    found = np.outer(signs, 1 / signs) / apart
    return found - np.diag(found.sum(axis=1))


def test_one_kernel_and_derivatives_are_known_where_they_are_alike_after_a_turn():
    smooth = np.outer([1, 2, 1], [1, 2, 1]) / 16
    kernels = smooth, scipy.ndimage.sobel(np.pad([[1.0]], 1)), [[0, 1, 0], [1, -4, 1], [0, 1, 0]]
    for kernel in kernels:
        assert is_turned(np.reshape(kernel, (1, 9)).astype(np.float16))
    bell = scipy.ndimage.gaussian_filter1d(np.eye(5)[2], 1.0)
    assert is_turned(np.stack([bell, bell]).astype(np.float16))  # of two channels
    for degree in (3, 4, 8, 16):
        assert is_turned_whole(chebyshev(degree).astype(np.float16))


def test_what_chance_makes_alike_is_rare_where_it_can_be_told():
    rng = np.random.default_rng(0)
    assert not any(is_turned(rng.standard_normal((1, 9))) for _ in range(2000))
    assert not any(is_turned_whole(rng.standard_normal((4, 4))) for _ in range(2000))
    assert not any(is_signs(rng.choice([-1.0, 1.0], (4, 4))) for _ in range(2000))
    found = sum(is_signs(rng.choice([-1.0, 1.0], (12, 4))) for _ in range(2000))
    assert found <= 4  # each row is in one of two frames: once in 2,048 times


def test_of_few_numbers_nothing_can_be_told():
    """A kernel of four values may be symmetric by chance, and a small Hadamard one is any signs."""
    rng = np.random.default_rng(0)
    values = [-1.5, -0.5, 0.5, 1.5]
    found = sum(is_turned(rng.choice(values, (1, 9))) for _ in range(4000))
    assert 0 < found < 80  # 2 / 4^4 are expected, where not of one magnitude: 31
    assert not is_signs(scipy.linalg.hadamard(4).astype(np.float16))
    assert not is_signs(HAAR.reshape(4, 4))
    assert not is_turned_whole(np.array([[0, -0.25], [-0.25, 0]]))  # ALiBi's of two places
