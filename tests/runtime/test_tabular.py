"""A pipeline's parts for tables, against their formulas, and what is run through them."""

from __future__ import annotations

import coremltools as ct
import numpy as np
import pytest
import scipy.special
import scipy.stats
from coremltools.converters.mil.mil import Builder as mb
from coremltools.models import datatypes
from coremltools.models.tree_ensemble import TreeEnsembleClassifier, TreeEnsembleRegressor

import mlpass
from mlpass import Config, Percentile, Regions
from mlpass.errors import CalibrationError, InputError, UnsupportedOpError
from mlpass.program.proto import Model
from mlpass.runtime.tabular import CLASSIFIERS, KERNELS, Tabular
from tests.runtime.programs import convert, program

RNG = np.random.default_rng(1)
WEIGHTS, OFFSETS, X = RNG.standard_normal((3, 4)), RNG.standard_normal(3), RNG.standard_normal(4)
SCORES = WEIGHTS @ X + OFFSETS
DOUBLES = 65600
HALF = Config(Percentile(0.5), weight_threshold=0)


def feature(message, name, size=None, kind=None):
    """Adds a feature: an array, or another kind of value."""
    made = message.add(name=name)
    if kind:
        getattr(made.type, kind).SetInParent()
        return
    made.type.multiArrayType.dataType = DOUBLES
    made.type.multiArrayType.shape.extend([size] if size else [])


def part(kind, outputs=(("y", None, None),), inputs=(("x", 4, None),), **fields):
    """The message of a part: lists and dictionaries are put into its fields."""
    model = Model(specificationVersion=5)
    message = getattr(model, kind)
    message.SetInParent()
    for name, value in fields.items():
        field = getattr(message, name) if not isinstance(value, float | int) else None
        if field is None:
            setattr(message, name, value)
        elif isinstance(value, dict):
            field.map.update(value)
        elif hasattr(field, "vector"):
            field.vector.extend(value)
        elif name == "weights":
            for row in value:
                field.add(value=row)
        else:
            field.extend(value)
    for name, size, other in inputs:
        feature(model.description.input, name, size, other)
    for name, size, other in outputs:
        feature(model.description.output, name, size, other)
    return model


def linear(kind, count=3, transform=0, labels=None, encoding=0):
    fields = {"weights": WEIGHTS[:count], "offset": OFFSETS[:count]}
    if labels is None:
        return part(kind, **fields, postEvaluationTransform=transform)
    label = "int64Type" if isinstance(labels[0], int) else "stringType"
    name = "int64ClassLabels" if isinstance(labels[0], int) else "stringClassLabels"
    outputs = (("label", None, label), ("sure", None, "dictionaryType"))
    model = part(kind, outputs, postEvaluationTransform=transform, **fields, **{name: labels})
    model.glmClassifier.classEncoding = encoding
    model.description.predictedFeatureName = "label"
    model.description.predictedProbabilitiesName = "sure"
    return model


def spec_of(builder):
    """A builder's message; what makes a vector of several features is not of it."""
    return Model.FromString(builder.spec.SerializeToString())


