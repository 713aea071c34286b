"""Calibrated pruning where not all is well: odd samples, odd weights, options that do not fit."""

from __future__ import annotations

import numpy as np
import pytest
from coremltools.converters.mil.mil import Builder as mb

import mlpass
from mlpass import NM, Config, Magnitude, Percentile, SparseGPT
from mlpass.errors import CalibrationError, ConfigError, ModelFormatError
from tests.calibrate.layers import METHODS, SIZE, samples, save, weights, weights_of
from tests.runtime.programs import FIXTURES, truth

RNG = np.random.default_rng(5)


@pytest.fixture
def branched(tmp_path):
    """A model of which one branch is never taken."""
    taken, left = weights(2)

    def build(x):
        return mb.cond(
            pred=mb.greater(x=mb.reduce_max(x=x, axes=[0, 1], keep_dims=False), y=-1e9),
            _true_fn=lambda: mb.linear(x=x, weight=taken, name="taken"),
            _false_fn=lambda: mb.linear(x=x, weight=left, name="left"),
        )

    return save(build, tmp_path)


def test_what_no_sample_reaches_is_skipped(branched, tmp_path):
    report = mlpass.prune(branched, tmp_path / "o.mlpackage", NM(2, 4), sample_data=samples(4))
    assert [layer.skipped for layer in report.layers] == [None, "no sample reaches it"]


def test_or_pruned_by_magnitude_where_that_is_asked_for(branched, tmp_path):
    out, free = tmp_path / "o.mlpackage", tmp_path / "free.mlpackage"
    report = mlpass.prune(branched, out, NM(2, 4), sample_data=samples(4), fallback="magnitude")
    assert [layer.method for layer in report.layers] == ["sparsegpt", "magnitude"]
    mlpass.prune(branched, free, NM(2, 4))
    np.testing.assert_array_equal(*(list(weights_of(path).values())[1] for path in (out, free)))


def test_of_several_functions_one_is_calibrated(tmp_path):
    path = FIXTURES / "multifunction_lm.mlpackage"
    inputs, _ = truth("multifunction_lm")
    names = mlpass.inspect(path).functions
    assert len(names) > 1
    interpreter = mlpass.Interpreter(path)
    sample = {feature.name: inputs[feature.name] for feature in interpreter.inputs}
    report = mlpass.prune(path, tmp_path / "o.mlpackage", Percentile(0.5), sample_data=[sample])
    assert any(layer.error is not None for layer in report.layers)


def test_a_weight_that_is_read_in_two_layouts_is_skipped(tmp_path):
    (tied,) = weights(1, SIZE, SIZE - 8)

    def build(x):
        weight = mb.const(val=tied, name="tied")
        return mb.linear(x=mb.matmul(x=x, y=weight), weight=weight)

    path = save(build, tmp_path)
    report = mlpass.prune(path, tmp_path / "o.mlpackage", NM(2, 4), sample_data=samples(2))
    assert "its readers meet inputs of different shapes" in report.layers[0].skipped
    mode = Percentile(0.5)
    out = tmp_path / "p.mlpackage"
    report = mlpass.prune(path, out, mode, sample_data=samples(2), fallback="magnitude")
    assert (report.layers[0].method, report.layers[0].sparsity) == ("magnitude", 0.5)


@pytest.mark.slow_but_every(2)
@pytest.mark.parametrize("method", METHODS, ids=str)
@pytest.mark.parametrize(
    ("kind", "rows"),
    [
        ("dead", np.zeros((8, SIZE))),
        ("constant", np.ones((8, SIZE))),
        ("one", RNG.standard_normal((8, SIZE))),
        ("huge", RNG.standard_normal((8, SIZE)) * 1e20),
        ("tiny", RNG.standard_normal((8, SIZE)) * 1e-20),
    ],
)
def test_odd_samples_give_finite_weights_of_the_wanted_sparsity(mlp, tmp_path, kind, rows, method):
    out = tmp_path / "o.mlpackage"
    sample = {"x": rows.astype(np.float32)}
    report = mlpass.prune(mlp, out, Percentile(0.5), method=method, sample_data=[sample])
    for layer in report.layers:
        assert layer.sparsity >= 0.5
        assert np.isfinite(layer.error)
    for weight in weights_of(out).values():
        assert np.isfinite(weight).all()
    safe = f"magnitude, not {method}: "
    none, few = safe + "no sample gives it an input", safe + "it loses no more on rows kept back"
    one = f"{safe}one sample gives {len(rows)} rows for {SIZE} columns"  # of what ranks alone
    expected = {none, one} if kind == "dead" else {str(method), few, one}
    assert report.layers[0].method in ({"magnitude"} if method == Magnitude() else expected)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_samples_with_nan_are_refused_with_sample_and_layer(mlp, tmp_path, bad):
    data = samples(4)
    data[2]["x"][0, 0] = bad
    out = tmp_path / "o.mlpackage"
    with pytest.raises(CalibrationError, match=r"hold NaN or inf\. \(sample 2, 'first'\)"):
        mlpass.prune(mlp, out, Percentile(0.5), sample_data=data)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.mlpackage"]


