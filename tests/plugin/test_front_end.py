"""Packages that go through a conversion again: the front end that the plugin installs."""

from __future__ import annotations

import shutil

import coremltools as ct
import numpy as np
import pytest
from coremltools import PassPipeline
from coremltools.converters.mil.converter import mil_convert
from coremltools.models import MLModel

import mlpass
import mlpass.plugin
from mlpass import Percentile
from mlpass.errors import ConfigError, ModelFormatError
from tests.runtime.programs import truth

# coremltools leaves the directory of its weights to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:Implicitly cleaning up:ResourceWarning")


def reconverted(path, pipeline=None, **options):
    settings = {
        "convert_from": "mlpackage",
        "convert_to": "mlprogram",
        "compute_units": ct.ComputeUnit.CPU_ONLY,
        "main_pipeline": pipeline or PassPipeline.CLEANUP,
        "skip_model_load": True,
        **options,
    }
    return mil_convert(str(path), **settings)


@pytest.mark.slow_but_every(2)
@pytest.mark.usefixtures("_installed", "_swept")
@pytest.mark.parametrize("name", ["tiny_lm", "multifunction_lm"])
def test_a_finished_package_goes_through_a_pipeline_again(fixtures, tmp_path, name):
    source = fixtures / f"{name}.mlpackage"
    spec = MLModel(str(source), skip_model_load=True).get_spec()
    model = reconverted(
        source,
        mlpass.pipeline(Percentile(0.5), base=PassPipeline.CLEANUP),
        specification_version=spec.specificationVersion,
    )
    report = mlpass.prune(source, tmp_path / "pruned.mlpackage", Percentile(0.5))
    made = [(layer.name, layer.encoding, layer.zeros) for layer in mlpass.inspect(model).layers]
    assert sorted(made) == sorted((one.name, one.encoding, one.zeros) for one in report.layers)
    model.save(str(tmp_path / "again.mlpackage"))
    weights = "Data/com.apple.CoreML/weights/weight.bin"
    sizes = [
        (tmp_path / package / weights).stat().st_size
        for package in ("again.mlpackage", "pruned.mlpackage")
    ]
    assert sizes[0] <= 1.01 * sizes[1]  # weights of several functions are stored once
    inputs, _ = truth(name)
    ours, theirs = (
        mlpass.Interpreter(tmp_path / package).predict(inputs)
        for package in ("again.mlpackage", "pruned.mlpackage")
    )
    np.testing.assert_array_equal(ours["logits"], theirs["logits"])


@pytest.mark.usefixtures("_installed", "_swept")
@pytest.mark.parametrize("given", [None, 7])
def test_the_front_end_needs_the_specification_version(fixtures, given):
    text = "specification_version: must be 8 or more, which is that of .*tiny_lm.mlpackage. Got "
    with pytest.raises(ConfigError, match=f"{text}{given}"):
        reconverted(fixtures / "tiny_lm.mlpackage", specification_version=given)


def described(change):
    """A package whose description `change` has edited."""

    def make(fixtures, tmp_path):
        path = tmp_path / "edited.mlpackage"
        shutil.copytree(fixtures / "digits_ios15.mlpackage", path)
        model = path / "Data/com.apple.CoreML/model.mlmodel"
        spec = ct.proto.Model_pb2.Model.FromString(model.read_bytes())
        change(spec.description)
        model.write_bytes(spec.SerializeToString())
        return path

    return make


def flexible(description):
    feature = description.input[0].type
    feature.Clear()
    feature.multiArrayType.enumeratedShapes.shapes.add(shape=[1])


def optional(description):
    description.input[0].type.Clear()
    description.input[0].type.isOptional = True


@pytest.mark.usefixtures("_installed", "_swept")
@pytest.mark.parametrize(
    ("source", "what"),
    [
        (lambda fixtures, _: fixtures / "digits_classifier.mlpackage", "class labels"),
        (described(flexible), "a flexible shape, that of 'image'"),
        (described(optional), "an optional input, 'image'"),
        (
            described(lambda one: one.input[0].type.imageType.SetInParent()),
            "an image, 'image'",
        ),
    ],
)
def test_the_front_end_needs_descriptions_that_programs_do_not_have(
    fixtures, tmp_path, source, what
):
    path = source(fixtures, tmp_path)
    text = f"model_description: .* has {what}, which its program does not hold; pass model_de"
    with pytest.raises(ConfigError, match=text):
        reconverted(path, specification_version=9)


@pytest.mark.usefixtures("_installed", "_swept")
def test_a_given_description_is_kept(fixtures):
    path = fixtures / "digits_classifier.mlpackage"
    spec = MLModel(str(path), skip_model_load=True).get_spec()
    model = reconverted(
        path,
        specification_version=spec.specificationVersion,
        model_description=spec.description,
    )
    assert model.get_spec().description == spec.description
    inputs, _ = truth("digits_classifier")
    ours, theirs = (mlpass.Interpreter(one).predict(inputs) for one in (model, path))
    assert ours == theirs


@pytest.mark.usefixtures("_installed", "_swept")
def test_pipelines_of_models_are_refused(fixtures, tmp_path):
    path = next(p for p in fixtures.glob("*.mlpackage") if "pipeline" in p.name)
    with pytest.raises(ModelFormatError, match="is a pipeline of models; give the package of one"):
        reconverted(path, specification_version=9)
