"""Attention."""

from __future__ import annotations

import numpy as np

from mlpass.arrays import Array, Namespace, as_factor, host, summed
from mlpass.runtime.kernels.registry import kernel
from mlpass.runtime.kernels.windows import Floats

# Elements of attention scores that are held at once.
_SCORES = 1 << 21


@kernel("scaled_dot_product_attention", since=18)
def scaled_dot_product_attention(
    xp: Namespace, *, query: Array, key: Array, value: Array, attn_mask: Array | None = None
) -> Array:
    """query (..., L, E), key (..., S, E), value (..., S, V), attn_mask (..., L, S) -> (..., L, V).

    softmax(query key^T / sqrt(E) + mask) value; a mask of bools keeps where it is True. A query
    that may attend to nothing, as padding does, gets zeros: torch, which MIL refers to, gives that;
    the formula alone would give NaN, which every layer behind it would meet.
    """
    shape = (*query.shape[:-1], value.shape[-1])
    if 0 in shape or key.shape[-2] == 0:
        return xp.zeros(shape, dtype=query.dtype, device=query.device)
    query = query * (1.0 / query.shape[-1] ** 0.5)
    if xp is np:
        mask = None if attn_mask is None else host(attn_mask)
        return _in_parts(xp, host(query), host(key), host(value), mask)
    scores = xp.matmul(query, xp.matrix_transpose(key))
    if attn_mask is not None:
        scores = _masked(xp, scores, attn_mask)
    highest = xp.max(scores, axis=-1, keepdims=True)
    banned = highest == -xp.inf
    weights = xp.exp(scores - xp.where(banned, xp.zeros_like(highest), highest))
    sums = xp.sum(weights, axis=-1, keepdims=True)
    return xp.matmul(weights / xp.where(banned, xp.ones_like(sums), sums), value)


def _masked(xp: Namespace, scores: Array, mask: Array) -> Array:
    if xp.isdtype(mask.dtype, "bool"):
        return xp.where(mask, scores, xp.asarray(-xp.inf, dtype=scores.dtype))
    return scores + mask


def _in_parts(
    xp: Namespace, query: Floats, key: Floats, value: Floats, mask: Floats | None
) -> Floats:
    """Returns attention for numpy arrays, so many heads at a time that their scores stay small."""
    lead, (length, width) = query.shape[:-2], query.shape[-2:]
    source = key.shape[-2]
    if mask is not None:
        shape = (*lead, length, source)
        mask = np.broadcast_to(mask, shape).reshape(-1, length, source)
    query = query.reshape(-1, length, width)
    key = np.broadcast_to(key, (*lead, source, width)).reshape(-1, source, width)
    value = np.broadcast_to(value, (*lead, source, value.shape[-1])).reshape(
        -1, source, value.shape[-1]
    )
    query, key, value = (host(as_factor(each)) for each in (query, key, value))
    heads = query.shape[0]
    result = np.empty((heads, length, value.shape[-1]), query.dtype)
    step = max(1, _SCORES // max(1, length * source))
    for start in range(0, heads, step):
        part = slice(start, start + step)
        scores = np.matmul(query[part], key[part].swapaxes(-2, -1))
        if mask is not None:
            scores = host(_masked(xp, scores, mask[part]))
        highest = scores.max(axis=-1, keepdims=True)
        banned = highest == -np.inf
        highest[banned] = 0
        scores -= highest
        np.exp(scores, out=scores)
        sums = host(summed(scores, (scores.ndim - 1,)))
        sums[banned] = 1
        # The result is smaller than the scores: divided there.
        np.matmul(scores, value[part], out=result[part])
        result[part] /= sums
    return result.reshape(*lead, length, -1)
