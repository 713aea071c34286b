"""Every calibrated run keeps some samples back, and few of them do no more harm than none."""

from __future__ import annotations

import json

import numpy as np
import pytest
from coremltools.converters.mil.mil import Builder as mb

import mlpass
from mlpass import ADMM, NM, Magnitude, Percentile, SparseGPT, Wanda
from tests.calibrate.layers import SIZE, samples, save, weights, weights_of

HALF = Percentile(0.5)


def white(count, rows=8, seed=3):
    rng = np.random.default_rng(seed)
    return [{"x": rng.standard_normal((rows, SIZE), np.float32)} for _ in range(count)]


def linear(tmp_path, rows=8):
    (weight,) = weights(1)
    return save(lambda x: mb.linear(x=x, weight=weight), tmp_path, (rows, SIZE)), weight


def relative(change, weight, rows):
    lost = np.square(rows @ change.T.astype(np.float64)).sum()
    return lost / np.square(rows @ weight.T.astype(np.float64)).sum()


@pytest.mark.parametrize("method", [Wanda(), SparseGPT(), ADMM()], ids=str)
@pytest.mark.parametrize("backend", ["numpy", "torch"])
def test_the_error_is_on_samples_that_a_first_solve_did_not_see(tmp_path, backend, method):
    path, weight = linear(tmp_path)
    data, out = samples(128), tmp_path / "o.mlpackage"
    report = mlpass.prune(path, out, HALF, method=method, sample_data=data, backend=backend)
    (layer,) = report.layers
    held = np.concatenate([data[place]["x"] for place in range(128) if place % 8 == 1])
    learnt = np.concatenate([data[place]["x"] for place in range(128) if place % 8 != 1])
    first = mlpass.solve(weight, learnt.T @ learnt, HALF, method=method).weight
    assert layer.error_held == pytest.approx(relative(first - weight, weight, held), rel=0.02)
    by_size = mlpass.solve(weight, np.eye(SIZE), HALF, method=Magnitude()).weight
    expected = relative(by_size - weight, weight, held)
    assert layer.error_before_held == pytest.approx(expected, rel=1e-3)
    # What is written is solved for on all of them.
    rows = np.concatenate([sample["x"] for sample in data])
    expected = mlpass.solve(weight, rows.T @ rows, HALF, method=method)
    assert layer.error == pytest.approx(expected.error, rel=0.02)
    (found,) = weights_of(out).values()
    assert ((found != 0) == expected.keep).mean() > 0.99
    assert (layer.shrinkage, layer.samples_wanted) == (0, None)
    text = str(report)
    assert f"{layer.error_held:.4f}" in text
    assert "errors are on samples that were kept back; weights are then solved for on all" in text
    (told,) = json.loads(json.dumps(report.to_dict()))["layers"]
    assert (told["error"], told["error_held"]) == (layer.error, layer.error_held)


def test_of_a_single_sample_the_last_quarter_of_its_rows_is_kept_back(tmp_path):
    path, weight = linear(tmp_path, rows=2048)
    (sample,) = samples(1, rows=2048)
    report = mlpass.prune(path, tmp_path / "o.mlpackage", HALF, sample_data=[sample])
    (layer,) = report.layers
    learnt, held = sample["x"][:1536], sample["x"][1536:]
    first = mlpass.solve(weight, learnt.T @ learnt, HALF, method=SparseGPT()).weight
    assert layer.error_held == pytest.approx(relative(first - weight, weight, held), rel=0.02)


