"""Pipelines with a part that is not an ML Program: what runs, and what is said of the rest."""

from __future__ import annotations

from shutil import copytree

import coremltools as ct
import numpy as np
import pytest
from coremltools.converters.mil.mil import Builder as mb

import mlpass
from mlpass import Percentile, Regions
from mlpass.cli import main
from mlpass.errors import InputError, UnsupportedOpError
from mlpass.program.proto import Model
from mlpass.runtime.interpreter import Interpreter
from mlpass.runtime.suppression import pick_top
from tests.runtime.programs import convert, program

BOXES, CLASSES, SIZE = 12, 3, 64
RNG = np.random.default_rng(7)


def by_hand(confidence, boxes, radius, least, per_class):
    """The rule word by word, box against box."""
    order = sorted(range(len(boxes)), key=lambda one: (-max(confidence[one]), one))
    kept = []
    for one in order:
        if max(confidence[one]) < least:
            continue
        if any(
            overlap(boxes[one], boxes[other]) > radius
            and (not per_class or np.argmax(confidence[one]) == np.argmax(confidence[other]))
            for other in kept
        ):
            continue
        kept.append(one)
    return kept


def overlap(one, other):
    """Intersection over union, by counting the cells of a fine grid."""
    grid = np.arange(-1, 41) + 0.5

    def inside(box, axis):
        return np.abs(grid - box[axis]) < box[axis + 2] / 2

    first, second = (np.outer(inside(box, 0), inside(box, 1)) for box in (one, other))
    return (first & second).sum() / max(1, (first | second).sum())


def random_boxes(count, rng):
    """Boxes with corners on a grid of whole numbers, so that cells can be counted."""
    low = rng.integers(0, 20, (count, 2))
    size = rng.integers(1, 20, (count, 2))
    return np.concatenate([low + size / 2, size], axis=1)


@pytest.mark.parametrize("per_class", [False, True])
@pytest.mark.parametrize("radius", [0.0, 0.3, 0.5, 1.0])
def test_boxes_are_picked_as_one_would_by_hand(radius, per_class):
    rng = np.random.default_rng(3)
    for _ in range(20):
        boxes, confidence = random_boxes(15, rng), rng.random((15, CLASSES)).round(1)
        found = pick_top(confidence, boxes, radius, 0.6, per_class=per_class)
        assert found == by_hand(confidence, boxes, radius, 0.6, per_class)


def test_no_boxes_and_empty_boxes():
    nothing = pick_top(np.zeros((0, 2)), np.zeros((0, 4)), 0.5, 0.1, per_class=True)
    assert nothing == []
    flat = np.zeros((2, 4))
    assert pick_top(np.ones((2, 1)), flat, 0.5, 0.1, per_class=False) == [0, 1]


def suppression(rows=None):
    """A part as exporters of detectors write it: thresholds are not inputs of its own."""
    model = Model(specificationVersion=5)
    message = model.nonMaximumSuppression
    for place, (name, width) in enumerate((("confidence", CLASSES), ("coordinates", 4))):
        given, made = model.description.input.add(), model.description.output.add()
        given.name, made.name = f"raw_{name}", name
        for feature in (given, made):
            feature.type.multiArrayType.dataType = 65568
        sizes = made.type.multiArrayType.shapeRange.sizeRanges
        sizes.add(lowerBound=rows[0] if rows else 0, upperBound=rows[1] if rows else -1)
        sizes.add(lowerBound=width, upperBound=width)
        setattr(message, f"{name}InputFeatureName", given.name)
        setattr(message, f"{name}OutputFeatureName", made.name)
        setattr(message, ("iouThreshold", "confidenceThreshold")[place], (0.4, 0.5)[place])
    message.iouThresholdInputFeatureName = "iouThreshold"
    message.confidenceThresholdInputFeatureName = "confidenceThreshold"
    message.pickTop.perClass = True
    message.stringClassLabels.vector.extend("abc")
    return model


