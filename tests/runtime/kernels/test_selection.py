"""Ops that choose elements by value."""

import numpy as np
import pytest
import torch
from array_api_compat import torch as torch_namespace
from harness import Record, check, over, run

from mlpass.runtime.kernels.selection import non_maximum_suppression, topk

RNG = np.random.default_rng(0)
X = RNG.standard_normal((2, 5, 7)).astype(np.float32)
TIES = RNG.integers(0, 4, (3, 8)).astype(np.int32)


def sorted_places(x, axis=-1, ascending=False):
    """Returns the order of each line by Python's own sort, which is stable."""
    moved = np.moveaxis(x, axis, -1)
    out = np.zeros(moved.shape, np.int32)
    for place in np.ndindex(*moved.shape[:-1]):
        line = moved[place].tolist()
        out[place] = sorted(range(len(line)), key=lambda i: line[i] * (1 if ascending else -1))
    return np.moveaxis(out, -1, axis)


def top(x, k=1, axis=-1, ascending=False, return_indices=True, output_indices_dtype="int32", **_):
    places = sorted_places(x, axis, ascending)
    places = np.take(places, range(x.shape[axis] if k == -1 else k), axis)
    values = np.take_along_axis(x, places, axis)
    places = places.astype(output_indices_dtype)
    return (values, places) if return_indices else values


def boxes_of(n, count, seed, spread):
    """Returns (n, count, 4) boxes of centre and size; the wider the spread, the less overlap."""
    rng = np.random.default_rng(seed)
    centres, sizes = rng.uniform(0, spread, (n, count, 2)), rng.uniform(1, 8, (n, count, 2))
    return np.concatenate([centres, sizes], -1).astype(np.float32)


def overlap(a, b):
    area, shared = a[2] * a[3] + b[2] * b[3], 1.0
    for axis in (0, 1):
        high = min(a[axis] + a[axis + 2] / 2, b[axis] + b[axis + 2] / 2)
        low = max(a[axis] - a[axis + 2] / 2, b[axis] - b[axis + 2] / 2)
        shared *= max(0.0, high - low)
    return shared / (area - shared) if area > shared else 0.0


def suppressed(
    boxes, scores, iou_threshold, score_threshold, max_boxes, per_class_suppression=False
):
    n, _, classes = scores.shape
    out = (
        np.zeros((n, max_boxes, 4)),
        np.zeros((n, max_boxes, classes)),
        np.full((n, max_boxes), -1, np.int32),
        np.zeros(n, np.int32),
    )
    for batch in range(n):
        best, label = scores[batch].max(1), scores[batch].argmax(1)
        kept = []
        for box in sorted(range(len(best)), key=lambda i: -best[i]):
            rivals = [k for k in kept if not per_class_suppression or label[k] == label[box]]
            a = boxes[batch].astype(float)
            if (
                best[box] >= score_threshold
                and len(kept) < max_boxes
                and all(overlap(a[box], a[rival]) <= iou_threshold for rival in rivals)
            ):
                kept.append(box)
        kept = kept or [int(best.argmax())]
        out[0][batch, : len(kept)], out[1][batch, : len(kept)] = (
            boxes[batch, kept],
            scores[batch, kept],
        )
        out[2][batch, : len(kept)], out[3][batch] = kept, len(kept)
    return out


def suppressed_ios17(boxes, scores, iou_threshold, max_boxes, per_class_suppression=False):
    boxes, scores = boxes.transpose(0, 2, 1), scores.transpose(0, 2, 1)
    arguments = (iou_threshold, -np.inf, max_boxes, per_class_suppression)
    boxes, scores, kept, _ = suppressed(boxes, scores, *arguments)
    return boxes.transpose(0, 2, 1), scores.transpose(0, 2, 1), kept


BOXES = boxes_of(3, 20, 1, 20)
SCORES = RNG.uniform(-5, 5, (3, 20, 4)).astype(np.float32)

