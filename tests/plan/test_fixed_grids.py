"""Grids of places, resizing, notes, delays and masks that nobody trained; and what is trained."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import scipy.signal
import scipy.stats
import torch

from mlpass.plan.fixed_grids import (
    is_delays,
    is_mask,
    is_places,
    is_plane_of_positions,
    is_resizing,
    is_wheel,
)
from mlpass.plan.untrained import reason_untrained
from mlpass.program.ir import Constant
from tests.plan.test_fixed_bands import draws
from tests.plan.test_fixed_rows import MORE, wavelets

OMEGA = 1 / 1e4 ** (np.arange(32) / 32)
DOWN, ACROSS = (each.reshape(-1, 1) for each in np.mgrid[:14, :12].astype(float))
CENTRES = np.concatenate([16 * ACROSS + 8, 16 * DOWN + 8], axis=1)


def waves(*places):
    return np.concatenate(
        [np.sin(x * OMEGA) for x in places] + [np.cos(x * OMEGA) for x in places], 1
    )


def resized(size, to, mode, **options):
    """The matrix with which torch resizes samples."""
    lines = torch.eye(size)[None, None]
    made = torch.nn.functional.interpolate(lines, size=(to, size), mode=mode, **options)
    return made[0, 0].numpy().astype(float)


def chroma(bins, notes, *, weighed):
    """As librosa has it: bells on a wheel of notes, weighed by octaves."""
    hertz = np.linspace(0, 16000, 2 * (bins - 1), endpoint=False)[1:]
    octaves = notes * np.log2(hertz / (440 / 16))
    octaves = np.concatenate([[octaves[0] - 1.5 * notes], octaves])
    widths = np.concatenate([np.maximum(np.diff(octaves), 1), [1]])
    half = round(notes / 2)
    apart = np.subtract.outer(octaves, np.arange(notes)).T + half + 10 * notes
    made = np.exp(-0.5 * (2 * (np.remainder(apart, notes) - half) / widths) ** 2)
    made /= np.linalg.norm(made, axis=0)
    weights = np.exp(-0.5 * ((octaves / notes - 5) / 2) ** 2) if weighed else 1.0
    return (made * weights)[:, :bins]


def resampling(before, after, crossings=6):
    """The kernels of a resampling: a windowed sinc at fractions of a sample."""
    rate = 0.99 * min(before, after)
    width = int(np.ceil(crossings * before / rate))
    times = np.arange(-width, width + before) / before - np.arange(after)[:, None] / after
    times = np.clip(times * rate, -crossings, crossings)
    return np.cos(times * np.pi / 2 / crossings) ** 2 * np.sinc(times)


def anchors(*sizes):
    boxes = [np.concatenate([CENTRES, np.full(CENTRES.shape, size)], axis=1) for size in sizes]
    return np.concatenate(boxes)


BLOCKS = np.kron(np.eye(8), np.ones((8, 8)))
KNOWN = {
    is_plane_of_positions: {
        "of a transformer of images": waves(ACROSS, DOWN),
        "with a class before": np.concatenate([np.zeros((1, 128)), waves(ACROSS, DOWN)]),
        "of a detector": waves((DOWN + 1) / 14 * 2 * np.pi, (ACROSS + 1) / 12 * 2 * np.pi),
        "of seven by seven": waves(*(each.reshape(-1, 1) for each in np.mgrid[:7, :7])),
        "rotary, of two axes": np.concatenate([np.cos(ACROSS * OMEGA), np.cos(DOWN * OMEGA)], 1),
    },
    is_places: {
        "pixels": np.concatenate([ACROSS, DOWN], axis=1),
        "anchors": anchors(32, 64, 128),
        "corners": anchors(32, 64) @ np.kron([[1, 1], [-0.5, 0.5]], np.eye(2)),
        "in shares": CENTRES / [192, 224],
    },
    is_mask: {
        "blocks": (1 - BLOCKS) * -1e4,
        "shifted windows": np.where(np.arange(16)[:, None] // 4 == np.arange(16) // 4, 0, -100.0),
        "a length": np.where(np.arange(64) < 40, 0, -65504.0)[None].repeat(8, axis=0),
    },
    is_wheel: {
        "notes": chroma(1025, 12, weighed=True).T,
        "of equal octaves": chroma(2049, 12, weighed=False).T,
        "halves of notes": chroma(1025, 24, weighed=True).T,
    },
    is_delays: {
        "to 16 kHz": resampling(441, 160),
        "to 22 kHz": resampling(320, 147),
    },
    is_resizing: {
        **{
            f"{size} to {to}, {aligned}": resized(size, to, "bicubic", align_corners=aligned)
            for size, to in ((37, 80), (48, 40), (16, 224), (14, 16), (64, 32))
            for aligned in (False, True)
        },
        **{
            f"{mode}, {size} to {to}, smoothed": resized(size, to, mode, antialias=True)
            for mode in ("bilinear", "bicubic") for size, to in ((64, 32), (48, 40), (37, 14))
        },
        "planes": np.kron(resized(8, 16, "bilinear"), resized(8, 16, "bilinear")),
        "planes, cubic": np.kron(resized(8, 12, "bicubic"), resized(8, 12, "bicubic")),
    },
}  # fmt: skip


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("rule", KNOWN, ids=lambda rule: rule.__name__)
def test_they_are_known_by_their_numbers(rule, dtype):
    assert [name for name, weight in KNOWN[rule].items() if not rule(weight.astype(dtype))] == []


def test_lines_that_have_no_end_are_no_grid():
    for seed in range(20):
        slopes, starts = np.random.default_rng(seed).standard_normal((2, 1, 4))
        assert not is_places(np.arange(32)[:, None] * slopes + starts)


@pytest.mark.parametrize("name", MORE)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_trained_ones_are_not(name):
    for weight in draws(MORE[name]):
        for rule in KNOWN:
            for part in (weight, weight[:, :4], weight[:, :12]):
                assert not rule(part), rule.__name__
                assert not rule(part.T), rule.__name__


def reduced(count):
    """Burt and Adelson's: every other sample, smoothed by five taps."""
    made = np.zeros((count // 2, count))
    for row in range(count // 2):
        for tap, share in zip(range(-2, 3), np.array([1, 4, 6, 4, 1]) / 16, strict=True):
            place = abs(2 * row + tap)
            made[row, min(place, 2 * (count - 1) - place)] += share
    return made


def pyramid(count, levels):
    made, now = [], np.eye(count)
    for _ in range(levels):
        small = reduced(len(now))
        made.append(now - 2 * small.T @ (small @ now))
        now = small @ now
    return np.concatenate([*made, now])


DB4 = [0.2303778, 0.7148466, 0.6308808, -0.0279838, -0.1870348, 0.0308414, 0.0328830, -0.0105974]
EDGES = 8000 * np.linspace(0, 1, 42) ** 2
HERTZ = np.linspace(0, 8000, 201)
MEL = np.maximum(0, np.minimum(
    (HERTZ - EDGES[:-2, None]) / np.diff(EDGES)[:-1, None],
    (EDGES[2:, None] - HERTZ) / np.diff(EDGES)[1:, None],
))  # fmt: skip
TABLE = waves(np.arange(512)[:, None])
WHOLE = {
    "a pyramid of Laplacians": pyramid(64, 3),
    "of two levels": pyramid(64, 2),
    "wavelets of eight taps": wavelets(64, 3, np.array(DB4)),
    "of two levels of eight taps": wavelets(128, 2, np.array(DB4)),
    "Haar's, the finest first": wavelets(128, 3, np.full(2, np.sqrt(0.5)))[::-1],
    "mel with a floor": MEL + 1e-3,
    "bands of ones": np.repeat(np.eye(24), 8, axis=1)[:, :180],
    "some bands": np.pad(np.repeat(np.eye(24), 8, axis=1), ((0, 0), (20, 30))),
    "falling powers": np.vander(np.linspace(-1, 1, 300), 8),
    "positions after padding": np.where(np.arange(512)[:, None] == 1, 0, TABLE),
    "positions after a class": np.concatenate([np.zeros((1, 64)), TABLE]),
    **KNOWN[is_places], **KNOWN[is_plane_of_positions],
}  # fmt: skip


def reason(weight, op="linear"):
    """Why a weight of an op is left alone."""
    uses = (SimpleNamespace(op=SimpleNamespace(type=op), parameter="weight"),)
    return reason_untrained(
        SimpleNamespace(constant=Constant.of(weight), shape=weight.shape, uses=uses, parts=())
    )


@pytest.mark.slow_but_every(11)
@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_they_are_left_alone_either_way(name, dtype):
    weight = WHOLE[name].astype(dtype)
    assert reason(weight)
    assert reason(np.ascontiguousarray(weight.T))


def test_kernels_that_choose_are_left_alone():
    assert "chooses" in reason(np.eye(36, dtype=np.float32).reshape(36, 4, 3, 3), "conv")


def draw(rng, shape):
    return rng.standard_normal(shape)


def stripes(shape):
    """Which elements are in blocks of 8 by 8, one in four."""
    down, across = (np.arange(size) // 8 for size in shape)
    return np.add.outer(down, across) % 4 == 0


INITS = {
    "normal": lambda rng, shape: draw(rng, shape) * 0.02,
    "uniform": lambda rng, shape: rng.uniform(-1, 1, shape) / np.sqrt(shape[-1]),
    "kept near": lambda rng, shape: np.clip(draw(rng, shape), -2, 2),
    "orthogonal": lambda rng, shape: scipy.stats.ortho_group.rvs(max(shape), random_state=rng)[
        : shape[0], : shape[1]
    ],
    "low rank": lambda rng, shape: draw(rng, (shape[0], 4)) @ draw(rng, (4, shape[1])),
    "positive": lambda rng, shape: rng.random(shape),
    "heavy": lambda rng, shape: rng.standard_t(2, shape),
    "identity, and noise": lambda rng, shape: np.eye(*shape) + 0.02 * draw(rng, shape),
    "zero, but for few": lambda rng, shape: draw(rng, shape) * (rng.random(shape) < 0.03),
    "half of the rows": lambda rng, shape: draw(rng, shape) * (np.arange(shape[0]) % 2)[:, None],
    "the first rows zero": lambda rng, shape: draw(rng, shape) * (np.arange(shape[0]) > 2)[:, None],
    "of sixteen numbers": lambda rng, shape: rng.choice(draw(rng, 16), shape),
    "ternary": lambda rng, shape: rng.integers(-1, 2, shape) * 0.05,
    "integers": lambda rng, shape: rng.integers(-127, 128, shape) * 0.003,
    "smooth": lambda rng, shape: scipy.signal.lfilter([1], [1, -0.95], draw(rng, shape)),
    "shares": lambda rng, shape: rng.dirichlet(np.full(shape[1], 0.3), shape[0]),
    "of blocks": lambda rng, shape: draw(rng, shape) * stripes(shape),
    "in order": lambda rng, shape: np.sort(draw(rng, shape), axis=1),
    "gains": lambda rng, shape: np.eye(*shape) * (1 + 0.1 * draw(rng, (shape[0], 1))),
    "means, and noise": lambda rng, shape: (1 + 0.05 * draw(rng, shape)) / shape[1],
    "means, and little noise": lambda rng, shape: (1 + 1e-3 * draw(rng, shape)) / shape[1],
}
LIKE_NONE = {name: INITS[name] for name in ("gains", "means, and noise", "means, and little noise")}
SHAPES = [(64, 64), (48, 96), (4, 600), (600, 4), (32, 257), (257, 32), (12, 200), (200, 12)]


@pytest.mark.slow_but_every(2)
@pytest.mark.parametrize("name", LIKE_NONE)
@pytest.mark.parametrize("shape", [(16, 40), (128, 32), (48, 9), (16, 4)], ids=str)
def test_diagonals_and_means_that_were_trained_a_little_are_not_left_alone(name, shape):
    for seed in range(4):
        weight = LIKE_NONE[name](np.random.default_rng(seed), shape).astype(np.float32)
        assert reason(weight) is None
        if shape[0] == 16:
            assert reason(weight.reshape(shape[0] * shape[1] // 4, 4, 1), "conv") is None
        if shape == (48, 9):
            assert reason(weight.reshape(48, 1, 3, 3), "conv") is None


@pytest.mark.slow_but_every(21)
@pytest.mark.parametrize(
    "seeds", [range(2), pytest.param(range(2, 8), marks=pytest.mark.slow)], ids=len
)
@pytest.mark.parametrize("name", INITS)
def test_what_training_begins_with_is_not_left_alone(name, seeds):
    for seed in seeds:
        for shape in SHAPES:
            weight = INITS[name](np.random.default_rng(seed), shape).astype(np.float16)
            assert reason(weight) is None, (shape, seed)
