"""Banks of filters, bases of few samples and of planes that nobody trained; and trained ones."""

from __future__ import annotations

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
from mlpass.plan.fixed import is_filterbank
from mlpass.plan.fixed_bands import is_bumps, is_narrow_bands, is_tones
from mlpass.plan.fixed_bases import is_mirrored_basis, is_plane_waves, is_short_waves
from mlpass.plan.fixed_filters import is_means
from tests.runtime.programs import convert, program

RANDOM = np.random.default_rng(0)
RATE = 16000


def cosine(count, kind=2):
    return scipy.fft.dct(np.eye(count), kind, norm="ortho").T


def mel(count, frequencies):
    mels = np.linspace(0, 2595 * np.log10(1 + RATE / 1400), count + 2)
    edges = (700 * (10 ** (mels / 2595) - 1))[:, None]
    line = np.linspace(0, RATE / 2, frequencies)
    low, centre, high = edges[:-2], edges[1:-1], edges[2:]
    return np.maximum(0, np.minimum((line - low) / (centre - low), (high - line) / (high - centre)))


def gammatones(count, samples, order=4):
    rows = [
        scipy.signal.gammatone(hertz, "fir", order=order, numtaps=samples, fs=RATE)[0]
        for hertz in np.geomspace(80, 7200, count)
    ]
    return np.stack(rows) / np.abs(rows).max(axis=1, keepdims=True)


def constant_q(count, samples=2048):
    rows = []
    for number in range(count):
        hertz = 220 * 2 ** (number / 12)
        length = int(16.8 * RATE / hertz)
        wave = np.exp(2j * np.pi * hertz / RATE * np.arange(length))
        start = (samples - length) // 2
        rows.append(np.zeros(samples, complex))
        rows[-1][start : start + length] = wave * scipy.signal.windows.hann(length)
    return np.concatenate([np.real(rows), np.imag(rows)])


def gabors(count, samples):
    time = np.arange(samples) - samples / 2
    hertz, widths = np.linspace(0.02, 0.45, count), np.geomspace(samples / 4, 6, count)
    bells = np.exp(-0.5 * (time / widths[:, None]) ** 2)
    return bells * np.cos(2 * np.pi * hertz[:, None] * time + 0.7)


def fourier_planes(size):
    planes = np.fft.fft2(np.eye(size * size).reshape(-1, size, size)).reshape(size * size, -1)
    return np.concatenate([planes.real, planes.imag])


