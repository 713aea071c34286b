"""Rows kept back decide how far few rows are trusted; all that is compared is worked out here."""

from __future__ import annotations

import numpy as np
import pytest

from mlpass.solvers.admm import ADMM
from mlpass.solvers.gram import Gram, accumulate
from mlpass.solvers.held_out import HeldOut, choose
from mlpass.solvers.solve import solve
from mlpass.solvers.sparsegpt import SparseGPT
from mlpass.solvers.wanda import Magnitude, Wanda
from mlpass.sparsity.layout import matrix_layout
from mlpass.sparsity.modes import NM, Block, Percentile
from mlpass.storage.palette import Palette
from mlpass.storage.quantized import Quantized

ROWS, COLUMNS = 48, 64
METHODS = [SparseGPT(), SparseGPT(refit=True), ADMM(), Wanda(), Wanda(refit=True)]
MODES = [Percentile(0.5), NM(2, 4), Block(0.5, 4)]
COUNTS = [8, 16, 32, 64, 128, 256]


def mixing(kind, columns=COLUMNS):
    rng = np.random.default_rng(1)
    noise = rng.standard_normal((columns, columns))
    return {
        "white": np.eye(columns),
        "weak": np.eye(columns) + 0.5 * noise / np.sqrt(columns),
        "strong": noise / np.arange(1, columns + 1)[:, None],
    }[kind].astype(np.float32)


def inputs_of(kind, count, seed=0, columns=COLUMNS):
    rows = np.random.default_rng(seed).standard_normal((count, columns), np.float32)
    return rows @ mixing(kind, columns)


def weight_of(rows=ROWS, columns=COLUMNS):
    return np.random.default_rng(5).standard_normal((rows, columns), np.float32)


def parted(rows):
    """Returns what rows tell, the last eighth kept back."""
    count = max(1, len(rows) // 8)
    grams = [Gram(accumulate(None, part)) for part in (rows[:-count], rows[-count:])]
    return HeldOut(*grams, len(rows), count)


def chosen(weight, rows, mode, method, storage=None, layout=None):
    """Returns the choice, and what all rows are then solved with."""
    layout = layout or matrix_layout(*weight.shape)
    choice = choose(
        weight, parted(rows), mode, method=method, storage=storage, target=None, layout=layout
    )
    found = solve(
        weight,
        accumulate(None, rows),
        mode,
        method=choice.method,
        storage=storage,
        layout=layout,
        shrinkage=choice.shrinkage,
    )
    return choice, found


def unseen_error(weight, found, unseen):
    """Returns the relative error of outputs on other rows, in plain numpy."""
    change = (found.astype(np.float64) - weight) @ unseen.T
    return np.square(change).sum() / np.square(weight.astype(np.float64) @ unseen.T).sum()


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("kind", ["white", "weak", "strong"])
@pytest.mark.parametrize("mode", MODES, ids=str)
@pytest.mark.parametrize("method", METHODS, ids=str)
def test_few_rows_never_do_more_harm_than_magnitude(method, mode, kind, count):
    weight, rows = weight_of(), inputs_of(kind, count)
    unseen = inputs_of(kind, 4000, seed=9)
    _, found = chosen(weight, rows, mode, method)
    base = solve(weight, np.eye(COLUMNS, dtype=np.float32), mode, method=Magnitude()).weight
    assert unseen_error(weight, found.weight, unseen) <= 1.05 * unseen_error(weight, base, unseen)


@pytest.mark.parametrize("count", [8, 32, 64, 256])
@pytest.mark.parametrize("kind", ["white", "weak", "strong"])
@pytest.mark.parametrize("storage", [Quantized("int4"), Palette(bits=3)], ids=str)
@pytest.mark.parametrize("method", [SparseGPT(), ADMM(), Wanda()], ids=str)
def test_neither_do_they_on_a_grid(method, storage, kind, count):
    weight, rows = weight_of(), inputs_of(kind, count)
    unseen = inputs_of(kind, 4000, seed=9)
    _, found = chosen(weight, rows, Percentile(0.5), method, storage)
    eye = np.eye(COLUMNS, dtype=np.float32)
    base = solve(weight, eye, Percentile(0.5), method=Magnitude(), storage=storage).weight
    assert unseen_error(weight, found.weight, unseen) <= 1.05 * unseen_error(weight, base, unseen)