SORTS = [
    *(
        Record("argsort", {"x": x, "axis": axis, "ascending": ascending}, sorted_places, 13)
        for x, axis in [(X, -1), (X, 0), (TIES, 1), (TIES.astype(np.float32), -2)]
        for ascending in (False, True)
    ),
    Record("argsort", {"x": TIES}, sorted_places, 13, name="default"),
    *(
        Record("topk", {"x": x, "k": k, "axis": axis, "ascending": ascending}, top, 13)
        for x, k, axis in [(X, 3, -1), (X, 2, 0), (X, 4, 1), (TIES, 5, 1)]
        for ascending in (False, True)
    ),
    Record("topk", {"x": X}, top, 13, name="default"),
    Record("topk", {"x": X, "k": 2, "sort": False}, top, 16, name="unsorted is sorted, too"),
    Record("topk", {"x": X, "k": 2, "return_indices": False}, top, 16, name="values alone"),
    Record("topk", {"x": X, "k": -1, "axis": 1}, top, 17, name="all"),
    Record("topk", {"x": X, "k": 3, "output_indices_dtype": "uint16"}, top, 17, name="uint16"),
    Record("topk", {"x": X, "return_indices": False}, top, 18, name="values alone"),
    *(
        Record("topk", {"x": TIES.astype(dtype), "k": 3}, top, 17, name=dtype)
        for dtype in ("int8", "uint8", "int16", "uint16")
    ),
    Record("topk", {"x": np.asarray([3, 250, 0], np.uint8), "k": 2}, top, 17, name="above int8"),
    *(
        Record("non_zero", {"x": x}, np.argwhere(x).astype(np.int32), 13)
        for x in (TIES, TIES[0], TIES > 1, np.where(X > 0.5, X, 0), np.zeros((2, 3), np.float32))
    ),
]
BOX_RECORDS = [
    *(
        Record(
            "non_maximum_suppression",
            {
                "boxes": BOXES,
                "scores": SCORES,
                "iou_threshold": iou,
                "score_threshold": score,
                "max_boxes": most,
                "per_class_suppression": per_class,
            },
            suppressed,
            13,
            name=f"iou {iou}, score {score}, {most} boxes{', by class' if per_class else ''}",
        )
        for iou, score, most in [(0.3, 2.0, 6), (0.05, -9.0, 30), (0.9, 1.0, 20), (0.3, 99.0, 4)]
        for per_class in (False, True)
    ),
    *(
        Record(
            "non_maximum_suppression",
            {
                "boxes": BOXES.transpose(0, 2, 1),
                "scores": SCORES.transpose(0, 2, 1),
                "iou_threshold": iou,
                "max_boxes": most,
                "per_class_suppression": per_class,
            },
            suppressed_ios17,
            17,
            name=f"iou {iou}, {most} boxes{', by class' if per_class else ''}",
        )
        for iou, most in [(0.3, 6), (0.05, 30)]
        for per_class in (False, True)
    ),
    Record(
        "non_maximum_suppression",
        {
            "boxes": np.arange(4, dtype=np.float32).reshape(1, 4, 1) * np.ones(4, np.float32),
            "scores": np.asarray([[[-3.5], [9.4], [2.3], [0.7]]], np.float32),
            "iou_threshold": 0.2,
            "score_threshold": 0.4,
            "max_boxes": 2,
            "per_class_suppression": True,
        },
        (
            np.asarray([[[1.0] * 4, [2.0] * 4]]),
            np.asarray([[[9.4], [2.3]]]),
            np.asarray([[1, 2]]),
            np.asarray([2]),
        ),
        13,
        name="as Core ML shows",
    ),
    Record(
        "non_maximum_suppression",
        {
            "boxes": np.asarray([[[0] * 4, [0] * 4, [0, 0, 2, 2], [0, 0, 2, 2]]], np.float32),
            "scores": np.ones((1, 4, 1), np.float32),
            "iou_threshold": 0.5,
            "score_threshold": 1.0,
            "max_boxes": 4,
        },
        lambda boxes, scores, **_: (
            np.concatenate([boxes[:, :3], np.zeros((1, 1, 4))], 1),
            np.concatenate([scores[:, :3], np.zeros((1, 1, 1))], 1),
            np.asarray([[0, 1, 2, -1]]),
            np.asarray([3]),
        ),
        13,
        name="ties, no area, score at the threshold",
    ),
]


@over(SORTS + BOX_RECORDS)
def test_kernel(record, namespace):
    check(record, namespace)


def test_more_than_there_are():
    with pytest.raises(ValueError, match=r"k: must be in \[0, 7\], the size of axis -1. Got 8."):
        run("topk", {"x": X, "k": 8}, "numpy")


def test_gradients_of_the_largest():
    x = torch.from_numpy(X.copy()).requires_grad_()
    values, indices = topk(torch_namespace, x=x, k=3)
    values.sum().backward()
    expected = torch.zeros(X.shape).scatter(-1, indices.long(), 1.0)
    assert torch.equal(x.grad, expected)


def test_gradients_of_the_boxes_kept():
    boxes = torch.from_numpy(BOXES.transpose(0, 2, 1).copy()).requires_grad_()
    scores = torch.from_numpy(SCORES.transpose(0, 2, 1).copy()).requires_grad_()
    kept = non_maximum_suppression(
        torch_namespace, boxes=boxes, scores=scores, iou_threshold=0.3, max_boxes=4
    )
    (kept[0].sum() + kept[1].sum()).backward()
    for gradient in (boxes.grad, scores.grad):
        for batch in range(3):
            assert set(torch.nonzero(gradient[batch].sum(0)).reshape(-1).tolist()) == set(
                kept[2][batch].tolist()
            )
            assert float(gradient[batch].max()) == 1.0