@pytest.mark.slow_but_every(6)
@pytest.mark.parametrize("method", [Wanda(), SparseGPT(), SparseGPT(refit=True), ADMM()], ids=str)
@pytest.mark.parametrize("count", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("backend", ["numpy", "torch"])
def test_few_samples_do_no_more_harm_than_none(mlp, tmp_path, backend, count, method):
    dense, unseen = mlpass.Interpreter(mlp), white(100, seed=8)

    def harm(package):
        pruned = mlpass.Interpreter(package)
        (name,) = [feature.name for feature in pruned.outputs]
        pairs = [(pruned.predict(one)[name], dense.predict(one)[name]) for one in unseen]
        return sum(np.square(now - was).sum() for now, was in pairs)

    without, out = tmp_path / "a.mlpackage", tmp_path / "b.mlpackage"
    mlpass.prune(mlp, without, HALF)
    options = {"method": method, "sample_data": white(count), "backend": backend}
    mlpass.prune(mlp, out, HALF, **options)
    assert harm(out) <= 1.05 * harm(without)


def test_the_report_names_what_met_too_few_rows_and_how_many_samples_would_do(mlp, tmp_path):
    report = mlpass.prune(mlp, tmp_path / "o.mlpackage", HALF, sample_data=white(4))
    assert [layer.samples_wanted for layer in report.layers] == [32, 32, 32]  # 4 rows a column
    told = (
        "3 of 3 weights met fewer input rows than they have columns, first_weight_0 above all: "
        "what correlates in them is trusted less; about 32 samples would do for all"
    )
    assert told in str(report)
    assert any("damped" in str(report) or "magnitude" in one.method for one in report.layers)
    enough = mlpass.prune(mlp, tmp_path / "p.mlpackage", HALF, sample_data=samples(8))
    assert [layer.samples_wanted for layer in enough.layers] == [None, None, None]
    assert "would do for all" not in str(enough)
    free = mlpass.prune(
        mlp, tmp_path / "q.mlpackage", HALF, method=Magnitude(), sample_data=white(4)
    )
    assert all(layer.samples_wanted is None for layer in free.layers)


def test_a_single_row_leaves_nothing_to_keep_back(tmp_path):
    path, weight = linear(tmp_path, rows=1)
    out = tmp_path / "o.mlpackage"
    report = mlpass.prune(path, out, HALF, sample_data=white(1, rows=1))
    (layer,) = report.layers
    assert layer.method == (
        "magnitude, not sparsegpt: none of its 1 input rows could be kept back, for 64 columns"
    )
    assert layer.error_held is None
    assert "kept back; weights" not in str(report)
    (found,) = weights_of(out).values()
    np.testing.assert_array_equal(found[found != 0], weight[found != 0])


def test_a_table_whose_rows_are_gathered_is_judged_by_what_others_read(tmp_path):
    table = np.random.default_rng(1).standard_normal((64, 48)).astype(np.float32)

    def build(x):
        return mb.gather(x=table, indices=mb.cast(x=x, dtype="int32"), axis=0)

    rng = np.random.default_rng(0)
    data = [{"x": rng.integers(0, 16, 16).astype(np.float32)} for _ in range(64)]
    path = save(build, tmp_path, (16,))
    report = mlpass.prune(path, tmp_path / "o.mlpackage", HALF, sample_data=data)
    (layer,) = report.layers
    assert layer.samples_wanted is None
    assert 0 < layer.error_held < layer.error_before_held


@pytest.mark.slow_but_every(2)
@pytest.mark.parametrize("groups", [1, 2, 8])
def test_windows_of_convolutions_and_their_groups(tmp_path, groups):
    rng = np.random.default_rng(5)
    weight = rng.standard_normal((64, 32 // groups, 3, 3)).astype(np.float32)

    def build(x):
        return mb.conv(x=x, weight=weight, pad_type="same", groups=groups)

    data = [{"x": rng.standard_normal((1, 32, 4, 4), np.float32)} for _ in range(3)]
    unseen = [{"x": rng.standard_normal((1, 32, 4, 4), np.float32)} for _ in range(200)]
    path, out, free = (
        save(build, tmp_path, (1, 32, 4, 4)),
        tmp_path / "o.mlpackage",
        tmp_path / "f.mlpackage",
    )
    report = mlpass.prune(path, out, NM(2, 4), sample_data=data, method=ADMM())
    mlpass.prune(path, free, NM(2, 4))
    (layer,) = report.layers
    assert layer.error_held is not None

    def harm(package):
        (output,) = mlpass.compare(path, package, unseen).outputs
        return 10 ** (-output.snr / 10)

    assert harm(out) <= 1.05 * harm(free)


@pytest.mark.parametrize("sizes", [(8, 8), (1, 64)], ids=["picture", "line"])
def test_of_a_picture_alone_a_method_only_ranks(tmp_path, sizes):
    """Places of a line are tokens, as of a language model made of 1x1 convolutions."""
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((64, 40, 1, 1)).astype(np.float32)
    mix = rng.standard_normal((40, 8)).astype(np.float32)
    path = save(lambda x: mb.conv(x=x, weight=weight), tmp_path, (1, 40, *sizes))
    data = [
        {
            "x": np.einsum("ij,jhw->ihw", mix, rng.standard_normal((8, *sizes)))[None].astype(
                np.float32
            )
        }
        for _ in range(2)
    ]
    found = [
        mlpass.prune(
            path, tmp_path / "o.mlpackage", HALF, method=SparseGPT(), sample_data=some, force=True
        ).layers[0]
        for some in (data[:1], data)
    ]
    picture = sizes == (8, 8)
    told = "not sparsegpt: places of a single picture are much alike"
    assert [layer.method.endswith(told) for layer in found] == [picture, False]
