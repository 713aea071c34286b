"""crop_resize and non_maximum_suppression of iOS15 and 16 in iOS17 and 18."""

from __future__ import annotations

import numpy as np
import pytest
from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.mil import types

from mlpass import UnsupportedOpError
from tests.program.opsets.raised import check, package_of, raise_to

rng = np.random.default_rng(0)
CORNERS = np.array([[0.1, 0.2, 0.7, 0.9], [0.5, 0, 1, 0.5], [0.9, 0.9, 0.1, 0.3]], np.float32)
HOW = {"target_height": 3, "target_width": 4, "normalized_coordinates": True}


@pytest.mark.parametrize("opset", [15, 16])
@pytest.mark.parametrize("images", [1, 2])
@pytest.mark.parametrize("computed", [False, True])
def test_boxes_cut_from_every_picture(computed, images, opset, tmp_path):
    roi = CORNERS.reshape(3, 1, 4, 1, 1)
    specs = [mb.TensorSpec((images, 2, 6, 7)), mb.TensorSpec(roi.shape)]

    def build(x, roi_in):
        return mb.crop_resize(x=x, roi=roi_in if computed else roi, **HOW, name="y")

    x = rng.standard_normal((images, 2, 6, 7)).astype(np.float32)
    old = package_of(tmp_path, build, specs, opset)
    for raised in (17, 18):
        found = check(old, {"x": x, "roi_in": roi}, raised)
        assert found.count("crop_resize") == 1


@pytest.mark.parametrize("opset", [15, 16])
def test_boxes_that_say_their_picture(opset, tmp_path):
    roi = np.concatenate([np.array([[0], [0], [0]]), CORNERS], 1).reshape(3, 1, 5, 1, 1)
    roi = roi.astype(np.float32)
    old = package_of(
        tmp_path,
        lambda x, roi: mb.crop_resize(x=x, roi=roi, **HOW, name="y"),
        [mb.TensorSpec((1, 2, 6, 7)), mb.TensorSpec(roi.shape)],
        opset,
    )
    check(old, {"x": rng.standard_normal((1, 2, 6, 7)).astype(np.float32), "roi": roi})


@pytest.mark.parametrize("mode", ["STRICT_ALIGN_CORNERS", "OFFSET_CORNERS", "UNALIGN_CORNERS"])
def test_a_value_to_pad_with_is_kept(mode, tmp_path):
    roi = (CORNERS + np.array([0, 0, 0.9, 0.8], np.float32)).reshape(3, 1, 4, 1, 1)
    old = package_of(
        tmp_path,
        lambda x: mb.crop_resize(
            x=x, roi=roi, **HOW, sampling_mode=mode, pad_value=np.float32(7), name="y"
        ),
        [mb.TensorSpec((1, 2, 6, 7))],
        16,
    )
    check(old, {"x": rng.standard_normal((1, 2, 6, 7)).astype(np.float32)})


def test_pictures_mirrored_beyond_their_edges_are_refused(tmp_path):
    roi = CORNERS.reshape(3, 1, 4, 1, 1)

    def build(x):
        return tuple(
            mb.crop_resize(x=x, roi=roi, **HOW, sampling_mode=mode, name=name)
            for name, mode in (("a", "UNALIGN_CORNERS"), ("b", "DEFAULT"), ("c", "UNALIGN_CORNERS"))
        )

    old = package_of(tmp_path, build, [mb.TensorSpec((1, 2, 6, 7))], 15)
    text = (
        r"cannot be raised to iOS16: crop_resize 'a': UNALIGN_CORNERS mirrors a picture beyond its "
        r"edges in iOS15 alone; crop_resize 'c': UNALIGN.*\. Convert its source again with "
        r"minimum_deployment_target=coremltools\.target\.iOS16"
    )
    with pytest.raises(UnsupportedOpError, match=text):
        raise_to(old, tmp_path / "new.mlpackage", 16)


@pytest.mark.parametrize("numbers", [0, 1, 3])
@pytest.mark.parametrize("where", [0, 2, 3])
def test_what_of_a_picture_must_be_known(numbers, where, tmp_path):
    from tests.program.packages import edit_spec, operations

    roi = np.zeros((3, 1, 4, 1, 1), np.float32)
    old = package_of(
        tmp_path,
        lambda x, roi: mb.crop_resize(x=x, roi=roi, **HOW, name="y"),
        [mb.TensorSpec((2, 2, 6, 7)), mb.TensorSpec(roi.shape)],
        16,
    )

    def edit(spec):
        (function,) = spec.mlProgram.functions.values()
        (named,) = [one for one in function.inputs if one.name == "roi"]
        (made,) = [one.outputs[0] for one in operations(spec) if one.type == "crop_resize"]
        place = {0: named, 2: named, 3: made}[where]
        place.type.tensorType.dimensions[{0: 0, 2: 2, 3: 2}[where]].unknown.SetInParent()

    edit_spec(old, edit)
    what = {
        0: "how many boxes or pictures it has",
        2: "how many numbers a box of its roi has",
        3: "how many channels its pictures have",
    }[where]
    with pytest.raises(UnsupportedOpError, match=f"crop_resize 'y': {what} is not known"):
        raise_to(old, tmp_path / "new.mlpackage", 17 + numbers % 2)


@pytest.mark.slow_but_every(4)
@pytest.mark.parametrize("per_class", [False, True])
@pytest.mark.parametrize("threshold", [-1.0, 0.3, 0.7, 5.0])
@pytest.mark.parametrize("opset", [15, 16])
def test_boxes_below_the_threshold_stay_out(opset, threshold, per_class, tmp_path):
    boxes = rng.uniform(0, 1, (2, 40, 4)).astype(np.float32) * [1, 1, 0.4, 0.4]
    scores = rng.uniform(0, 1, (2, 40, 3)).astype(np.float32)
    scores[1] *= 0.5  # its best are below a threshold that the other's are above

    def build(boxes, scores):
        return mb.non_maximum_suppression(
            boxes=boxes,
            scores=scores,
            iou_threshold=np.float32(0.2),
            score_threshold=np.float32(threshold),
            max_boxes=25,
            per_class_suppression=per_class,
            name="kept",
        )

    specs = [mb.TensorSpec(boxes.shape), mb.TensorSpec(scores.shape)]
    old = package_of(tmp_path, build, specs, opset)
    for raised in (17, 18):
        inputs = {"boxes": boxes.astype(np.float32), "scores": scores}
        assert check(old, inputs, raised).count("non_maximum_suppression") == 1


def test_half_precision(tmp_path):
    boxes = rng.uniform(0, 1, (1, 9, 4)).astype(np.float16)
    scores = rng.uniform(0, 1, (1, 9, 2)).astype(np.float16)

    def build(boxes, scores):
        kept, *rest = mb.non_maximum_suppression(
            boxes=boxes,
            scores=scores,
            iou_threshold=np.float16(0.3),
            score_threshold=np.float16(0.6),
            max_boxes=5,
        )
        return mb.identity(x=kept, name="y"), *rest

    specs = [mb.TensorSpec(one.shape, types.fp16) for one in (boxes, scores)]
    old = package_of(tmp_path, build, specs, 16)
    check(old, {"boxes": boxes, "scores": scores})
