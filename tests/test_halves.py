"""fp16 to fp32 and back, beside numpy's own casts."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from mlpass.halves import narrowed, widened

EVERY = np.arange(1 << 16, dtype=np.uint16).view(np.float16)


def same_bits(ours, wanted):
    assert ours.dtype == wanted.dtype and ours.shape == wanted.shape
    assert ours.tobytes() == wanted.tobytes()


def test_every_half_is_widened_like_numpy():
    same_bits(widened(EVERY), EVERY.astype(np.float32))


def test_every_half_comes_back():
    finite = EVERY[np.isfinite(EVERY)]
    same_bits(narrowed(widened(finite)), finite)


@pytest.mark.parametrize("sign", [1, -1])
def test_what_lies_between_halves_is_rounded_like_numpy(sign):
    finite = np.sort(EVERY[np.isfinite(EVERY) & (EVERY >= 0)]).astype(np.float32)
    ties = (finite[1:] + finite[:-1]) / 2
    near = [np.nextafter(ties, np.float32(end)) for end in (-np.inf, np.inf)]
    for values in (ties, *near):
        values = (sign * values).astype(np.float32)
        same_bits(narrowed(values), values.astype(np.float16))


def test_random_bits_are_rounded_like_numpy():
    bits = np.random.default_rng(0).integers(0, 0x7F800000, 1 << 20).astype(np.uint32)
    values = bits.view(np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numpy says that some overflow
        wanted = values.astype(np.float16)
    same_bits(narrowed(values), wanted)
    assert np.isinf(wanted).any() and (wanted == 0).any()


@pytest.mark.parametrize("special", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_cast_like_numpy(special):
    values = np.array([1.5, special, -0.0], np.float32)
    same_bits(narrowed(values), values.astype(np.float16))


@pytest.mark.parametrize("shape", [(), (0,), (3, 5), (4, 0, 2)])
def test_shapes_and_strides_are_kept(shape):
    values = np.random.default_rng(1).standard_normal(shape).astype(np.float16)
    same_bits(widened(values), np.asarray(values.astype(np.float32)))
    same_bits(widened(values.T), np.asarray(values.T.astype(np.float32)))
    wide = np.asarray(values.astype(np.float32))
    same_bits(narrowed(wide.T), np.asarray(wide.T.astype(np.float16)))


def test_other_floats_are_widened_as_ever():
    single, double = np.ones(3, np.float32), np.full(2, 0.1)
    assert widened(single) is single
    same_bits(widened(double), double.astype(np.float32))


def test_other_floats_are_narrowed_as_ever():
    half, double = np.ones(3, np.float16), np.full(2, 0.1)
    assert narrowed(half) is half
    same_bits(narrowed(double), double.astype(np.float16))