H264 = np.array([[1, 1, 1, 1], [2, 1, -1, -2], [1, -1, -1, 1], [1, -2, 2, -1]])
LINE = np.arange(257)
BELLS = np.exp(-0.5 * ((LINE - np.linspace(0, 256, 32)[:, None]) / 9) ** 2)
KNOWN = {
    is_plane_waves: {
        "cosines": np.kron(cosine(8), cosine(8)),
        "cosines of other sizes": np.kron(cosine(8), cosine(16)),
        "cosines of four": np.kron(cosine(4), cosine(4)),
        "the fourth cosines, scaled": np.kron(cosine(8, 4), cosine(8, 4))
        / RANDOM.uniform(1, 30, (64, 1)),
        "of video": np.kron(H264, H264),
        "Fourier": fourier_planes(8),
    },
    is_short_waves: {
        **{
            f"{name}, {kind}, {norm}": make(np.eye(5), kind, norm=norm, axis=0)
            for name, make in (("cosines", scipy.fft.dct), ("sines", scipy.fft.dst))
            for kind in (2, 3, 4)
            for norm in ("ortho", "backward")
        },
        "some, scaled": cosine(7, 4)[2:] * RANDOM.uniform(1, 30, (5, 1)),
        "Fourier": np.concatenate([np.fft.fft(np.eye(6)).real, np.fft.fft(np.eye(6)).imag]),
    },
    is_mirrored_basis: {
        "four": cosine(4),
        "six": cosine(6),
        "of each channel": np.tile(cosine(4), (16, 1)),
        "of video": H264,
        "of video, 2-D": np.einsum("ux,vy->uvxy", H264, H264).reshape(-1, 4),
    },
    is_bumps: {
        "bells": BELLS,
        "from high to low": BELLS[::-1],
        "an ear's": (1 + ((LINE - np.geomspace(4, 240, 40)[:, None]) / 8) ** 2) ** -2.0,
        "bands": np.clip(1.5 - np.abs(LINE - np.linspace(20, 240, 20)[:, None]) / 9, 0, 1),
    },
    is_narrow_bands: {
        "gammatones": gammatones(40, 512),
        "turned": gammatones(40, 512)[::-1, ::-1],
        "constant-Q": constant_q(40),
        "band passes": np.stack(
            [
                scipy.signal.firwin(251, (low, low + 0.05), pass_zero=False)
                for low in np.linspace(0.02, 0.9, 40)
            ]
        ),
    },
    is_tones: {
        **{
            f"gammatones of order {order}, {samples}": gammatones(32, samples, order)
            for order in (1, 2, 3, 4)
            for samples in (64, 128, 200)
        },
        "Gabors": gabors(40, 128),
        "Morlets": np.stack(
            [
                scipy.signal.chirp(np.arange(100) - 50, turns, 1, turns) * np.hanning(100)
                for turns in np.linspace(0.05, 0.45, 20)
            ]
        ),
    },
    is_means: {
        "pooling": np.full((64, 9), 1 / 9),
        "pooling, dense": np.kron(np.eye(4), np.full((1, 9), 1 / 9)).reshape(-1, 9),
        "of all": np.full((64, 50), 1 / 50),
        "matrix": np.repeat(np.eye(16), 4, axis=1) / 4,
    },
}


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("rule", KNOWN, ids=lambda rule: rule.__name__)
def test_they_are_known_by_their_numbers(rule, dtype):
    known = KNOWN[rule]
    assert [name for name, weight in known.items() if not rule(weight.astype(dtype))] == []


TRAINED = {
    "random": lambda w: w,
    "sparse": lambda w: np.where(abs(w) < 1.2, 0, w),
    "positive": np.abs,
    "at right angles": lambda w: np.linalg.qr(w.T)[0].T,
    "of few steps": np.rint,
    "binary": np.sign,
    "smooth": lambda w: scipy.ndimage.gaussian_filter1d(w, 2, axis=1),
    "smoother": lambda w: scipy.ndimage.gaussian_filter1d(w, 9, axis=1),
    "adding up": lambda w: np.cumsum(w, axis=1),
    "in order": lambda w: np.sort(w, axis=1),
    "soft": lambda w: np.exp(w) / np.exp(w).sum(1, keepdims=True),
    "of rank one": lambda w: np.outer(w[:, 0], w[0]),
    "of rank two": lambda w: w[:, :2] @ w[:2],
    "zero": np.zeros_like,
    "ones": np.ones_like,
    "nearly cosines": lambda w: np.kron(cosine(8), cosine(8))[: len(w), : w.shape[1]] + 0.01 * w,
    "nearly bells": lambda w: np.abs(BELLS[:, :64][: len(w), : w.shape[1]] + 0.01 * w[:32]),
    "nan": lambda w: np.full_like(w, np.nan),
    "inf": lambda w: np.full_like(w, np.inf),
}


def draws(make):
    """What is made of some random matrices."""
    for seed in range(5):
        yield make(np.random.default_rng(seed).standard_normal((64, 64)))


@pytest.mark.slow_but_every(5)
@pytest.mark.parametrize("name", TRAINED)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_trained_ones_are_not(name):
    for weight in draws(TRAINED[name]):
        for rule in KNOWN:
            assert not rule(weight), rule.__name__


def test_few_rows_and_short_ones_say_nothing():
    for rule in KNOWN:
        for shape in ((0, 64), (1, 64), (3, 64), (64, 1), (64, 3)):
            assert not rule(np.zeros(shape)), (rule.__name__, shape)


def through_linear(weight):
    weight = np.asarray(weight, np.float32)
    return lambda x: mb.linear(x=mb.slice_by_size(x=x, begin=[0, 0], size=[1, weight.shape[1]]),
                               weight=weight)  # fmt: skip


