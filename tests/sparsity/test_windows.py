"""Windows: all columns once, each window decided by its own mode, with the counts of the whole."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlpass.errors import NotApplicable
from mlpass.sparsity.layout import grouped_layout, matrix_layout, transposed_layout
from mlpass.sparsity.modes import NM, Block, Channel, Kernel, Percentile, Threshold
from mlpass.weights.ops.convolutions import conv_layout

LAYOUTS = [
    matrix_layout(12, 300),
    matrix_layout(7, 10),
    conv_layout((12, 20, 3, 3), 1),
    conv_layout((12, 10, 5), 2),
    conv_layout((12, 1, 3), 12),
]
MODES = [
    Threshold(1.0, 0.0),
    Percentile(0.37),
    Percentile(0.37, scope="row"),
    NM(2, 4),
    NM(1, 3),
    NM(2, 4, dim=0),
    Block(0.4, 4),
    Block(0.4, 4, dim=1),
    Kernel(0.4),
    Channel(0.4),
]


def score_for(layout):
    groups, rows, channels, positions = layout.sizes
    rng = np.random.default_rng(0)
    return np.abs(rng.standard_normal((groups, rows, channels * positions), np.float32))


def decided(mode, layout, width, score):
    """Returns the mask (groups, rows, columns) that the windows make together."""
    keep = np.zeros(score.shape, bool)
    for window in mode.windows(layout, width):
        part = np.ascontiguousarray(score[:, :, window.columns].swapaxes(1, 2))
        keep[:, :, window.columns] = window.mode.keep(part, window.layout).swapaxes(1, 2)
    return keep


def refusal(work):
    """Returns why a mode does not fit; None where it does."""
    try:
        work()
    except NotApplicable as error:
        return str(error)
    return None


@pytest.mark.parametrize("width", [1, 16, 128, 1000])
@pytest.mark.parametrize("mode", MODES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: str(layout.shape))
def test_windows_zero_as_many_as_the_whole(layout, mode, width):
    score = score_for(layout)
    refusals = [refusal(lambda: mode.keep(score, grouped_layout(layout)))]
    refusals.append(refusal(lambda: decided(mode, layout, width, score)))
    assert refusals[0] == refusals[1]
    if refusals[0]:
        return
    whole, keep = mode.keep(score, grouped_layout(layout)), decided(mode, layout, width, score)
    columns = np.concatenate([window.columns for window in mode.windows(layout, width)])
    assert np.array_equal(np.sort(columns), np.arange(score.shape[2]))
    if isinstance(mode, Block):  # short last blocks may be chosen differently
        assert abs(int(keep.sum()) - int(whole.sum())) <= 0.1 * keep.size
    else:
        assert keep.sum() == whole.sum()
    if isinstance(mode, NM | Threshold | Channel):  # nothing to divide: the very same mask
        assert np.array_equal(keep, whole)


@given(st.floats(0, 1), st.integers(1, 40), st.integers(1, 60), st.integers(1, 60))
def test_the_shares_of_windows_add_up(share, rows, columns, width):
    layout = matrix_layout(rows, columns)
    score = score_for(layout)
    keep = decided(Percentile(share), layout, width, score)
    assert np.count_nonzero(~keep) == math.floor(share * rows * columns)


@given(st.floats(0, 1), st.integers(1, 40), st.integers(1, 60))
def test_a_row_ranking_differs_by_at_most_one_from_row_to_row(share, rows, columns):
    score = score_for(matrix_layout(rows, columns))[0]
    keep = Percentile(share, scope="row").keep(score, matrix_layout(rows, columns))
    zeros = (~keep).sum(axis=1)
    assert zeros.sum() == math.floor(share * rows * columns)
    assert zeros.max() - zeros.min() <= 1
    for values, kept in zip(score, keep, strict=True):
        if 0 < kept.sum() < columns:
            assert values[~kept].max(initial=0) <= values[kept].min()


@pytest.mark.parametrize("share", [0.0, 0.253, 0.5, 0.75, 1.0])
@pytest.mark.parametrize("width", [1, 7, 16, 128])
@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: str(layout.shape))
def test_a_row_loses_over_all_windows_what_it_would_at_once(layout, width, share):
    score, mode = score_for(layout), Percentile(share, scope="row")
    zeros = (~decided(mode, layout, width, score)).sum(axis=2)
    assert np.array_equal(zeros, (~mode.keep(score, grouped_layout(layout))).sum(axis=2))
    assert zeros.max() - zeros.min() <= 1
    assert zeros.sum() == math.floor(share * score.size)
    if (share * score.shape[2]).is_integer():
        assert set(zeros.flat) == {int(share * score.shape[2])}


def test_a_row_ranking_needs_rows():
    with pytest.raises(NotApplicable, match="needs input and output channels"):
        Percentile(0.5, scope="row").keep(np.ones((4, 4), np.float32), None)


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: str(layout.shape))
def test_transposed_and_grouped_layouts_hold_the_same_matrix(layout):
    score = score_for(layout)
    grouped = grouped_layout(layout).split(score)
    swapped = transposed_layout(*layout.sizes).split(score.swapaxes(1, 2))
    assert np.array_equal(grouped, swapped)
    assert grouped.shape == layout.sizes
