"""Classifiers of every kind of label and naming, in all that runs a model."""

from __future__ import annotations

import json
import shutil

import coremltools as ct
import numpy as np
import pytest
from coremltools.converters.mil.mil import Builder as mb
from coremltools.models import MLModel

import mlpass
from mlpass import CalibrationError, Interpreter, Percentile, SparseGPT
from mlpass.blas import one_blas_thread
from mlpass.cli import main
from mlpass.examine.predict import predict_to_file
from mlpass.runtime.kernels.classify import classify
from tests.runtime.programs import convert

pytestmark = pytest.mark.filterwarnings("ignore:Implicitly cleaning up:ResourceWarning")

LABELS = {
    "int": [30, 1, 4, 10**12, -5],
    "zeros": [0, 1, 2, 3, 4],
    "digits": ["0", "1", "2", "3", "4"],
    "words": ["a", "", "c d", "é/ü", "x.labels"],
}
NAMES = [None, "label", "file", "x.labels", "é / ü", "p.npy"]
WEIGHT = np.random.default_rng(0).standard_normal((64, 48)).astype(np.float32)
HEAD = np.random.default_rng(1).standard_normal((5, 64)).astype(np.float32) / 4
SAMPLES = [
    {"x": one} for one in np.random.default_rng(2).standard_normal((12, 1, 48)).astype(np.float32)
]


def classifier(labels, name=None):
    @mb.program(input_specs=[mb.TensorSpec((1, 48))], opset_version=ct.target.iOS17)
    def built(x):
        hidden = mb.relu(x=mb.linear(x=x, weight=WEIGHT, name="hidden"))
        return mb.softmax(x=mb.linear(x=hidden, weight=HEAD), axis=-1, name="scores")

    return convert(built, classifier_config=ct.ClassifierConfig(labels, name))


def saved(folder, labels, name=None):
    path = folder / "classifier.mlpackage"
    classifier(labels, name).save(str(path))
    return path


def wanted_of(sample):
    """The probabilities as numpy computes them."""
    logits = np.maximum(sample["x"] @ WEIGHT.T, 0) @ HEAD.T
    powers = np.exp(logits - logits.max())
    return (powers / powers.sum())[0]


def assert_right(outputs, labels, label_name, probabilities_name):
    """Checks what `MLModel.predict` documents: the label, and a dict from labels to floats."""
    wanted = wanted_of(SAMPLES[0])
    kind = type(labels[0])
    label, probabilities = outputs[label_name], outputs[probabilities_name]
    assert type(label) is kind
    assert label == labels[int(wanted.argmax())]
    assert list(probabilities) == labels
    assert {type(key) for key in probabilities} == {kind}
    assert {type(value) for value in probabilities.values()} == {float}
    np.testing.assert_allclose(list(probabilities.values()), wanted, rtol=1e-4)


@pytest.mark.slow_but_every(2)
@pytest.mark.parametrize("backend", ["numpy", "torch"])
@pytest.mark.parametrize("kind", LABELS)
def test_a_prediction(tmp_path, kind, backend):
    path = saved(tmp_path, LABELS[kind])
    outputs = Interpreter(path, backend=backend).predict(SAMPLES[0])
    assert_right(outputs, LABELS[kind], "classLabel", "classLabel_probs")
    run = Interpreter(path, backend=backend).run(SAMPLES[0], ["classLabel", "classLabel_probs"])
    assert run == outputs


@pytest.mark.parametrize("kind", LABELS)
def test_a_program_gives_the_same(kind):
    program = classifier(LABELS[kind])._mil_program
    outputs = Interpreter(program).predict(SAMPLES[0])
    assert_right(outputs, LABELS[kind], "classLabel", "classLabel_probs")


def test_labels_of_every_form():
    scores = np.asarray([0.25, 0.75], np.float32)
    forms = [
        [np.asarray(3), np.asarray(7)],
        [np.int64(3), np.int64(7)],
        np.asarray([3, 7]),
        [3, 7],
    ]
    for form in forms:
        label, named = classify(np, probabilities=scores, classes=form)
        assert (label, named) == (7, {3: 0.25, 7: 0.75})
        assert {type(item) for item in (label, *named)} == {int}


