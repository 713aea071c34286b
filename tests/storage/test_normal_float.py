"""Tables of normal floats, against those that coremltools carries."""

from __future__ import annotations

import numpy as np
import pytest

from mlpass.storage.normal_float import normal_float


def test_the_table_of_4_bits_is_coremltools_own():
    from coremltools.optimize.torch.layerwise_compression import _quant

    assert np.array_equal(normal_float(16), _quant._normal_float_palette[4].numpy())


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 6, 8])
def test_entries_ascend_to_1_by_way_of_0(bits):
    table = normal_float(1 << bits)
    assert table.dtype == np.float32 and table.size == 1 << bits
    assert np.all(np.diff(table) > 0) and table[-1] == 1
    assert np.count_nonzero(table == 0) == 1 and np.count_nonzero(table > 0) == table.size // 2
    assert bits == 1 or table[0] == -1


def test_entries_are_quantiles():
    from scipy.stats import norm

    outmost = (1 - 1 / 14 + 1 - 1 / 16) / 2
    above = norm.ppf(np.linspace(outmost, 0.5, 5)[:-1])
    assert np.allclose(normal_float(8)[4:], above[::-1] / above[0], atol=1e-5)