def test_activations_beyond_fp16_are_no_problem(tmp_path):
    first, second = weights(2)

    def build(x):
        return mb.linear(x=mb.linear(x=x, weight=first * 1e4), weight=second)

    path = save(build, tmp_path)
    data = [{"x": sample["x"] * 100} for sample in samples(8)]
    report = mlpass.prune(path, tmp_path / "o.mlpackage", Percentile(0.5), sample_data=data)
    assert all(0 < layer.error < 0.2 for layer in report.layers)


def test_weights_with_nan_are_skipped(tmp_path):
    broken, whole = weights(2)
    broken[3, 3] = np.nan

    def build(x):
        return mb.add(x=mb.linear(x=x, weight=whole), y=mb.linear(x=x, weight=broken))

    path = save(build, tmp_path)
    report = mlpass.prune(path, tmp_path / "o.mlpackage", Percentile(0.5), sample_data=samples(2))
    assert [layer.skipped for layer in report.layers] == [None, "it holds NaN or inf"]


def test_modes_that_zero_nothing_and_configs_are_obeyed(mlp, tmp_path):
    config = Config(
        global_config=Percentile(0.5),
        op_name_configs={"first": None, "second": Percentile(0.0)},
    )
    report = mlpass.prune(mlp, tmp_path / "o.mlpackage", config, sample_data=samples(2))
    first, second, third = (layer.skipped for layer in report.layers)
    assert first == "op_name_configs['first'] is None"
    assert second == "Percentile(0.0) zeroes nothing in it"
    assert third is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": SparseGPT()}, r"method: SparseGPT\(.*\) needs sample_data"),
        ({"method": "sparsegpt", "sample_data": []}, r"method: must be Magnitude\(\), Wanda"),
        ({"storage": "int5"}, "storage: must be one of int8, .* Got 'int5', did you mean"),
        (
            {"storage": {"quantize": "int4", "palettize": 4}},
            "quantize: does not go with palettize",
        ),
        ({"propagate": "both", "sample_data": [{}]}, "propagate: must be 'pruned' or 'dense'"),
        ({"fallback": "no", "sample_data": [{}]}, "fallback: must be 'skip' or 'magnitude'"),
        ({"allocate": "fair", "sample_data": [{}]}, "allocate: must be 'uniform' or 'owl'"),
        ({"max_nbytes": 9, "sample_data": [{}]}, "max_nbytes: needs allocate='error'"),
        ({"backend": "coreml", "sample_data": [{}]}, "backend: must be 'numpy' or 'torch'"),
    ],
    ids=str,
)
def test_options_that_do_not_go_together(mlp, tmp_path, options, message):
    with pytest.raises((ConfigError, CalibrationError), match=message):
        mlpass.prune(mlp, tmp_path / "o.mlpackage", Percentile(0.5), **options)


def test_every_sample_must_be_a_mapping(mlp, tmp_path):
    data = [*samples(1), samples(1)[0]["x"]]
    with pytest.raises(CalibrationError, match="must map input names to arrays. Got ndarray"):
        mlpass.prune(mlp, tmp_path / "o.mlpackage", Percentile(0.5), sample_data=data)


def test_an_allocation_needs_one_percentile(mlp, tmp_path):
    with pytest.raises(ConfigError, match="'owl' divides one target_sparsity"):
        mlpass.prune(
            mlp, tmp_path / "o.mlpackage", NM(2, 4), sample_data=samples(1), allocate="owl"
        )


def test_joint_results_need_ios18(mlp, tmp_path):
    with pytest.raises(
        ModelFormatError, match=r"quantize: int4 needs iOS18: .*; this model is iOS17"
    ):
        mlpass.prune(
            mlp, tmp_path / "o.mlpackage", NM(2, 4), sample_data=samples(1), storage="int4"
        )
