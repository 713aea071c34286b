"""Weights that nobody trained, by their numbers: bases of few samples, and of two directions."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from mlpass.plan.fixed import directions, is_wave_basis, spread

_FEWEST = 4  # rows that differ
_ROWS = 64  # that are looked at
_TOLERANCE = 4e-3  # of a norm; fp16 rounds off less
_EXACT = 1e-5  # of the cosine of an angle
_SHORTEST = 4  # samples in each of two directions
_MOST = 1 << 10  # samples of a plane: more are not seen as one


def is_mirrored_basis(matrix: NDArray[np.floating]) -> bool:
    """Returns whether rows at right angles are each their own mirror image, but for a sign.

    So are cosine transforms, of four samples too, and the integer ones of video. A row may come
    again, scaled at will.

    Args:
        matrix: (rows, samples), floats.
    """
    rows = directions(matrix[:_ROWS])
    if rows is None or matrix.shape[1] < _SHORTEST:
        return False
    turned = rows[:, ::-1]
    odd = np.minimum(np.abs(rows - turned).max(axis=1), np.abs(rows + turned).max(axis=1))
    products = np.abs(rows @ rows.T)
    apart, same = products <= _TOLERANCE, products >= 1 - _TOLERANCE
    if odd.max() > _TOLERANCE or not np.all(apart | same):
        return False
    return int(np.count_nonzero(~np.tril(same, -1).any(axis=1))) >= _FEWEST


def is_short_waves(matrix: NDArray[np.floating]) -> bool:
    """Returns whether each of its short rows is a wave of a cosine, sine or Fourier transform.

    The waves of so few samples are known one by one. Rows may be scaled at will.

    Args:
        matrix: (rows, samples), floats.
    """
    length = matrix.shape[1]
    rows = directions(matrix[:_ROWS])
    if rows is None or not _SHORTEST <= length < 2 * _SHORTEST:
        return False
    like = np.abs(rows @ _waves(length).T)
    return bool(like.max(axis=1).min() >= 1 - _EXACT) and len(_different(rows)) >= _FEWEST


@cache
def _waves(length: int) -> NDArray[np.float64]:
    """Returns the waves of all transforms of a number of samples, of norm 1."""
    samples, ends = np.arange(length), (1, 0.5, np.sqrt(0.5))
    turns = [
        np.outer(np.arange(half % 2, 2 * size + 1, 2), 2 * samples + late) * (np.pi / 4 / size)
        for size in (length - 1, length, length + 1)
        for half in (0, 1)
        for late in (0, 1, 2)
    ]
    waves = np.concatenate([wave(each) for each in turns for wave in (np.cos, np.sin)])
    windows = [np.r_[first, np.ones(length - 2), last] for first in ends for last in ends]
    found = directions(np.concatenate([waves * window for window in windows]))
    assert found is not None  # they are numbers, and many
    return found


def is_plane_waves(matrix: NDArray[np.floating]) -> bool:
    """Returns whether rows, read as planes, are waves in both directions: a flat 2-D transform.

    Of a cosine one each plane is a wave down times a wave across; of Fourier's, one frequency.

    Args:
        matrix: (rows, samples of a plane), floats.
    """
    length = matrix.shape[1]
    if length > _MOST or len(matrix) < _FEWEST:
        return False
    rows = directions(spread(matrix))
    if rows is None or len(_different(rows)) < _FEWEST:
        return False
    heights = (h for h in range(_SHORTEST, length // _SHORTEST + 1) if length % h == 0)
    return any(
        _are_products(rows[:_FEWEST].reshape(_FEWEST, height, -1))
        and _are_plane_waves(rows.reshape(len(rows), height, -1))
        for height in heights
    )


def _are_products(planes: NDArray[np.float64]) -> bool:
    """Returns whether planes may be waves: each is a product, or the sum of two."""
    return bool(np.linalg.svd(planes, compute_uv=False)[:, 2].max() <= _TOLERANCE)


def _are_plane_waves(planes: NDArray[np.float64]) -> bool:
    spectrum = np.sort(np.abs(np.fft.fft2(planes)).reshape(len(planes), -1) ** 2, axis=1)
    if np.all(spectrum[:, :-2].sum(axis=1) <= _TOLERANCE * spectrum.sum(axis=1)):
        return True
    down, sizes, across = np.linalg.svd(planes)
    if sizes[:, 1].max() > _TOLERANCE:
        return False
    return all(
        is_wave_basis(side) or is_mirrored_basis(side)
        for side in (_different(down[:, :, 0]), _different(across[:, 0]))
    )


def _different(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns the rows, of norm 1, that are not another again."""
    same = np.abs(rows @ rows.T) >= 1 - _TOLERANCE
    different: NDArray[np.float64] = rows[~np.tril(same, -1).any(axis=1)]
    return different