@pytest.mark.slow_but_every(3)
@pytest.mark.parametrize("kind", ["int", "words"])
@pytest.mark.parametrize("name", NAMES)
def test_every_name(tmp_path, name, kind):
    path = saved(tmp_path, LABELS[kind], name)
    name = name or "classLabel"
    outputs = Interpreter(path).predict(SAMPLES[0])
    assert_right(outputs, LABELS[kind], name, f"{name}_probs")
    inputs, output = tmp_path / "x.npz", tmp_path / "y.npz"
    np.savez(inputs, **SAMPLES[0])
    predict_to_file(path, inputs, output)
    with np.load(output) as written:
        assert written[name] == outputs[name]
        probabilities = outputs[f"{name}_probs"]
        assert written[f"{name}_probs.labels"].tolist() == list(probabilities)
        assert written[f"{name}_probs"].tolist() == list(probabilities.values())
    (label, scores) = mlpass.compare(path, path, SAMPLES).outputs
    assert (label.name, label.top1, scores.top1, scores.max_error) == (name, 1.0, 1.0, 0.0)


@pytest.mark.parametrize("kept", ["both", "label", "probabilities"])
@pytest.mark.parametrize("named", [True, False])
def test_a_description_that_leaves_things_out(tmp_path, named, kept):
    source = classifier(LABELS["int"])
    spec = source.get_spec()
    if not named:
        spec.description.predictedFeatureName = ""
        spec.description.predictedProbabilitiesName = ""
    if kept != "both":
        del spec.description.output[1 if kept == "label" else 0]
    path = tmp_path / "less.mlpackage"
    MLModel(spec, weights_dir=source.weights_dir, skip_model_load=True).save(str(path))
    outputs = Interpreter(path).predict(SAMPLES[0])
    wanted = Interpreter(source).predict(SAMPLES[0])
    assert outputs == {name: wanted[name] for name in outputs}
    assert len(outputs) == (2 if kept == "both" else 1)
    assert len(mlpass.compare(path, path, SAMPLES).outputs) == len(outputs)


def test_an_output_may_have_the_name_of_another_s_labels(tmp_path):
    source = classifier(LABELS["int"], "p")
    spec = source.get_spec()
    (block,) = spec.mlProgram.functions["main"].block_specializations.values()
    block.operations[-1].outputs[0].name = block.outputs[0] = "p_probs.labels"
    spec.description.output[0].name = spec.description.predictedFeatureName = "p_probs.labels"
    renamed = tmp_path / "renamed.mlpackage"
    MLModel(spec, weights_dir=source.weights_dir, skip_model_load=True).save(str(renamed))
    inputs, output = tmp_path / "x.npz", tmp_path / "y.npz"
    np.savez(inputs, **SAMPLES[0])
    predict_to_file(renamed, inputs, output)
    outputs = Interpreter(renamed).predict(SAMPLES[0])
    with np.load(output) as written:
        assert written["p_probs.labels"] == outputs["p_probs.labels"]
        assert written["p_probs.labels_"].tolist() == LABELS["int"]
    report = mlpass.sweep(renamed, SAMPLES, [Percentile(0.5)])
    assert {record.name for record in report.trials[0].outputs} == set(outputs)


@pytest.mark.parametrize("kind", ["int", "words"])
def test_a_comparison_is_numpys(tmp_path, kind):
    labels = LABELS[kind]
    path, pruned = saved(tmp_path, labels), tmp_path / "pruned.mlpackage"
    options = {"method": SparseGPT(), "sample_data": SAMPLES}
    mlpass.prune(path, pruned, Percentile(0.8), **options)
    first, second = (
        [Interpreter(model).predict(one) for one in SAMPLES] for model in (path, pruned)
    )
    label, scores = mlpass.compare(path, pruned, SAMPLES).outputs
    same = [one["classLabel"] == two["classLabel"] for one, two in zip(first, second, strict=True)]
    assert label.top1 == scores.top1 == pytest.approx(np.mean(same))
    a, b = (
        np.array([[one["classLabel_probs"][label] for label in labels] for one in outputs])
        for outputs in (first, second)
    )
    assert scores.max_error == pytest.approx(np.abs(a - b).max())
    assert scores.snr == pytest.approx(10 * np.log10((a**2).sum() / ((a - b) ** 2).sum()))


