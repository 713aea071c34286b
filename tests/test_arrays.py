"""What is done to arrays of either kind: numpy's result, of the kind and where they are."""

from __future__ import annotations

import hashlib
from itertools import combinations

import array_api_strict as strict
import numpy as np
import pytest
import scipy.linalg

from mlpass import arrays

torch = pytest.importorskip("torch")
VALUES = np.random.default_rng(0).standard_normal((2, 5, 5), np.float32)
UPPER = np.triu(VALUES) + np.eye(5, dtype=np.float32) * 9
KINDS = {"numpy": np.asarray, "torch": torch.from_numpy, "strict": strict.asarray}


@pytest.fixture(params=KINDS, ids=str)
def make(request):
    kind = KINDS[request.param]
    return lambda values: kind(values.copy())


def test_values_go_to_the_kind_of_others(make):
    like = make(VALUES)
    for other in KINDS.values():
        found = arrays.placed(other(VALUES.copy()), like)
        assert type(found) is type(like)
        assert np.array_equal(arrays.host(found), VALUES)
    readonly = VALUES.copy()
    readonly.flags.writeable = False
    assert np.array_equal(arrays.host(arrays.placed(readonly, like)), VALUES)


def test_values_are_cast_to_the_dtype_of_others(make):
    for dtype in (np.float32, np.float64):
        like = make(VALUES.astype(dtype))
        found = arrays.cast_like(VALUES, like)
        assert found.dtype == like.dtype and type(found) is type(like)
    wide = arrays.in_fp32(make(VALUES.astype(np.float64)))
    assert arrays.host(wide).dtype == np.float32
    assert arrays.host(arrays.double(make(VALUES))).dtype == np.float64


def test_halves_are_rounded_as_numpy_does():
    assert np.array_equal(
        arrays.cast_like(VALUES, np.empty(0, np.float16)), VALUES.astype(np.float16)
    )


def test_bfloat16_comes_to_numpy_as_fp32():
    assert arrays.host(torch.ones(3, dtype=torch.bfloat16)).dtype == np.float32


def test_what_is_made_is_numpys(make):
    given, keep = make(VALUES), make(VALUES > 0)
    rows = VALUES[:, 0]
    swapped = VALUES.copy()
    swapped[:, range(5), range(5)] = rows
    for found, wanted in (
        (arrays.masked(given, keep), np.where(VALUES > 0, VALUES, 0)),
        (arrays.ratio(1, given), np.where(VALUES > 0, 1 / VALUES, 0)),
        (arrays.diagonals(given), np.einsum("gii->gi", VALUES)),
        (arrays.with_diagonals(given, make(rows)), swapped),
        (arrays.row_dots(given, given), np.sum(VALUES**2, axis=-1)),
        (arrays.reshaped(given, (10, 5)), VALUES.reshape(10, 5)),
        (arrays.permuted(given, (2, 0, 1)), VALUES.transpose(2, 0, 1)),
        (arrays.numbered(given, 4), np.arange(4)),
        (arrays.zeros(given, (2, 3)), np.zeros((2, 3))),
        (arrays.triangular_inverse(make(UPPER)), np.linalg.inv(UPPER)),
    ):
        assert type(found) is type(given)
        np.testing.assert_allclose(arrays.host(found), wanted, rtol=1e-4, atol=1e-6)
    assert arrays.total(given) == pytest.approx(VALUES.sum(dtype=np.float64), abs=1e-5)
    assert arrays.largest(given) == np.abs(VALUES).max()
    assert arrays.largest(make(VALUES[:0])) == 0
    assert arrays.limit_of(given) == np.finfo(np.float32).max
    assert arrays.inner(VALUES, given) == pytest.approx(float(np.sum(VALUES**2)), rel=1e-5)
    assert arrays.empty_like(given, (2, 3)).shape == (2, 3)
    assert arrays.host(arrays.empty_like(given, (2,), mask=True)).dtype == bool


@pytest.mark.parametrize("columns", [1, 32, 33, 71, 128])
def test_triangles_of_any_size_are_inverted(make, columns):
    rng = np.random.default_rng(columns)
    upper = np.triu(rng.standard_normal((2, columns, columns), np.float32) * 0.1) + np.eye(columns)
    found = arrays.host(arrays.triangular_inverse(make(upper.astype(np.float32))))
    for each, triangle in zip(found, upper, strict=True):
        wanted = scipy.linalg.solve_triangular(triangle, np.eye(columns))
        np.testing.assert_allclose(each, wanted, rtol=1e-3, atol=1e-5)
        assert not np.tril(each, -1).any()


def test_a_copy_is_of_its_own(make):
    given = make(VALUES)
    copy = arrays.copied(given)
    copy[0, 0, 0] = 7
    assert float(given[0, 0, 0]) == VALUES[0, 0, 0] != 7


def test_products_are_added_in_place(make):
    target = make(VALUES)
    arrays.add_product(target, make(VALUES), make(VALUES))
    np.testing.assert_allclose(arrays.host(target), VALUES + VALUES @ VALUES, rtol=1e-4, atol=1e-5)


def test_factors_tell_which_have_none(make):
    good = VALUES @ VALUES.swapaxes(1, 2) + np.eye(5, dtype=np.float32)
    lower, failed = arrays.cholesky(make(good))
    assert not arrays.host(failed).any()
    np.testing.assert_allclose(arrays.host(lower), np.linalg.cholesky(good), rtol=1e-3, atol=1e-4)
    assert arrays.host(arrays.cholesky(make(-good))[1]).all()


def test_sums_over_axes_are_those_of_numpy(make):
    values = make(VALUES)
    for axes in ((0,), (1,), (2,), (0, 2), (0, 1, 2)):
        for keep in (True, False):
            wanted = VALUES.sum(axis=axes, keepdims=keep)
            found = arrays.host(arrays.summed(values, axes, keep))
            np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
            assert found.shape == wanted.shape and found.dtype == np.float32


def test_a_long_sum_is_the_same_with_every_numpy():
    """Recorded with numpy 2.0, 2.2, 2.3 and 2.4, whose own sums of these differ."""
    values = np.random.default_rng(0).integers(-999, 999, (3, 140, 150)).astype(np.float32) / 997
    content = hashlib.sha256()
    for given in (values, values.astype(np.float64), values.T, values[:, ::-1, ::2]):
        for count in (1, 2, 3):
            for axes in combinations(range(3), count):
                found = arrays.host(arrays.summed(given, axes))
                exact = given.sum(axis=axes, keepdims=True, dtype=np.float64)
                np.testing.assert_allclose(found, exact, rtol=1e-5, atol=1e-3)
                content.update(found.tobytes())
        content.update(repr(arrays.total(given)).encode())
    assert content.hexdigest()[:16] == "fe822fc15b8fec9a"


def test_sums_of_integers_stay_integers():
    values = np.arange(30_000, dtype=np.int32)
    found = arrays.summed(values, (0,), False)
    assert found.dtype == np.int32 and int(found) == 30_000 * 29_999 // 2


def test_factors_are_copied_only_where_blas_does_not_take_them():
    square = np.zeros((2, 6, 6), np.float32)
    for taken in (square, square.mT, square[:, 1:, 2:4], square[0, 2:].T, square[0, 0]):
        assert arrays.as_factor(taken) is taken
    for other in (square[:, ::-1, ::-1], square[:, :, ::2]):
        found = arrays.as_factor(other)
        assert found.flags.c_contiguous and np.array_equal(found, other)
    tensor = torch.zeros(3, 3)
    assert arrays.as_factor(tensor) is tensor