def through_matmul(weight):
    weight = np.ascontiguousarray(weight.T, np.float32)
    return lambda x: mb.matmul(x=mb.slice_by_size(x=x, begin=[0, 0], size=[1, len(weight)]),
                               y=weight)  # fmt: skip


def through_conv(weight, groups=1):
    weight = np.asarray(weight, np.float32)
    shape = [1, weight.shape[1] * groups, *([32] * 2 if weight.ndim == 4 else [4096])]
    size = int(np.prod(shape))
    return lambda x: mb.conv(
        x=mb.reshape(x=mb.slice_by_size(x=x, begin=[0, 0], size=[1, size]), shape=shape),
        weight=weight,
        groups=groups,
    )


PLANES = np.einsum("ux,vy->uvxy", cosine(4), cosine(4)).reshape(16, 1, 4, 4)
ANGLES = np.outer(np.arange(128), 10000 ** (-np.arange(32) / 32))


@pytest.mark.parametrize(("rule", "rows"), [(is_bumps, BELLS), (is_filterbank, mel(40, 257))])
def test_banks_are_known_in_any_order(rule, rows):
    for dtype in (np.float16, np.float32):
        for order in (
            slice(None),
            slice(None, None, -1),
            np.random.default_rng(3).permutation(len(rows)),
        ):
            assert rule(rows[order].astype(dtype))


def test_rows_of_what_rounding_left_do_not_count():
    """As of the sine of no frequency, and of half the rate."""
    bank = constant_q(24)
    bank[[0, -1]] = 1e-16 * np.random.default_rng(0).standard_normal((2, bank.shape[1]))
    assert is_narrow_bands(bank.astype(np.float32))


WAVES, BANK, BAND = "cosine transform", "a filterbank, as mel's is", "of a narrow band"
MODELS = {
    "planes": (through_linear(np.kron(cosine(8), cosine(8))), WAVES),
    "planes, matmul": (through_matmul(np.kron(cosine(8), cosine(8))), WAVES),
    "blocks of four": (through_conv(PLANES), WAVES),
    "blocks of four, each channel": (through_conv(np.tile(PLANES, (3, 1, 1, 1)), 3), WAVES),
    "mel, twice": (through_linear(np.hstack([mel(40, 129)] * 2)), BANK),
    "mel, twice below": (through_matmul(np.vstack([mel(40, 129)] * 2)), BANK),
    "bells": (through_matmul(BELLS), BANK),
    "gammatones": (through_conv(gammatones(40, 512)[:, None]), BAND),
    "short gammatones": (through_conv(gammatones(40, 128, 2)[:, None]), BAND),
    "Legendre": (
        through_matmul(np.polynomial.legendre.legvander(np.linspace(-1, 1, 128), 31).T),
        "orthogonal polynomials",
    ),
    "distances": (
        through_linear(-0.5 * np.abs(np.subtract.outer(np.arange(64), np.arange(64)))),
        "it is distances times a slope for each head",
    ),
    "constant-Q": (through_conv(constant_q(24)[:, None]), BAND),
    "means": (through_conv(np.full((16, 1, 3, 3), 1 / 9), 16), "each row is a mean"),
    "means, dense": (
        through_conv(np.einsum("io,yx->ioyx", np.eye(8), np.full((3, 3), 1 / 9))),
        "each row is a mean",
    ),
    "angles": (through_linear(np.cos(ANGLES)), "sinusoids of the row"),
    "angles, matmul": (through_matmul(np.hstack([np.sin(ANGLES), np.cos(ANGLES)])),
                       "sinusoids of the row"),
}  # fmt: skip


@pytest.mark.slow_but_every(5)
@pytest.mark.parametrize("name", MODELS)
def test_they_are_left_alone_and_told(name, tmp_path):
    build, reason = MODELS[name]
    source, out = tmp_path / "in.mlpackage", tmp_path / "out.mlpackage"
    made = program(build, (1, 32768))
    convert(made, pass_pipeline=ct.PassPipeline.EMPTY).save(str(source))
    config = Config(Percentile(0.5), weight_threshold=0)
    for report in (mlpass.prune(source, out, config), mlpass.prune(made, config)):
        (layer,) = report.layers
        assert reason in str(layer.skipped)
        assert layer.encoding == "dense"
