"""Ops that choose elements by value: sorting, top k, the nonzero, boxes that do not overlap."""

from __future__ import annotations

from mlpass.arrays import Array, Namespace
from mlpass.runtime.kernels.indexing import stable_argsort, take_along
from mlpass.runtime.kernels.registry import kernel


@kernel("argsort")
def argsort(xp: Namespace, *, x: Array, axis: int = -1, ascending: bool = False) -> Array:
    """x (...) -> int32 indices (...) that sort it along axis; of equal elements the first first."""
    return xp.astype(stable_argsort(xp, x, axis, ascending), xp.int32)


@kernel("topk")
def topk_ios13(
    xp: Namespace, *, x: Array, k: int = 1, axis: int = -1, ascending: bool = False
) -> tuple[Array, Array]:
    """x (..., size, ...) -> the k largest (or smallest) of axis in order, their int32 indices."""
    values, indices = _topk(xp, x, k, axis, ascending)
    return values, xp.astype(indices, xp.int32)


@kernel("topk", since=16)
def topk_ios16(
    xp: Namespace,
    *,
    x: Array,
    k: int = 1,
    axis: int = -1,
    ascending: bool = False,
    sort: bool = True,
    return_indices: bool = True,
) -> tuple[Array, Array] | Array:
    """As in iOS13; values alone without `return_indices`. They are sorted in any case."""
    values, indices = _topk(xp, x, k, axis, ascending)
    return (values, xp.astype(indices, xp.int32)) if return_indices else values


@kernel("topk", since=17)
def topk(
    xp: Namespace,
    *,
    x: Array,
    k: int = 1,
    axis: int = -1,
    ascending: bool = False,
    sort: bool = True,
    return_indices: bool = True,
    output_indices_dtype: str = "int32",
) -> tuple[Array, Array] | Array:
    """As in iOS16; a k of -1 is all, indices are int32 or uint16."""
    values, indices = _topk(xp, x, k, axis, ascending)
    dtype = {"int32": xp.int32, "uint16": xp.uint16}[output_indices_dtype]
    return (values, xp.astype(indices, dtype)) if return_indices else values


@kernel("non_zero")
def non_zero(xp: Namespace, *, x: Array) -> Array:
    """x of some rank -> int32 (nonzero elements, rank): where they are, in row-major order."""
    return xp.astype(xp.stack(xp.nonzero(x), axis=-1), xp.int32)


@kernel("non_maximum_suppression")
def non_maximum_suppression_ios13(
    xp: Namespace,
    *,
    boxes: Array,
    scores: Array,
    iou_threshold: float,
    score_threshold: float,
    max_boxes: int,
    per_class_suppression: bool = False,
) -> tuple[Array, Array, Array, Array]:
    """boxes (n, b, 4), scores (n, b, k) -> those kept (n, max, 4), (n, max, k), (n, max), (n,).

    Boxes are x and y of the centre, width, height. The best come first; places left over hold
    zeros and the index -1. Where no score reaches the threshold, the best box is kept all the same.
    """
    kept = _suppress(
        xp,
        boxes,
        scores,
        iou_threshold,
        score_threshold,
        max_boxes,
        per_class_suppression,
    )
    indices = xp.astype(kept, xp.int32)
    counts = xp.sum(xp.astype(kept >= 0, xp.int32), axis=1, dtype=xp.int32)
    return _rows(xp, boxes, kept), _rows(xp, scores, kept), indices, counts


@kernel("non_maximum_suppression", since=17)
def non_maximum_suppression(
    xp: Namespace,
    *,
    boxes: Array,
    scores: Array,
    iou_threshold: float,
    max_boxes: int,
    per_class_suppression: bool = False,
) -> tuple[Array, Array, Array]:
    """boxes (n, 4, b), scores (n, k, b) -> those kept (n, 4, max), (n, k, max), (n, max)."""
    boxes, scores = xp.matrix_transpose(boxes), xp.matrix_transpose(scores)
    kept = _suppress(xp, boxes, scores, iou_threshold, None, max_boxes, per_class_suppression)
    boxes, scores = _rows(xp, boxes, kept), _rows(xp, scores, kept)
    return xp.matrix_transpose(boxes), xp.matrix_transpose(scores), xp.astype(kept, xp.int32)


