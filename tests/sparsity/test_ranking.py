"""Which elements are outside the lowest of their group, against a stable sort."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mlpass.sparsity.ranking import outside_lowest


def expected(keys, n, m):
    """The mask of (outer, channels, inner) by sorting each group; of equals, the first goes."""
    outer, channels, inner = keys.shape
    groups = keys.reshape(outer, channels // m, m, inner)
    order = np.argsort(groups, axis=2, kind="stable")
    kept = np.empty(groups.shape, bool)
    np.put_along_axis(kept, order, np.arange(m)[:, None] >= n, axis=2)
    return kept.reshape(keys.shape)


@given(st.data())
def test_groups_of_any_size_with_ties(data):
    m = data.draw(st.integers(1, 13))
    n = data.draw(st.integers(0, m))
    shape = data.draw(st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 5)))
    highest = data.draw(st.sampled_from([1, 5, 60_000]))
    elements = st.integers(0, highest)
    keys = data.draw(hnp.arrays(np.uint16, (shape[0], shape[1] * m, shape[2]), elements=elements))
    assert np.array_equal(outside_lowest(keys, n, m), expected(keys, n, m))


@pytest.mark.parametrize("m", [2, 4, 8, 16, 31, 300])
@pytest.mark.parametrize("dtype", ["uint16", "uint32", "uint64"])
def test_every_count_of_zeros_in_large_groups(m, dtype):
    keys = np.random.default_rng(m).integers(0, 60_000, (1, 2 * m, 50)).astype(dtype)
    for n in {0, 1, m // 2, m - 1, m}:
        assert np.array_equal(outside_lowest(keys, n, m), expected(keys, n, m))
