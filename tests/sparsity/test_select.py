"""The exact k-th smallest, against a full sort."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mlpass.sparsity import select
from mlpass.sparsity.select import Cut, keep_above, keys_of, lowest, lowest_of_many


class Source:
    def __init__(self, keys):
        self.keys, self.size, self.reads = keys, keys.size, 0

    def __call__(self):
        self.reads += 1
        return self.keys


def expected(keys: np.ndarray, count: int) -> np.ndarray:
    """The keep mask by a stable sort: of equals, the first go first."""
    keep = np.ones(keys.size, bool)
    keep[np.argsort(keys, kind="stable")[:count]] = False
    return keep


floats = {
    "float16": st.floats(0, 65504, width=16),
    "float32": st.floats(0, 2.0**100, width=32),
}


@pytest.mark.parametrize("dtype", floats)
def test_keys_are_in_the_order_of_their_floats(dtype):
    @given(hnp.arrays(dtype, st.integers(2, 40), elements=floats[dtype]))
    def check(score):
        keys = keys_of(score)
        assert np.array_equal(np.sort(keys), keys_of(np.sort(score)))

    check()


@given(st.data())
def test_lowest_zeroes_exactly_count_with_ties_by_position(data):
    keys = data.draw(hnp.arrays(np.uint16, st.integers(1, 200), elements=st.integers(0, 12)))
    count = data.draw(st.integers(0, keys.size))
    keep, left = keep_above(keys, lowest(keys, count))
    assert np.array_equal(keep, expected(keys, count))
    assert left == 0


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("share", [0.0, 1e-5, 0.25, 0.5, 0.9, 0.99999, 1.0])
def test_large_arrays_narrow_to_the_same_cut(dtype, share):
    rng = np.random.default_rng(0)
    keys = keys_of(np.abs(rng.standard_normal(300_001)).astype(dtype))
    count = int(share * keys.size)
    keep, _ = keep_above(keys, lowest(keys, count))
    assert np.array_equal(keep, expected(keys, count))


@pytest.mark.parametrize(
    "keys",
    [
        np.zeros(200_000, np.uint16),
        np.full(200_000, 31743, np.uint16),
        np.repeat(np.array([5, 1, 3, 1], np.uint32), 50_000),
        np.tile(np.array([0, 2**31 - 1], np.uint32), 100_000),
        np.arange(200_000, dtype=np.uint32) * 10_000,
    ],
    ids=["zeros", "equal", "steps", "extremes", "ramp"],
)
@pytest.mark.parametrize("count", [0, 1, 99_999, 100_000, 150_001, 199_999, 200_000])
def test_freak_distributions(keys, count):
    keep, _ = keep_above(keys, lowest(keys, count))
    assert np.array_equal(keep, expected(keys, count))


@pytest.mark.parametrize("bracket", [(3, 4), (2**30, 2**30), (0, 2**32 - 1)])
def test_a_sample_that_misleads_costs_time_only(monkeypatch, bracket):
    monkeypatch.setattr(select, "_bracket", lambda *_: bracket)
    keys = np.random.default_rng(1).integers(0, 2**31, 100_000).astype(np.uint32)
    keep, _ = keep_above(keys, lowest(keys, 70_000))
    assert np.array_equal(keep, expected(keys, 70_000))


def test_many_sources_rank_as_one_and_are_read_a_few_times():
    rng = np.random.default_rng(2)
    sources = [
        Source(keys_of(np.abs(rng.standard_normal(size) * scale).astype(np.float32)))
        for size, scale in [(100_000, 1.0), (1, 5.0), (250_000, 0.1), (0, 1.0)]
    ]
    everything = np.concatenate([source.keys for source in sources])
    cut = lowest_of_many(sources, 200_000, everything.dtype)
    assert np.array_equal(keep_above(everything, cut)[0], expected(everything, 200_000))
    assert max(source.reads for source in sources) <= 2


def test_ties_that_are_left_are_told():
    keys = np.array([1, 1, 2], np.uint16)
    keep, left = keep_above(keys, Cut(1, 5))
    assert keep.tolist() == [False, False, True]
    assert left == 3