def detector(path, *after, before=()):
    """A package of a pipeline: a small detector, and other parts after or before it."""
    rng = np.random.default_rng(5)
    weights = [
        rng.standard_normal((n, SIZE)).astype(np.float32) for n in (SIZE, BOXES * 3, BOXES * 4)
    ]

    def build(x):
        x = mb.relu(x=mb.linear(x=x, weight=weights[0], name="hidden"))
        sure = mb.sigmoid(x=mb.linear(x=x, weight=weights[1] / 8))
        place = mb.exp(x=mb.linear(x=x, weight=weights[2] / 16))
        sure = mb.reshape(x=sure, shape=(BOXES, 3), name="raw_confidence")
        return sure, mb.reshape(x=place, shape=(BOXES, 4), name="raw_coordinates")

    convert(program(build, (1, SIZE))).save(str(path))
    spec_path = next(path.rglob("*.mlmodel"))
    inner = Model()
    inner.ParseFromString(spec_path.read_bytes())
    whole = Model(specificationVersion=inner.specificationVersion)
    whole.pipeline.models.extend([*before, inner, *after])
    whole.pipeline.names.extend(str(n) for n in range(len(whole.pipeline.models)))
    whole.description.input.extend(inner.description.input)
    for name in ("iouThreshold", "confidenceThreshold"):
        whole.description.input.add(name=name).type.doubleType.SetInParent()
    last = whole.pipeline.models[-1]
    whole.description.output.extend(last.description.output)
    spec_path.write_bytes(whole.SerializeToString())
    ct.models.MLModel(str(path), skip_model_load=True)  # coremltools takes it
    return path


def samples(count=6):
    return [{"x": RNG.standard_normal((1, SIZE)).astype(np.float32)} for _ in range(count)]


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    return detector(tmp_path_factory.mktemp("yolo") / "detector.mlpackage", suppression())


def raw_of(path, sample):
    return Interpreter(path, partial=True).predict(sample)


def test_the_interpreter_runs_the_suppression(pipeline):
    (sample,) = samples(1)
    raw = raw_of(pipeline, sample)
    for thresholds in ({}, {"iouThreshold": 0.1}, {"confidenceThreshold": np.array([0.7])}):
        made = Interpreter(pipeline).predict({**sample, **thresholds})
        radius = thresholds.get("iouThreshold", 0.4)
        least = float(np.squeeze(thresholds.get("confidenceThreshold", 0.5)))
        sure, boxes = raw["raw_confidence"], raw["raw_coordinates"]
        kept = pick_top(sure, boxes, radius, least, per_class=True)
        assert list(made) == ["confidence", "coordinates"]
        np.testing.assert_array_equal(made["confidence"], sure[kept])
        np.testing.assert_array_equal(made["coordinates"], boxes[kept])
    with pytest.raises(InputError, match="input 'iouThreshold': must be a number. Got 'much'"):
        Interpreter(pipeline).predict({**sample, "iouThreshold": "much"})


@pytest.mark.parametrize(("rows", "count"), [((2, 2), 2), ((20, 30), 20)])
def test_a_stated_number_of_boxes_is_cut_or_filled_with_zeros(tmp_path, rows, count):
    path = detector(tmp_path / "detector.mlpackage", suppression(rows))
    made = Interpreter(path).predict({**samples(1)[0], "confidenceThreshold": 0.0})
    assert made["confidence"].shape == (count, CLASSES)
    assert made["coordinates"].shape == (count, 4)
    if count > BOXES:
        assert not made["confidence"][BOXES:].any()


def test_predict_on_the_command_line(pipeline, tmp_path):
    inputs, output = tmp_path / "x.npz", tmp_path / "y.npz"
    np.savez(inputs, **samples(1)[0])
    assert main(["predict", str(pipeline), "--inputs", str(inputs), "-o", str(output)]) == 0
    with np.load(output) as written:
        assert set(written) == {"confidence", "coordinates"}


def test_what_comes_before_is_calibrated_compared_and_swept(pipeline, tmp_path):
    output, data = tmp_path / "out.mlpackage", samples(24)
    report = mlpass.prune(pipeline, output, Percentile(0.5), sample_data=data)
    solved = [layer for layer in report.layers if layer.samples == 24]
    assert len(solved) == 3
    assert all(layer.error_held <= layer.error_before_held for layer in solved)
    assert len(mlpass.inspect(pipeline).layers) == len(report.layers)
    compared = mlpass.compare(pipeline, output, data)
    assert [one.name for one in compared.outputs] == ["raw_confidence", "raw_coordinates"]
    assert all(0 < one.snr < 60 for one in compared.outputs)
    config = {"target_sparsity": 0.5, "method": "sparsegpt"}
    swept = mlpass.sweep(pipeline, data, [config], test_data=data, jobs=1)
    assert [one.snr for one in swept.trials[0].outputs] == pytest.approx(
        [one.snr for one in compared.outputs], abs=1e-6
    )


def with_optional_thresholds(pipeline, path):
    """The package as ultralytics exports it: its thresholds need not be given."""
    copytree(pipeline, path)
    spec_path = next(path.rglob("*.mlmodel"))
    spec = Model.FromString(spec_path.read_bytes())
    for each in spec.description.input[1:]:
        each.type.isOptional = True
    spec_path.write_bytes(spec.SerializeToString())
    return path