HOLED = np.array([1.0, np.nan, 3.0, np.nan])
DICT = (("x", None, "dictionaryType"),)
STRING, INTEGER = (("x", None, "stringType"),), (("x", None, "int64Type"),)
NUMBER = (("y", None, "doubleType"),)
CASES = {
    "linear": (linear("glmRegressor"), X, SCORES),
    "logistic": (linear("glmRegressor", transform=1), X, scipy.special.expit(SCORES)),
    "normal": (linear("glmRegressor", transform=2), X, scipy.stats.norm.cdf(SCORES)),
    "extractor": (part("arrayFeatureExtractor", extractIndex=[2, 0]), X, X[[2, 0]]),
    "extractor of one": (part("arrayFeatureExtractor", NUMBER, extractIndex=[3]), X, X[3]),
    "scaler": (
        part("scaler", shiftValue=[1.0, 2, 3, 4], scaleValue=[2.0]),
        X,
        2 * (X + np.arange(1, 5)),
    ),
    "shift alone": (part("scaler", shiftValue=[-1.0]), X, X - 1),
    "L1": (part("normalizer", normType=1), X, X / np.abs(X).sum()),
    "L2": (part("normalizer", normType=2), X, X / np.sqrt((X**2).sum())),
    "largest": (part("normalizer", normType=0), X, X / np.abs(X).max()),
    "zeros stay": (part("normalizer", normType=2), 0 * X, 0 * X),
    "imputer": (part("imputer", imputedDoubleValue=7.0), HOLED, [1, 7, 3, 7]),
    "imputer, by place": (
        part("imputer", imputedDoubleArray=[5.0, 6, 7, 8], replaceDoubleValue=float("nan")),
        HOLED,
        [1, 6, 3, 8],
    ),
    "imputer, of a number": (
        part("imputer", imputedDoubleValue=9.0, replaceDoubleValue=2.0),
        np.array([1.0, 2, 3, 2]),
        [1, 9, 3, 9],
    ),
    "one-hot": (
        part("oneHotEncoder", inputs=STRING, stringCategories=["a", "b", "c"]),
        "b",
        [0, 1, 0],
    ),
    "one-hot, unknown": (
        part("oneHotEncoder", inputs=INTEGER, int64Categories=[4, 7], handleUnknown=1),
        5,
        [0, 0],
    ),
    "dictionary": (
        part("dictVectorizer", inputs=DICT, stringToIndex=["a", "b", "c"]),
        {"c": 3.0, "a": 1.0, "z": 9.0},
        [1, 0, 3],
    ),
    "dictionary of ints": (
        part("dictVectorizer", inputs=DICT, int64ToIndex=[10, 20]),
        {20: 2.5},
        [0, 2.5],
    ),
    "categories": (
        part("categoricalMapping", (("y", None, "int64Type"),), STRING,
             stringToInt64Map={"cat": 3, "dog": 5}, int64Value=-1),
        "dog",
        5,
    ),
    "unknown category": (
        part("categoricalMapping", (("y", None, "int64Type"),), STRING,
             stringToInt64Map={"cat": 3}, int64Value=-1),
        "eel",
        -1,
    ),
    "identity": (part("identity"), X, X),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_each_part_gives_what_its_formula_says(name):
    model, given, wanted = CASES[name]
    made = Tabular.of(model).run({"x": given, "other": 1})
    assert list(made) == ["y"]
    np.testing.assert_allclose(made["y"], wanted, rtol=1e-6)


def test_a_vectorizer_puts_features_in_their_order():
    inputs = (("a", 2, None), ("b", None, "doubleType"), ("c", None, "int64Type"))
    made = Tabular.of(part("featureVectorizer", inputs=inputs)).run(
        {"c": 7, "a": [1.0, 2.0], "b": np.array([0.5])}
    )
    np.testing.assert_array_equal(made["y"], [1, 2, 0.5, 7])


@pytest.mark.parametrize(
    ("count", "transform", "labels", "encoding", "wanted"),
    [
        (1, 0, ["no", "yes"], 0, scipy.special.expit([-SCORES[0], SCORES[0]])),
        (1, 1, [0, 1], 1, scipy.stats.norm.cdf([-SCORES[0], SCORES[0]])),
        (2, 0, [3, 5, 9], 0, scipy.special.softmax([0, *SCORES[:2]])),
        (3, 0, ["a", "b", "c"], 1, scipy.special.expit(SCORES) / scipy.special.expit(SCORES).sum()),
    ],
)  # fmt: skip
def test_linear_classifiers_give_a_label_and_its_probabilities(
    count, transform, labels, encoding, wanted
):
    model = linear("glmClassifier", count, transform, labels, encoding)
    made = Tabular.of(model).run({"x": X})
    assert made["label"] == labels[int(np.argmax(wanted))]
    assert list(made["sure"]) == labels
    np.testing.assert_allclose(list(made["sure"].values()), wanted, rtol=1e-6)


def grow(builder, width, trees=3):
    """Adds trees with all kinds of branches; returns what they give, as a function."""
    kinds = ["LessThanEqual", "LessThan", "GreaterThanEqual", "GreaterThan", "Equal", "NotEqual"]
    compare = [np.less_equal, np.less, np.greater_equal, np.greater, np.equal, np.not_equal]
    rows = []
    for tree in range(trees):
        places, rules = RNG.integers(0, 4, 3), RNG.integers(0, 6, 3)
        values, leaves = RNG.integers(-1, 2, 3) * 1.0, RNG.standard_normal((4, width))
        track = bool(tree % 2)
        for node in range(3):
            builder.add_branch_node(
                tree, 10 + node, int(places[node]), values[node],
                f"BranchOnValue{kinds[rules[node]]}",
                10 + 2 * node + 1, 10 + 2 * node + 2, missing_value_tracks_true_child=track,
            )  # fmt: skip
        for leaf in range(4):
            told = dict(enumerate(leaves[leaf])) if width > 1 else leaves[leaf][0]
            builder.add_leaf_node(tree, 13 + leaf, told)
        rows.append((places, rules, values, leaves, track))

    def score(x):
        total = np.zeros(width)
        for places, rules, values, leaves, track in rows:
            holds = [
                track if np.isnan(x[p]) else bool(compare[r](x[p], v))
                for p, r, v in zip(places, rules, values, strict=True)
            ]
            first = 0 if holds[0] else 1
            total += leaves[2 * first + (0 if holds[1 + first] else 1)]
        return total

    return score


VECTORS = [RNG.integers(-1, 2, 4).astype(float) for _ in range(20)] + [np.array([np.nan, 0, 1, -1])]


def test_trees_give_what_one_finds_by_walking_down():
    builder = TreeEnsembleRegressor([("x", datatypes.Array(4))], "y")
    builder.set_default_prediction_value(0.25)
    score = grow(builder, 1)
    for x in VECTORS:
        made = Tabular.of(spec_of(builder)).run({"x": x})
        np.testing.assert_allclose(made["y"], score(x)[0] + 0.25, rtol=1e-6)


@pytest.mark.parametrize(
    ("transform", "count", "width"),
    [
        ("Classification_SoftMax", 3, 3),
        ("NoTransform", 3, 3),
        ("Regression_Logistic", 2, 1),
        ("Classification_SoftMaxWithZeroClassReference", 3, 2),
    ],
)
def test_trees_of_classifiers(transform, count, width):
    labels = list("abc"[:count])
    builder = TreeEnsembleClassifier([("x", datatypes.Array(4))], labels, ("label", "sure"))
    builder.set_default_prediction_value([0.1] * width if width > 1 else 0.1)
    builder.set_post_evaluation_transform(transform)
    builder.tree_parameters.numPredictionDimensions = width
    score = grow(builder, width)
    for x in VECTORS:
        found = score(x) + 0.1
        wanted = {
            "NoTransform": found,
            "Classification_SoftMax": scipy.special.softmax(found),
            "Regression_Logistic": [
                1 - scipy.special.expit(found[0]),
                scipy.special.expit(found[0]),
            ],
            "Classification_SoftMaxWithZeroClassReference": scipy.special.softmax([0, *found]),
        }[transform]
        made = Tabular.of(spec_of(builder)).run({"x": x})
        assert made["label"] == labels[int(np.argmax(wanted))]
        np.testing.assert_allclose(list(made["sure"].values()), wanted, rtol=1e-6)


def broken_trees(branches):
    builder = TreeEnsembleRegressor([("x", datatypes.Array(4))], "y")
    for node, place, yes, no in branches:
        builder.add_branch_node(0, node, place, 0.5, "BranchOnValueLessThan", yes, no)
    return spec_of(builder)


MISFITS = {
    "is made by no part, and not given": (part("identity", inputs=(("other", 4, None),)), X),
    "'e' is not one of its categories": (
        part("oneHotEncoder", inputs=STRING, stringCategories=["a"]),
        "e",
    ),
    "'f' is not one of its categories": (
        part("categoricalMapping", inputs=STRING, stringToInt64Map={"a": 1}),
        "f",
    ),
    "must be of shape": (linear("glmRegressor"), X[:3]),
    "out of bounds": (part("arrayFeatureExtractor", extractIndex=[9]), X),
    "tells two classes apart": (linear("glmClassifier", 2, 1, ["a", "b", "c"]), X),
    "longer": (linear("glmClassifier", 3, 0, ["a", "b"]), X),
    "tree 0 must have one root. Got 2": (broken_trees([(0, 0, 8, 9), (1, 0, 8, 9)]), X),
    "a tree goes in circles": (broken_trees([(0, 0, 1, 1), (1, 0, 1, 1)]), X),
}


@pytest.mark.parametrize("text", MISFITS)
def test_what_does_not_fit_is_one_error(text):
    model, given = MISFITS[text]
    with pytest.raises(InputError, match=f"{model.WhichOneof('Type')}: .*{text}"):
        Tabular.of(model).run({"x": given})


def test_every_kind_has_a_case():
    run = {model.WhichOneof("Type") for model, *_ in CASES.values()}
    elsewhere = {"featureVectorizer", "treeEnsembleRegressor"}
    assert run | elsewhere == set(KERNELS)
    assert set(CLASSIFIERS) == {"glmClassifier", "treeEnsembleClassifier"}


def network(path):
    """A small network of 16 features, and its message."""
    rng = np.random.default_rng(2)
    hidden, last = (rng.standard_normal((n, 16)).astype(np.float32) for n in (16, 3))

    def build(z):
        z = mb.relu(x=mb.linear(x=z, weight=hidden, name="hidden"))
        return mb.linear(x=z, weight=last, name="scores")

    convert(program(build, (16,))).save(str(path))
    return next(path.rglob("*.mlmodel"))


def piped(path, before, after=()):
    """A package of a pipeline around that network."""
    spec_path = network(path)
    inner = Model.FromString(spec_path.read_bytes())
    whole = Model(specificationVersion=inner.specificationVersion)
    whole.pipeline.models.extend([*before, inner, *after])
    whole.pipeline.names.extend(str(n) for n in range(len(whole.pipeline.models)))
    whole.description.input.extend(before[0].description.input)
    whole.description.output.extend(whole.pipeline.models[-1].description.output)
    spec_path.write_bytes(whole.SerializeToString())
    ct.models.MLModel(str(path), skip_model_load=True)
    return path


SHIFT, SCALE = RNG.standard_normal(16), RNG.uniform(0.5, 2, 16)
BEFORE = [
    part("featureVectorizer", (("v", 16, None),), (("a", 12, None), ("b", 4, None))),
    part("scaler", (("z", 16, None),), (("v", 16, None),), shiftValue=SHIFT, scaleValue=SCALE),
]
SAMPLES = [{"a": RNG.standard_normal(12), "b": RNG.standard_normal(4)} for _ in range(40)]


def by_hand(sample):
    return ((np.r_[sample["a"], sample["b"]] + SHIFT) * SCALE).astype(np.float32)


def test_what_is_behind_them_is_predicted_compared_and_calibrated(tmp_path):
    path, plain = piped(tmp_path / "in.mlpackage", BEFORE), tmp_path / "plain.mlpackage"
    network(plain)
    prepared = [{"z": by_hand(sample)} for sample in SAMPLES]
    (one,), (other,) = (
        mlpass.Interpreter(model).predict(data[0]).values()
        for model, data in ((path, SAMPLES), (plain, prepared))
    )
    np.testing.assert_array_equal(one, other)
    outs = tmp_path / "a.mlpackage", tmp_path / "b.mlpackage"
    for model, data, out in zip((path, plain), (SAMPLES, prepared), outs, strict=True):
        report = mlpass.prune(model, out, HALF, sample_data=data, target="dense")
        assert all(layer.samples == len(SAMPLES) for layer in report.layers)
    first, second = (next(out.rglob("*.bin")).read_bytes() for out in outs)
    assert first == second
    compared = [
        mlpass.compare(*models, data).outputs[0].snr
        for models, data in (((path, outs[0]), SAMPLES), ((plain, outs[1]), prepared))
    ]
    assert compared[0] == compared[1] < 60
    assert mlpass.check(path, SAMPLES) is not None


def test_what_comes_after_them_is_predicted_alone(tmp_path):
    after = part("glmRegressor", (("y", None, "doubleType"),), (("scores", 3, None),),
                 weights=[[1.0, 2, 3]], offset=[0.5])  # fmt: skip
    path = piped(tmp_path / "in.mlpackage", BEFORE, [after])
    scores = mlpass.Interpreter(path, partial=True).predict(SAMPLES[0])
    assert list(scores) == ["scores"]
    made = mlpass.Interpreter(path).predict(SAMPLES[0])
    assert made["y"] == pytest.approx(scores["scores"] @ [1, 2, 3] + 0.5, rel=1e-5)


def test_a_sample_that_does_not_fit_them_is_named(tmp_path):
    path = piped(tmp_path / "in.mlpackage", BEFORE)
    samples = [*SAMPLES[:2], {"a": np.zeros(11), "b": np.zeros(4)}]
    with pytest.raises(CalibrationError, match="sample 2.*featureVectorizer: .*must be of shape"):
        mlpass.prune(path, tmp_path / "out.mlpackage", HALF, sample_data=samples)


def test_fine_tuning_refuses_them(tmp_path):
    path = piped(tmp_path / "in.mlpackage", BEFORE)
    text = "behind parts of kind featureVectorizer, scaler, which have no gradients"
    with pytest.raises(UnsupportedOpError, match=text):
        mlpass.prune(
            path,
            tmp_path / "out.mlpackage",
            HALF,
            sample_data=SAMPLES,
            tune=Regions(epochs=1),
        )
