"""Weights that nobody trained, known by their numbers, and trained ones for comparison."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.fft
import scipy.signal

from mlpass.plan.fixed import (
    is_filterbank,
    is_position_table,
    is_wave_basis,
    may_be_transform,
)
from mlpass.plan.untrained import reason_untrained
from mlpass.program.mlpackage import Package
from mlpass.weights.reading import weight_of
from mlpass.weights.sites import find_sites

TRAINED = np.random.default_rng(0).standard_normal((256, 24))
POSITIONS = np.arange(64)[:, None] / 10000 ** (np.arange(24) / 24)


@pytest.mark.parametrize(
    "table",
    [
        np.cos(POSITIONS),
        np.sin(POSITIONS),
        np.concatenate([np.sin(POSITIONS), np.cos(POSITIONS)], axis=1),
        np.stack([np.cos(POSITIONS), np.sin(POSITIONS)], axis=-1) * 1.2,
        np.cos(POSITIONS).astype(np.float16),
        np.cos(POSITIONS)[:8],
        np.cos(np.arange(4096)[:, None] / 1e6 ** (np.arange(24) / 24)).astype(np.float16),
    ],
    ids=["cos", "sin", "both", "pairs", "fp16", "short", "long"],
)
def test_tables_of_positions_are_known_by_their_numbers(table):
    assert is_position_table(table)


@pytest.mark.parametrize(
    "table",
    [
        TRAINED,
        TRAINED.cumsum(axis=0),
        np.zeros((64, 24)),
        np.cos(POSITIONS)[:7],
        np.ones(64),
        np.ones((256, 24), np.float16),
        np.repeat(TRAINED[:1], 256, axis=0),
        np.concatenate([np.repeat(TRAINED[:1], 100, axis=0), TRAINED]),
        np.concatenate([TRAINED, np.repeat(TRAINED[:1], 100, axis=0)]),
        np.repeat(TRAINED[:3], 100, axis=0),
        1 + 1e-4 * TRAINED,
        np.concatenate([np.cos(POSITIONS), TRAINED]),
        np.arange(64)[:, None] * TRAINED[:1],
        np.arange(64)[:, None] * TRAINED[:1] + TRAINED[1:2],
        (-1.0) ** np.arange(64)[:, None] * TRAINED[:1],
        np.full((64, 24), np.inf),
        np.where(TRAINED > 0, np.nan, TRAINED),
    ],
    ids=[
        "trained",
        "smooth",
        "zeros",
        "short",
        "vector",
        "constant",
        "rows-equal",
        "first-rows-equal",
        "last-rows-equal",
        "steps",
        "nearly-constant",
        "positions-then-trained",
        "lines-from-zero",
        "lines",
        "rows-take-turns",
        "inf",
        "nan",
    ],
)
def test_other_tables_are_not(table):
    assert not is_position_table(table)


def test_rows_that_take_turns_are_not_waves():
    table = np.where(np.arange(64)[:, None] % 2, TRAINED[0, :20], TRAINED[1, :20])
    for way in (table, table.T, table.astype(np.float16).T):
        assert not is_wave_basis(way)


def fourier(samples, window, waves=None):
    """Returns the real and the imaginary rows of a one-sided transform."""
    spectrum = np.fft.fft(np.eye(samples), axis=0)[: waves or samples // 2 + 1]
    return spectrum.real * window, spectrum.imag * window


def two_rows(matrix):
    return np.ascontiguousarray(matrix).reshape(-1)[: 2 * matrix.shape[1]]


def recognised(matrix, rule):
    return may_be_transform(two_rows(matrix)) and (rule(matrix) or rule(matrix.T))


WINDOWS = ["boxcar", "hann", "hamming", "blackman", "bartlett", "flattop", ("kaiser", 12.0)]


@pytest.mark.slow_but_every(14)
@pytest.mark.parametrize("samples", [32, 400, 512])
@pytest.mark.parametrize("window", [*WINDOWS, "padded"], ids=str)
def test_fourier_bases_are_known_under_any_window(samples, window):
    if window == "padded":
        inner = scipy.signal.get_window("hann", samples // 2)
        curve = np.pad(inner, (samples // 4, samples // 4))
    else:
        curve = scipy.signal.get_window(window, samples)
    real, imaginary = fourier(samples, curve)
    forms = [
        real,
        imaginary,
        -imaginary / np.sqrt(samples),
        np.concatenate([real, imaginary]),
        np.stack([imaginary, real], axis=1).reshape(-1, samples),
        real[1:-1],
        np.concatenate(fourier(samples, curve, samples)),
        np.linalg.pinv(np.concatenate(fourier(samples, 1))).T * curve,
    ]
    for form in forms:
        for matrix in (form.astype(np.float16), form.T.astype(np.float16)):
            assert recognised(matrix, is_wave_basis)


@pytest.mark.parametrize("kind", [2, 3, 4])
@pytest.mark.parametrize("norm", ["ortho", "backward"])
def test_cosine_transforms_are_known(kind, norm):
    matrix = scipy.fft.dct(np.eye(40), kind, norm=norm, axis=0)
    assert recognised(matrix, is_wave_basis)
    assert recognised(matrix.T.astype(np.float16), is_wave_basis)
    assert recognised(matrix[:13].astype(np.float32), is_wave_basis)


def test_a_cosine_transform_of_images_is_known():
    line = scipy.fft.dct(np.eye(8), norm="ortho", axis=0)
    kernels = np.einsum("ux,vy->uvxy", line, line).reshape(-1, 8)
    assert recognised(kernels.astype(np.float16), is_wave_basis)


SCALES = {
    "htk": (lambda f: 2595 * np.log10(1 + f / 700), lambda m: 700 * (10 ** (m / 2595) - 1)),
    "slaney": (
        lambda f: np.where(f < 1000, f * 0.015, 15 + np.log(np.maximum(f, 1) / 1e3) * 14.545078),
        lambda m: np.where(m < 15, m / 0.015, 1e3 * np.exp((m - 15) / 14.545078)),
    ),
    "linear": (lambda f: f, lambda m: m),
}


def filterbank(scale, filters, bins, lowest=0.0, *, own_scale=False):
    """Returns triangles (filters, bins) up to 8 kHz; `own_scale`: straight on the scale itself."""
    forth, back = SCALES[scale]
    places = np.linspace(0, 8000, bins)
    edges = np.linspace(forth(np.float64(lowest)), forth(np.float64(8000)), filters + 2)
    if own_scale:
        places = forth(places)
    else:
        edges = back(edges)
    rise = (places - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    fall = (edges[2:, None] - places) / (edges[2:] - edges[1:-1])[:, None]
    return np.maximum(0, np.minimum(rise, fall)), edges


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize(("filters", "bins"), [(20, 129), (80, 201), (128, 201), (128, 1025)])
def test_filterbanks_are_known_on_any_scale(scale, filters, bins):
    for lowest, own_scale in ((0, False), (20, False), (20, True)):
        triangles, edges = filterbank(scale, filters, bins, lowest, own_scale=own_scale)
        normed = triangles * (2 / (edges[2:] - edges[:-2]))[:, None]
        for matrix in (triangles, normed, normed.astype(np.float16), triangles.astype(np.float32)):
            assert recognised(matrix, is_filterbank)
            assert recognised(matrix.T, is_filterbank)


RANK_1 = np.outer(TRAINED[:, 0], TRAINED[0])
TRAINED_ONES = {
    "random": TRAINED,
    "uniform": np.random.default_rng(1).random((256, 24)),
    "positive": np.abs(TRAINED),
    "rectified": np.maximum(TRAINED, 0),
    "pruned": np.where(np.abs(TRAINED) < 1.5, 0, TRAINED),
    "smooth": TRAINED.cumsum(axis=1),
    "smooth both ways": TRAINED.cumsum(axis=1).cumsum(axis=0),
    "equal": np.ones((64, 64)),
    "zeros": np.zeros((64, 64)),
    "rank 1": RANK_1,
    "rank 2": RANK_1 + np.outer(TRAINED[:, 1], TRAINED[1]),
    "identity": np.eye(64),
    "means": np.kron(np.eye(16), np.ones(8)),
    "band": np.triu(np.tril(np.abs(TRAINED), 1)),
    "disturbed": fourier(64, 1)[0] + 0.1 * np.random.default_rng(2).standard_normal((33, 64)),
    "one wave": np.outer(TRAINED[:, 0], np.cos(np.arange(64) / 5)),
    "inf": np.full((64, 64), np.inf),
    "nan": np.full((64, 64), np.nan),
}


@pytest.mark.parametrize("name", TRAINED_ONES)
def test_other_matrices_are_not(name):
    matrix = TRAINED_ONES[name]
    for way in (matrix, matrix.T):
        assert not is_wave_basis(way)
        assert not is_filterbank(way)


@pytest.mark.parametrize("shape", [(64, 64), (512, 9), (10, 400), (4, 8), (2000, 30)])
def test_random_matrices_are_not_and_are_rejected_by_their_first_rows(shape):
    generator = np.random.default_rng(3)
    suspects = 0
    for _ in range(50):
        matrix = generator.standard_normal(shape)
        suspects += may_be_transform(two_rows(matrix))
        assert not is_wave_basis(matrix)
        assert not is_filterbank(matrix)
    assert suspects <= 10


def test_short_or_broken_beginnings_are_not():
    assert not may_be_transform(np.ones(15))
    assert not may_be_transform(np.full(64, np.nan))


def test_of_all_fixtures_only_the_transform_of_speech_and_positions_are_untrained(fixtures):
    found = {}
    for path in sorted(fixtures.glob("*.mlpackage")):
        with Package(path) as package:
            for site in find_sites(package.programs):
                if site.refusal is None and (reason := reason_untrained(site)):
                    found[path.stem, site.name] = reason.partition(":")[0]
    assert found == {
        ("basic_pitch", "squeeze_1"): "each row is of a narrow band",
        (
            "basic_pitch",
            "StatefulPartitionedCall_model_1_cq_t2010v2_1_Neg_weight_0",
        ): "each row is of a narrow band",
        ("silero_vad", "stft_conv_weight"): "it is waves under one window",
        ("stateful_lm", "cosine_to_fp16"): "its columns are sinusoids of the row",
        ("stateful_lm", "sine_to_fp16"): "its columns are sinusoids of the row",
    }


def test_the_first_elements_of_a_weight_are_read_alone(fixtures):
    with Package(fixtures / "silero_vad.mlpackage") as package:
        for site in find_sites(package.programs):
            weight = weight_of(site)
            assert np.array_equal(site.constant.first(100), weight.reshape(-1)[:100])
            assert np.array_equal(site.constant.first(1 << 30), weight.reshape(-1))