def test_models_with_other_labels(tmp_path):
    one = saved(tmp_path, LABELS["zeros"])
    (tmp_path / "other").mkdir()
    for kind, shown in [("digits", "'0', '1', '2', '3', '4'"), ("int", "30, 1, 4")]:
        other = saved(tmp_path / "other", LABELS[kind])
        message = f"has the labels 0, 1, 2, 3, 4 in one model, {shown}"
        with pytest.raises(CalibrationError, match=message):
            mlpass.compare(one, other, SAMPLES)
        shutil.rmtree(other)


@pytest.mark.slow_but_every(2)
@pytest.mark.parametrize("kind", ["int", "words"])
def test_studies(tmp_path, kind):
    path = saved(tmp_path, LABELS[kind])
    report = mlpass.sweep(path, SAMPLES, [Percentile(0.5)], evaluate=right_labels)
    (trial,) = report.trials
    assert trial.failed is None
    compared = tmp_path / "compared.mlpackage"
    mlpass.prune(path, compared, Percentile(0.5))
    with one_blas_thread():  # as a trial runs
        assert trial.outputs == mlpass.compare(path, compared, SAMPLES).outputs
    assert report.value_before == 1.0
    out = tmp_path / "out.mlpackage"
    choice = mlpass.choose(
        path, out, sample_data=SAMPLES, min_snr=10.0, up_to="sparsegpt", evaluate=right_labels
    )
    assert choice.picked.snr >= 10
    assert mlpass.sensitivity(path, SAMPLES).layers


def right_labels(path):
    """The share of samples that get the label that the dense weights give in numpy."""
    interpreter = Interpreter(path)
    hits = []
    for sample in SAMPLES:
        outputs = interpreter.predict(sample)
        labels = list(outputs["classLabel_probs"])
        hits.append(outputs["classLabel"] == labels[int(wanted_of(sample).argmax())])
    return float(np.mean(hits))


@pytest.mark.parametrize("kind", ["int", "words"])
@pytest.mark.parametrize("name", [None, "é / ü"])
def test_fine_tuning(tmp_path, kind, name):
    from mlpass.finetune import finetune, to_module

    path, output = saved(tmp_path, LABELS[kind], name), tmp_path / "out.mlpackage"
    name = name or "classLabel"
    (scores,) = to_module(path)(x=SAMPLES[0]["x"]).items()
    assert scores[0] == f"{name}_probs"
    np.testing.assert_allclose(scores[1].detach().numpy()[0], wanted_of(SAMPLES[0]), rtol=1e-4)
    finetune(path, output, Percentile(0.5), SAMPLES, steps=4)
    made = Interpreter(output).predict(SAMPLES[0])
    assert list(made[f"{name}_probs"]) == LABELS[kind]
    assert type(made[name]) is type(LABELS[kind][0])
    finished = MLModel(str(output), skip_model_load=True).get_spec().description
    assert finished.predictedFeatureName == name


def test_the_commands(tmp_path, capsys):
    path, inputs, output = saved(tmp_path, LABELS["int"]), tmp_path / "x.npz", tmp_path / "y.npz"
    np.savez(inputs, **SAMPLES[0])
    assert main(["predict", str(path), "--inputs", str(inputs), "-o", str(output)]) == 0
    assert "classLabel ()" in capsys.readouterr().out
    stacked = tmp_path / "samples.npz"
    np.savez(stacked, x=np.stack([sample["x"] for sample in SAMPLES]))
    assert main(["compare", str(path), str(path), "--sample-data", str(stacked), "--json"]) == 0
    label, _ = json.loads(capsys.readouterr().out)["outputs"]
    assert (label["name"], label["top1"], label["snr"]) == ("classLabel", 1.0, None)
