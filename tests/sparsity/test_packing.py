"""Packing: unpack after pack is the identity, and coremltools reads the same mask."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mlpass import parallel
from mlpass.sparsity.packing import mask_part, pack, unpack, zero_out


@given(st.data())
def test_unpack_after_pack_is_the_pruned_weight(data):
    shape = data.draw(hnp.array_shapes(min_dims=1, max_dims=5, max_side=6))
    dtype = data.draw(st.sampled_from([np.float16, np.float32]))
    weight = data.draw(hnp.arrays(dtype, shape, elements=st.floats(-4, 4, width=16)))
    keep = data.draw(hnp.arrays(bool, shape))
    expected = np.where(keep, weight, 0)
    mask, nonzero = pack(weight, keep.copy())
    assert np.array_equal(unpack(mask, nonzero, shape), expected)
    assert nonzero.size == np.count_nonzero(expected)
    assert mask.size == -(-weight.size // 8)


@given(st.lists(st.booleans(), min_size=1, max_size=40), st.data())
def test_any_part_of_a_mask_can_be_read(marks, data):
    start = data.draw(st.integers(0, len(marks)))
    stop = data.draw(st.integers(start, len(marks)))
    bits = np.packbits(marks, bitorder="little")
    assert mask_part(bits, start, stop).tolist() == marks[start:stop]


@pytest.mark.parametrize("threads", ["1", "2", "3"])
def test_slabs_and_threads_leave_no_seam(monkeypatch, threads):
    monkeypatch.setenv("MLPASS_THREADS", threads)
    monkeypatch.setattr(parallel, "SLAB", 1000)
    rng = np.random.default_rng(0)
    weight = rng.standard_normal(12_345).astype(np.float16)
    keep = rng.random(weight.size) > 0.4
    mask, nonzero = pack(weight, keep.copy())
    assert np.array_equal(nonzero, weight[keep & (weight != 0)])
    assert np.array_equal(unpack(mask, nonzero, weight.shape), np.where(keep, weight, 0))


def test_kept_values_are_bit_identical_and_negative_zero_is_a_zero():
    weight = np.array([1.5, -0.0, -3.0, 6e-8, 65504], np.float16)
    mask, nonzero = pack(weight, np.array([True, True, False, True, True]))
    assert nonzero.tobytes() == weight[[0, 3, 4]].tobytes()
    assert mask.tolist() == [0b11001]


def test_all_zero_packs_to_nothing():
    mask, nonzero = pack(np.zeros((3, 3), np.float32), np.ones((3, 3), bool))
    assert nonzero.size == 0
    assert mask.tolist() == [0, 0]
    assert np.array_equal(unpack(mask, nonzero, (3, 3)), np.zeros((3, 3)))


def test_the_mask_is_what_coremltools_decodes():
    from coremltools.optimize import _utils as peer

    rng = np.random.default_rng(0)
    weight = rng.standard_normal((7, 3, 5)).astype(np.float32)
    keep = rng.random(weight.shape) > 0.5
    mask, nonzero = pack(weight, keep.copy())
    params = peer.ios16_sparse_params_to_ios18(
        peer.SparseParamsIos16(nonzero_data=nonzero, mask=mask, shape=weight.shape)
    )
    decoded = peer.sparse_to_dense(params.nonzero_data, params.mask)
    assert np.array_equal(decoded, zero_out(weight, keep))


def test_zero_out_leaves_no_negative_zero_and_no_nan():
    weight = np.array([np.nan, -1.0, 2.0], np.float32)
    result = zero_out(weight, np.array([False, False, True]))
    assert result.tobytes() == np.array([0.0, 0.0, 2.0], np.float32).tobytes()


def test_a_mask_in_another_order_packs_alike():
    weight = np.random.default_rng(0).standard_normal((6, 5)).astype(np.float16)
    weight[:, 1] = 0  # kept, and zero: not stored
    keep = np.asfortranarray(weight > -1)
    bits, nonzero = pack(weight, keep)
    same_bits, same = pack(weight, np.ascontiguousarray(weight > -1))
    assert np.array_equal(bits, same_bits)
    assert np.array_equal(nonzero, same)
    assert not (nonzero == 0).any()