def test_a_budget_is_divided_by_what_the_programs_before_it_give(pipeline, tmp_path):
    path = with_optional_thresholds(pipeline, tmp_path / "in.mlpackage")
    out = tmp_path / "out.mlpackage"
    mlpass.prune(path, out, budget="0.5x", sample_data=samples(12))
    before, after = (
        sum(file.stat().st_size for file in each.rglob("*.bin")) for each in (path, out)
    )
    assert after <= before / 2
    assert ct.models.MLModel(str(out), skip_model_load=True).get_spec().pipeline.models


@pytest.mark.slow_but_every(2)
@pytest.mark.parametrize("more", [{}, {"iouThreshold": 0.3}])
def test_a_module_trains_the_programs_before_it(pipeline, tmp_path, more):
    path = with_optional_thresholds(pipeline, tmp_path / "in.mlpackage")
    data = [{**sample, **more} for sample in samples()]
    module = mlpass.finetune.to_module(path)
    assert [each.name for each in module.inputs] == ["x"]
    raw = raw_of(path, data[0])
    for name, made in module(**data[0]).items():
        np.testing.assert_allclose(made.detach(), raw[name], rtol=1e-4)
    with pytest.raises(InputError, match="there is no input 'y'"):
        module(**data[0], y=1)
    out = tmp_path / "out.mlpackage"
    tuned = mlpass.prune(path, out, Percentile(0.5), sample_data=data, tune=Regions(epochs=1))
    assert tuned.sparsity == pytest.approx(0.5, abs=0.01)


def strange():
    """A part that nothing here runs."""
    model = Model(specificationVersion=5)
    model.supportVectorRegressor.SetInParent()
    model.description.input.add(name="raw_confidence").type.multiArrayType.dataType = 65568
    model.description.output.add(name="score").type.doubleType.SetInParent()
    return model


def test_other_parts_are_refused_by_predictions_and_not_by_calibration(tmp_path):
    path = detector(tmp_path / "detector.mlpackage", strange())
    with pytest.raises(
        UnsupportedOpError, match="a pipeline with parts of kind supportVectorRegressor"
    ):
        Interpreter(path)
    assert set(raw_of(path, samples(1)[0])) == {"raw_confidence"}
    out = tmp_path / "out.mlpackage"
    report = mlpass.prune(path, out, Percentile(0.5), sample_data=samples())
    assert sum(layer.samples == 6 for layer in report.layers) == 3
    assert mlpass.compare(path, out, samples()).outputs[0].name == "raw_confidence"


def test_where_it_comes_first_nothing_can_be_run(tmp_path):
    path = detector(tmp_path / "detector.mlpackage", before=[strange()])
    with pytest.raises(
        UnsupportedOpError, match="a pipeline with parts of kind supportVectorRegressor"
    ):
        mlpass.prune(path, tmp_path / "out.mlpackage", Percentile(0.5), sample_data=samples())
    assert mlpass.prune(path, tmp_path / "out.mlpackage", Percentile(0.5)).sparsity > 0.4


@pytest.mark.parametrize("fallback", ["skip", "magnitude"])
def test_weights_behind_it_are_left_or_pruned_by_magnitude(fixtures, tmp_path, fallback):
    path = tmp_path / "digits.mlpackage"
    copytree(fixtures / "digits_pipeline.mlpackage", path)
    spec_path = next(path.rglob("*.mlmodel"))
    spec = Model()
    spec.ParseFromString(spec_path.read_bytes())
    first, second = (Model.FromString(part.SerializeToString()) for part in spec.pipeline.models)
    del spec.pipeline.models[:]
    spec.pipeline.models.extend([first, strange(), second])
    spec_path.write_bytes(spec.SerializeToString())
    image = {"image": np.zeros((1, 1, 28, 28), np.float32) + RNG.random((1, 1, 28, 28))}
    (name,) = [each.name for each in first.description.input]
    report = mlpass.prune(
        path,
        tmp_path / "out.mlpackage",
        Percentile(0.5),
        sample_data=[{name: image["image"].astype(np.float32)}],
        fallback=fallback,
    )
    behind = [layer for layer in report.layers if layer.op_type == "linear"]
    assert behind and any(layer.samples for layer in report.layers)
    for layer in behind:
        if fallback == "skip":
            assert layer.skipped == (
                "it is behind the pipeline's supportVectorRegressor, through which no sample is run"
            )
        else:
            assert layer.skipped is None and layer.method == "magnitude"
