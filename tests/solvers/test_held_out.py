"""Rows kept back decide how far few rows are trusted; all that is compared is worked out here."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mlpass.solvers.admm import ADMM
from mlpass.solvers.gram import Gram, accumulate
from mlpass.solvers.held_out import HeldOut, choose
from mlpass.solvers.solve import solve
from mlpass.solvers.sparsegpt import SparseGPT
from mlpass.solvers.wanda import Magnitude, Wanda
from mlpass.sparsity.layout import matrix_layout
from mlpass.sparsity.modes import NM, Block, Percentile, Threshold
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


HALF = Percentile(0.5)


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


@pytest.mark.slow_but_every(4)
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


@pytest.mark.slow_but_every(20)
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


def test_correlation_is_kept_where_few_rows_tell_it_and_let_go_where_they_do_not():
    weight = weight_of()
    strong, found = chosen(weight, inputs_of("strong", 32), Percentile(0.5), SparseGPT())
    assert (strong.method, strong.reason) == (SparseGPT(), None)
    assert strong.error < 0.5 * strong.before
    assert found.shrinkage == strong.shrinkage < 1
    whiter, _ = chosen(weight, inputs_of("white", 48), Percentile(0.5), ADMM())
    assert whiter.shrinkage == 1
    assert whiter.error <= whiter.before


@pytest.mark.parametrize("kind", ["white", "weak", "strong"])
def test_the_error_is_that_of_rows_kept_back_by_plain_numpy(kind):
    weight, rows = weight_of(), inputs_of(kind, 2048)
    choice, _ = chosen(weight, rows, NM(2, 4), ADMM())
    first = solve(weight, accumulate(None, rows[:-256]), NM(2, 4), method=choice.method).weight
    assert choice.shrinkage == 0
    assert choice.error == pytest.approx(unseen_error(weight, first, rows[-256:]), rel=1e-4)


def test_where_rows_are_plentiful_the_solve_is_as_asked():
    weight, rows = weight_of(), inputs_of("weak", 16 * COLUMNS)
    choice, found = chosen(weight, rows, NM(2, 4), ADMM())
    assert (choice.method, choice.shrinkage, choice.reason) == (ADMM(), 0, None)
    plain = solve(weight, accumulate(None, rows), NM(2, 4), method=ADMM())
    assert found.weight.tobytes() == plain.weight.tobytes()


def test_what_does_more_harm_than_magnitude_gives_way_to_it_however_many_rows():
    weight, rows = weight_of(), inputs_of("white", 64 * COLUMNS)
    choice, _ = chosen(weight, rows, Percentile(0.5), Wanda())  # ranks each row by itself
    assert choice.method == Magnitude()
    assert choice.reason == "not wanda: it loses no more on rows kept back"


def test_what_only_ranks_is_magnitude_where_one_sample_gives_few_rows():
    """Rows that are kept back of one sample are like its others: they say nothing of the next."""
    weight, rows, layout = weight_of(), inputs_of("strong", 48), matrix_layout(ROWS, COLUMNS)
    parts = parted(rows)
    options = {"method": Wanda(), "storage": None, "target": None, "layout": layout}
    several = choose(weight, parts, Percentile(0.5), **options)
    one = choose(weight, replace(parts, alone=True), Percentile(0.5), **options)
    assert several.method == Wanda() and several.error < several.before
    assert (one.method, one.error) == (Magnitude(), several.before)
    assert one.reason == "not wanda: one sample gives 48 rows for 64 columns"
    options["method"] = SparseGPT()  # makes up for what it prunes
    assert choose(weight, replace(parts, alone=True), Percentile(0.5), **options).reason is None


def test_a_sample_alone_in_which_inputs_are_silent_is_not_trusted():
    """What they would be needed for in other samples, its rows cannot tell, kept back or not."""
    weight, layout = weight_of(), matrix_layout(ROWS, COLUMNS)
    options = {"method": SparseGPT(), "storage": None, "target": None, "layout": layout}

    def reason(rows, silent, *, alone=True):
        rows = inputs_of("strong", rows)
        rows[:, :silent] *= 1e-3
        return choose(weight, replace(parted(rows), alone=alone), Percentile(0.5), **options).reason

    told = "not sparsegpt: 12% of its inputs are silent in the only sample"
    assert reason(128, 8) == told
    assert reason(128, 3) is None  # a few may be of no use to anyone
    assert reason(256, 8) is None
    assert reason(128, 8, alone=False) is None


def test_of_a_picture_alone_a_method_only_ranks():
    """However many places it has: they promise much, and other pictures know nothing of it."""
    weight, layout = weight_of(), matrix_layout(ROWS, COLUMNS)
    options = {"storage": None, "target": None, "layout": layout}

    def of(rows, method, mode=HALF, *, neighbours=True):
        parts = replace(parted(inputs_of("strong", rows)), alone=True, neighbours=neighbours)
        return choose(weight, parts, mode, method=method, **options)

    told = "not sparsegpt: places of a single picture are much alike"
    picture = of(32 * COLUMNS, SparseGPT())
    assert picture == of(32 * COLUMNS, Wanda())._replace(reason=told)
    assert picture.method == Wanda()
    tokens = of(32 * COLUMNS, SparseGPT(), neighbours=False)
    assert (tokens.method, tokens.reason) == (SparseGPT(), None)
    few = of(48, SparseGPT())
    assert (few.method, few.reason) == (Magnitude(), told)
    assert of(48, SparseGPT(), neighbours=False).reason is None
    assert of(32 * COLUMNS, SparseGPT(), Threshold(0.8)).method == SparseGPT()


def test_a_mode_without_a_target_keeps_its_method():
    choice, _ = chosen(weight_of(), inputs_of("white", 16), Threshold(0.8), SparseGPT())
    assert choice.method == SparseGPT()


@pytest.mark.parametrize("mode", [Percentile(0.5), NM(2, 4)], ids=str)
def test_of_a_large_weight_some_output_rows_tell_for_all(mode):
    weight, rows = weight_of(rows=1024), inputs_of("strong", 2048)
    choice, _ = chosen(weight, rows, mode, SparseGPT())
    first = solve(weight, accumulate(None, rows[:-256]), mode, method=SparseGPT()).weight
    assert choice.error == pytest.approx(unseen_error(weight, first, rows[-256:]), rel=0.25)


def test_a_storage_whose_tables_need_more_rows_is_tried_on_all():
    weight, rows = weight_of(rows=512), inputs_of("strong", 128)
    choice, _ = chosen(weight, rows, Percentile(0.5), SparseGPT(), Palette(bits=4, group_size=64))
    assert choice.error < choice.before


def test_rows_that_cannot_be_kept_back():
    weight, rows = weight_of(), inputs_of("white", 2)
    gram, layout = Gram(accumulate(None, rows)), matrix_layout(*weight.shape)
    options = {"storage": None, "target": None, "layout": layout}
    few = choose(weight, HeldOut(gram, None, 2, 0), NM(2, 4), method=SparseGPT(), **options)
    assert few.reason == (
        "not sparsegpt: none of its 2 input rows could be kept back, for 64 columns"
    )
    many = choose(weight, HeldOut(gram, None, 4096, 0), NM(2, 4), method=SparseGPT(), **options)
    assert (many.method, many.error) == (SparseGPT(), None)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_a_shrunk_gram_keeps_its_diagonal(share):
    gram = Gram(accumulate(None, inputs_of("weak", 32)))
    expected = gram.matrix * (1 - share)
    expected[0, range(COLUMNS), range(COLUMNS)] = gram.diagonal[0]
    np.testing.assert_allclose(gram.shrunk(share).matrix, expected, rtol=1e-5, atol=1e-6)
