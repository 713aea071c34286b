"""iOS17's `crop_resize` and `non_maximum_suppression`: how they take and give their boxes."""

from __future__ import annotations

import numpy as np

from mlpass.program.dtypes import BY_NAME
from mlpass.program.ir import Argument
from mlpass.program.opsets.building import Builder, Refused, dtype_of, shape_of

_KEPT = ("x", "target_height", "target_width", "normalized_coordinates", "spatial_scale")
_CROPPED = (*_KEPT, "box_coordinate_mode", "sampling_mode", "pad_value")
_SUPPRESSED = ("iou_threshold", "max_boxes", "per_class_suppression")


def pad_value(build: Builder) -> None:
    """crop_resize of iOS16: states what is beyond a picture, which was 0."""
    if "pad_value" in build.op.inputs:
        return
    build.again(pad_value=np.zeros((), BY_NAME[dtype_of(build.op.outputs[0])].numpy))


def mirrors(build: Builder) -> None:
    """crop_resize of iOS15, where nothing is stated of what is beyond a picture.

    Raises:
        Refused: it is mirrored there, which no later opset does.
    """
    if build.stated("sampling_mode", "DEFAULT") == "UNALIGN_CORNERS":
        raise Refused("UNALIGN_CORNERS mirrors a picture beyond its edges in iOS15 alone")


def crop_resize(build: Builder) -> None:
    """crop_resize of iOS17: boxes apart from the pictures that they are cut from.

    roi (boxes, 1, 4 or 5, 1, 1) -> boxes (boxes, 4), box_indices (boxes,); the result loses its
    axis of pictures, and gets it back.
    """
    (result,) = build.op.outputs
    _, images, channels, *size = shape_of(result)
    roi = build.input("roi")
    dtype, (count, _, numbers, *_) = dtype_of(roi), shape_of(roi)
    others = {name: build.input(name) for name in _CROPPED if name in build.op.inputs}
    rows: Argument
    if numbers == 5:  # the first says the picture
        rows = build.add("reshape", (dtype, (count, 5)), x=roi, shape=[-1, 5])
        first = build.add(
            "slice_by_index",
            (dtype, (count,)),
            x=rows,
            begin=[0, 0],
            end=[0, 1],
            end_mask=[True, False],
            squeeze_mask=[False, True],
        )
        chosen: object = build.add("cast", ("int32", (count,)), x=first, dtype="int32")
        boxes = build.add(
            "slice_by_index",
            (dtype, (count, 4)),
            x=rows,
            begin=[0, 1],
            end=[0, 5],
            end_mask=[True, False],
        )
    elif numbers == 4:  # each box is cut from every picture
        if images is None or count is None:
            raise Refused("how many boxes or pictures it has is not known")
        rows = build.add("reshape", (dtype, (count, 1, 4)), x=roi, shape=[count, 1, 4])
        rows = build.add("tile", (dtype, (count, images, 4)), x=rows, reps=[1, images, 1])
        boxes = build.add("reshape", (dtype, (count * images, 4)), x=rows, shape=[-1, 4])
        chosen = np.tile(np.arange(images, dtype=np.int32), count)
    else:
        raise Refused("how many numbers a box of its roi has is not known")
    total = shape_of(boxes)[0]
    made = (dtype_of(result), (total, channels, *size))
    crops = build.add("crop_resize", made, boxes=boxes, box_indices=chosen, **others)
    if numbers == 5 or images == 1:
        build.add("expand_dims", result, x=crops, axes=[1])
    elif channels is None:
        raise Refused("how many channels its pictures have is not known")
    else:
        build.add("reshape", result, x=crops, shape=[count, images, channels, *size])


def non_maximum_suppression(build: Builder) -> None:
    """non_maximum_suppression of iOS17: boxes along the last axis, and no threshold for scores.

    The best boxes come first and suppress the others, so those below the threshold are a tail of
    what is selected without it: it is blanked. The best box stays in any case.
    """
    boxes, scores, places, number = build.op.outputs
    batch, most, classes = shape_of(scores)
    kinds = dtype_of(boxes), dtype_of(scores)
    threshold = np.asarray(build.stated("score_threshold"), BY_NAME[kinds[1]].numpy)
    others = {name: build.input(name) for name in _SUPPRESSED if name in build.op.inputs}
    turned = {
        name: build.add(
            "transpose",
            (dtype_of(build.input(name)), (batch, width, shape_of(build.input(name))[1])),
            x=build.input(name),
            perm=[0, 2, 1],
        )
        for name, width in (("boxes", 4), ("scores", classes))
    }
    selected = build.several(
        "non_maximum_suppression",
        [
            (kinds[0], (batch, 4, most)),
            (kinds[1], (batch, classes, most)),
            ("int32", (batch, most)),
        ],
        **turned,
        **others,
    )
    kept_boxes = build.add("transpose", (kinds[0], (batch, most, 4)), x=selected[0], perm=[0, 2, 1])
    kept_scores = build.add(
        "transpose", (kinds[1], (batch, most, classes)), x=selected[1], perm=[0, 2, 1]
    )
    row = (batch, most)
    best = build.add("reduce_max", (kinds[1], row), x=kept_scores, axes=[-1], keep_dims=False)
    above = build.add("greater_equal", ("bool", row), x=best, y=threshold)
    first = np.arange(build.stated("max_boxes"))[None] == 0
    above = build.add("logical_or", ("bool", row), x=above, y=first)
    taken = build.add("greater_equal", ("bool", row), x=selected[2], y=0)
    stays = build.add("logical_and", ("bool", row), x=above, y=taken)
    column = build.add("expand_dims", ("bool", (batch, most, 1)), x=stays, axes=[-1])
    zeros = [np.zeros((), BY_NAME[kind].numpy) for kind in kinds]
    build.add("select", boxes, cond=column, a=kept_boxes, b=zeros[0])
    build.add("select", scores, cond=column, a=kept_scores, b=zeros[1])
    build.add("select", places, cond=stays, a=selected[2], b=-1)
    counted = build.add("cast", ("int32", row), x=stays, dtype="int32")
    build.add("reduce_sum", number, x=counted, axes=[-1], keep_dims=False)
