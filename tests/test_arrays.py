"""What is done to arrays of either kind: numpy's result, of the kind and where they are."""

from __future__ import annotations

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