def _topk(xp: Namespace, x: Array, k: int, axis: int, ascending: bool) -> tuple[Array, Array]:
    size = x.shape[axis]
    k = size if k == -1 else k
    if not 0 <= k <= size:
        raise ValueError(f"k: must be in [0, {size}], the size of axis {axis}. Got {k}.")
    order = stable_argsort(xp, x, axis, ascending)
    first: list[slice] = [slice(None)] * x.ndim
    first[axis] = slice(0, k)
    indices = order[tuple(first)]
    return take_along(xp, x, indices, axis), indices


def _rows(xp: Namespace, x: Array, kept: Array) -> Array:
    """x (n, b, c), kept (n, max) -> (n, max, c), zeros where kept is -1."""
    places = xp.where(kept >= 0, kept, xp.zeros_like(kept))[..., None]
    rows = take_along(xp, x, xp.broadcast_to(places, (*kept.shape, x.shape[-1])), 1)
    return xp.where(kept[..., None] >= 0, rows, xp.zeros_like(rows))


def _suppress(
    xp: Namespace,
    boxes: Array,
    scores: Array,
    iou_threshold: float,
    score_threshold: float | None,
    max_boxes: int,
    per_class: bool,
) -> Array:
    """Returns the indices (n, max_boxes) of the boxes kept, best first, -1 where there are no more.

    One step a box, for all of the batch at once: the best box left is kept, and those of its class
    that overlap it too much go.
    """
    best = xp.max(scores, axis=-1)
    order = stable_argsort(xp, best, 1, ascending=False)
    if score_threshold is not None:
        # The boxes come best first: leave out those that are below it in all of the batch.
        above = xp.sum(xp.astype(best >= score_threshold, xp.int32), axis=1, keepdims=True)
        order = order[:, : max(1, int(xp.max(above)))]
    labels = take_along(xp, xp.argmax(scores, axis=-1), order, 1)
    centres, sizes = _rows(xp, boxes[..., :2], order), _rows(xp, boxes[..., 2:], order)
    lows, highs = centres - xp.abs(sizes) / 2, centres + xp.abs(sizes) / 2
    areas = xp.prod(highs - lows, axis=-1)
    places = xp.arange(order.shape[1], dtype=xp.int64, device=order.device)[None, :]
    alive = xp.ones(order.shape, dtype=xp.bool, device=order.device)
    if score_threshold is not None:
        alive = (places < above) | (places == 0)
    kept: list[Array] = []
    while len(kept) < max_boxes and bool(xp.any(alive)):
        some = xp.any(alive, axis=1, keepdims=True)
        pick = xp.argmax(xp.astype(alive, xp.int32), axis=1, keepdims=True)
        shared = xp.minimum(highs, _rows(xp, highs, pick)) - xp.maximum(lows, _rows(xp, lows, pick))
        common = xp.prod(xp.where(shared > 0, shared, xp.zeros_like(shared)), axis=-1)
        union = areas + take_along(xp, areas, pick, 1) - common
        # Boxes without an area overlap nothing.
        overlap = common / xp.where(union > 0, union, xp.ones_like(union))
        gone = overlap > iou_threshold
        if per_class:
            gone = gone & (labels == take_along(xp, labels, pick, 1))
        alive = alive & ~gone & (places != pick)
        kept.append(xp.where(some, take_along(xp, order, pick, 1), xp.full_like(pick, -1)))
    left = max_boxes - len(kept)
    kept.append(xp.full((order.shape[0], left), -1, dtype=xp.int64, device=order.device))
    return xp.concat(kept, axis=1)
