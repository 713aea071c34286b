"""Norms of groups of scores, in a float type in which squares neither overflow nor vanish."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def norm_dtype(dtype: np.dtype[np.generic]) -> type[np.floating]:
    """Returns a float type in which the squares of `dtype` neither overflow nor vanish."""
    return np.float32 if dtype == np.float16 else np.float64


def widened(score: NDArray[np.generic]) -> NDArray[np.floating]:
    """Returns a copy of non-negative finite scores in the type of `norm_dtype`.

    An fp16 number is its bits, moved to where fp32 has them, times 2**112: the difference of the
    two exponent biases. It is as exact as a cast, and takes whole vectors at a time.
    """
    if score.dtype != np.float16:
        return score.astype(norm_dtype(score.dtype))
    bits = score.view(np.uint16).astype(np.uint32)
    bits <<= 13
    wide = bits.view(np.float32)
    wide *= np.float32(2.0**112)
    return wide


def mean_squares(values: NDArray[np.generic], block_size: int, out: NDArray[np.floating]) -> None:
    """Writes the mean square of every `block_size` neighbours along axis 1 to `out`."""
    out[:] = 0
    count = np.zeros(out.shape[1], out.dtype)
    for position in range(block_size):
        member = widened(values[:, position::block_size])
        np.multiply(member, member, out=member)
        out[:, : member.shape[1]] += member
        count[: member.shape[1]] += 1
    out /= count[:, None]
