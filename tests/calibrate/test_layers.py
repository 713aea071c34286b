"""Calibrated pruning: each weight solved for on what it meets, from package to package."""

from __future__ import annotations

from threading import Barrier
from typing import ClassVar

import coremltools as ct
import numpy as np
import pytest
from coremltools.converters.mil.mil import Builder as mb

import mlpass
from mlpass import NM, Block, Channel, Config, Magnitude, Percentile, SparseGPT, Wanda
from mlpass.solvers.accumulate import GramSum
from tests import peer
from tests.calibrate.layers import METHODS, SIZE, samples, save, weights, weights_of
from tests.runtime.programs import FIXTURES, convert, program, truth

MAGNITUDE = Magnitude()
PLENTY = 128  # samples of 8 rows: 16 rows for each column


def reference(mode, method, propagate):
    """The same, layer by layer, with numpy and `solve` alone."""
    rows = np.concatenate([sample["x"] for sample in samples(PLENTY)])
    dense = rows
    found = []
    for weight in weights(3):
        met = rows if propagate == "pruned" else dense
        tried = [mlpass.solve(weight, met.T @ met, mode, method=one) for one in (method, MAGNITUDE)]
        solution = min(tried, key=lambda one: one.error)  # never worse than by magnitude
        found.append(solution)
        rows = np.maximum(rows @ solution.weight.T, 0)
        dense = np.maximum(dense @ weight.T, 0)
    return found


@pytest.mark.slow_but_every(10)
@pytest.mark.parametrize("propagate", ["pruned", "dense"])
@pytest.mark.parametrize("mode", [Percentile(0.5), NM(2, 4), Block(0.5, 4), Channel(0.5)], ids=str)
@pytest.mark.parametrize("method", METHODS, ids=str)
def test_each_layer_is_solved_on_what_it_meets(mlp, tmp_path, method, mode, propagate):
    out, named = tmp_path / "out.mlpackage", Config(op_name_configs={"*": mode})
    report = mlpass.prune(
        mlp,
        out,
        named,
        method=method,
        sample_data=samples(PLENTY),
        propagate=propagate,
        target="own",
    )
    found = weights_of(out)
    for name, layer, expected in zip(
        ("first", "second", "third"), report.layers, reference(mode, method, propagate), strict=True
    ):
        agree = (found[name] != 0) == expected.keep
        assert agree.mean() > 0.99
        np.testing.assert_allclose(layer.error, expected.error, rtol=0.02)
        assert layer.sparsity == 0.5
        assert (layer.samples, layer.tokens) == (PLENTY, PLENTY * 8)
        if not isinstance(method, Magnitude | Wanda):
            assert layer.error <= layer.error_before * 1.001


def test_the_report_tells_the_error_of_the_outputs(mlp, tmp_path):
    out = tmp_path / "out.mlpackage"
    report = mlpass.prune(mlp, out, Percentile(0.5), sample_data=samples())
    old, new = mlpass.Interpreter(mlp), mlpass.Interpreter(out)
    ((name, _),) = [(f.name, f) for f in old.outputs]
    first = report.layers[0]
    change = power = 0.0
    for sample in samples():
        was, now = (i.run(sample, ["first"])["first"].astype(np.float64) for i in (old, new))
        change, power = change + np.square(now - was).sum(), power + np.square(was).sum()
    np.testing.assert_allclose(first.error, change / power, rtol=1e-3)
    assert first.method == "sparsegpt"
    assert first.dampening == 0.01
    assert name in new.predict(samples()[0])


@pytest.mark.parametrize("method", METHODS[1:], ids=str)
def test_solving_beats_magnitude_at_the_output(mlp, tmp_path, method):
    dense = mlpass.Interpreter(mlp)
    held_out = samples(8, seed=7)

    def distance(package):
        pruned = mlpass.Interpreter(package)
        (name,) = [feature.name for feature in pruned.outputs]
        return sum(
            np.square(pruned.predict(s)[name] - dense.predict(s)[name]).sum() for s in held_out
        )

    by_size, solved = tmp_path / "a.mlpackage", tmp_path / "b.mlpackage"
    mlpass.prune(mlp, by_size, Percentile(0.5))
    mlpass.prune(mlp, solved, Percentile(0.5), method=method, sample_data=samples())
    assert distance(solved) < distance(by_size)


def test_readers_of_one_activation_share_one_gram(tmp_path, monkeypatch):
    query, key, value = weights(3)

    def build(x):
        parts = [mb.linear(x=x, weight=weight) for weight in (query, key, value)]
        return mb.add(x=mb.add(x=parts[0], y=parts[1]), y=parts[2])

    sums = []

    add_all = GramSum.add_all

    def counting(self, inputs):
        def counted():
            for portion in inputs:
                sums.append(self)
                yield portion

        add_all(self, counted())

    monkeypatch.setattr(GramSum, "add_all", counting)
    path = save(build, tmp_path)
    report = mlpass.prune(
        path, tmp_path / "o.mlpackage", Percentile(0.5), sample_data=samples(PLENTY)
    )
    assert [layer.tokens for layer in report.layers] == [8 * PLENTY] * 3
    assert len(sums) == PLENTY  # a sample once, not once for each of the three
    rows = np.concatenate([sample["x"] for sample in samples(PLENTY)])
    for layer, weight in zip(report.layers, (query, key, value), strict=True):
        expected = mlpass.solve(weight, rows.T @ rows, Percentile(0.5), method=SparseGPT())
        np.testing.assert_allclose(layer.error, expected.error, rtol=1e-2)


class Meeting(SparseGPT):
    """SparseGPT whose first two solves wait for each other, where they are to."""

    meeting: ClassVar = None
    begun: ClassVar = []

    def prune(self, problem):
        self.begun.append(problem)
        if self.meeting is not None and len(self.begun) <= 2:
            self.meeting.wait(30)
        return super().prune(problem)


@pytest.mark.parametrize("threads", ["1", "2"])
def test_sites_of_one_activation_are_solved_side_by_side(threads, tmp_path, monkeypatch):
    query, key, value = weights(3)

    def build(x):
        parts = [mb.linear(x=x, weight=weight) for weight in (query, key)]
        return mb.linear(x=mb.add(x=parts[0], y=parts[1]), weight=value)

    monkeypatch.setattr(Meeting, "meeting", Barrier(2) if threads == "2" else None)
    monkeypatch.setattr(Meeting, "begun", [])
    monkeypatch.setenv("MLPASS_THREADS", threads)
    path, out = save(build, tmp_path), tmp_path / "o.mlpackage"
    given = {"method": Meeting(), "sample_data": samples(PLENTY), "target": "own"}
    report = mlpass.prune(path, out, Percentile(0.5), **given)
    assert len(Meeting.begun) == 2 * 3  # without the samples kept back, then on all
    rows = np.concatenate([sample["x"] for sample in samples(PLENTY)])
    solved = [
        mlpass.solve(weight, rows.T @ rows, Percentile(0.5), method=SparseGPT())
        for weight in (query, key)
    ]
    met = rows @ (solved[0].weight + solved[1].weight).T
    solved.append(mlpass.solve(value, met.T @ met, Percentile(0.5), method=SparseGPT()))
    for layer, expected in zip(report.layers, solved, strict=True):
        np.testing.assert_allclose(layer.error, expected.error, rtol=1e-2)


def test_a_weight_read_twice_is_decided_on_all_it_meets(tmp_path):
    (tied,) = weights(1)

    def build(x):
        weight = mb.const(val=tied, name="tied")
        first = mb.linear(x=x, weight=weight)
        return mb.linear(x=mb.sigmoid(x=first), weight=weight)

    path = save(build, tmp_path)
    report = mlpass.prune(path, tmp_path / "o.mlpackage", Percentile(0.5), sample_data=samples())
    (layer,) = report.layers
    assert layer.tokens == 2 * 32 * 8
    rows = np.concatenate([sample["x"] for sample in samples()])
    later = 1 / (1 + np.exp(-(rows @ tied.T)))
    gram = rows.T @ rows + later.T @ later
    how = {"method": SparseGPT(), "shrinkage": layer.shrinkage}
    expected = mlpass.solve(tied, gram, Percentile(0.5), **how)
    np.testing.assert_allclose(layer.error, expected.error, rtol=1e-2)


def test_a_table_that_is_gathered_from_is_weighted_by_how_often_a_row_is_read(tmp_path):
    table = np.random.default_rng(1).standard_normal((64, 48)).astype(np.float32)

    def build(x):
        return mb.gather(x=table, indices=mb.cast(x=x, dtype="int32"), axis=0)

    path = save(build, tmp_path, (16,))
    often = [{"x": np.arange(16, dtype=np.float32)} for _ in range(20)]
    out = tmp_path / "o.mlpackage"
    report = mlpass.prune(path, out, Percentile(0.5), sample_data=often)
    (layer,) = report.layers
    assert (layer.skipped, layer.sparsity, layer.tokens) == (None, 0.5, 320)
    (found,) = weights_of(out).values()
    read, unread = (found[:16] != 0).mean(), (found[16:] != 0).mean()
    assert read > 0.8 > unread > 0.2
    kept = found != 0
    np.testing.assert_array_equal(found[kept], table[kept])


def test_a_tied_table_is_solved_for_both_of_its_readers(tmp_path):
    """Rows that are read matter although the head's inputs hardly move them."""
    table = np.random.default_rng(1).standard_normal((64, 48)).astype(np.float32)

    def build(x):
        weight = mb.const(val=table, name="tied")
        rows = mb.gather(x=weight, indices=mb.cast(x=x, dtype="int32"), axis=0)
        quiet = mb.mul(x=rows, y=np.linspace(1e-3, 1, 48, dtype=np.float32))
        return mb.linear(x=quiet, weight=weight)

    path = save(build, tmp_path, (16,))
    data = [{"x": np.random.default_rng(n).integers(0, 64, 16).astype("f")} for n in range(20)]
    out = tmp_path / "o.mlpackage"
    report = mlpass.prune(path, out, Percentile(0.5), sample_data=data)
    (layer,) = report.layers
    assert (layer.op_type, layer.sparsity, layer.skipped) == ("gather", 0.5, None)
    (found,) = weights_of(out).values()
    scale = np.linspace(1e-3, 1, 48, dtype=np.float32)
    rows = np.concatenate([table[sample["x"].astype(int)] for sample in data])
    gram = (rows * scale).T @ (rows * scale)
    for_head = mlpass.solve(table, gram, Percentile(0.5), method=SparseGPT()).weight

    def costs(weight):
        change = weight - table
        gathered = np.square(change).sum() / np.square(table).sum()
        multiplied = np.vdot(change.T @ change, gram) / np.vdot(table.T @ table, gram)
        return gathered, multiplied

    assert sum(costs(found)) < 0.9 * sum(costs(for_head))


def test_a_weight_in_a_loop_meets_every_turn(tmp_path):
    (inner,) = weights(1)

    def build(x):
        def again(turn, value):
            return mb.less(x=turn, y=np.int32(3))

        def turned(turn, value):
            turned = mb.tanh(x=mb.linear(x=value, weight=inner))
            return mb.add(x=turn, y=np.int32(1)), turned

        return mb.while_loop(_cond=again, _body=turned, loop_vars=(np.int32(0), x))[1]

    path = save(build, tmp_path)
    report = mlpass.prune(path, tmp_path / "o.mlpackage", Percentile(0.5), sample_data=samples())
    (layer,) = report.layers
    assert (layer.samples, layer.tokens) == (32, 3 * 32 * 8)
    rows = np.concatenate([sample["x"] for sample in samples()])
    gram = np.zeros((SIZE, SIZE))
    for _ in range(3):
        gram += rows.T @ rows
        rows = np.tanh(rows @ inner.T)
    how = {"method": SparseGPT(), "shrinkage": layer.shrinkage}
    expected = mlpass.solve(inner, gram, Percentile(0.5), **how)
    np.testing.assert_allclose(layer.error, expected.error, rtol=1e-2)


@pytest.mark.slow_but_every(5)
@pytest.mark.parametrize("name", ["digits_ios15", "silero_vad", "tiny_lm"])
@pytest.mark.parametrize("backend", ["numpy", "torch"])
def test_real_models_on_both_backends(name, backend, tmp_path):
    inputs, _ = truth(name)
    out = tmp_path / "o.mlpackage"
    report = mlpass.prune(
        FIXTURES / f"{name}.mlpackage",
        out,
        Percentile(0.5),
        sample_data=[inputs] * 3,
        backend=backend,
    )
    solved = [layer for layer in report.layers if layer.error is not None]
    assert solved
    for layer in solved:
        assert layer.sparsity == pytest.approx(0.5, abs=1e-3)
        assert 0 <= layer.error < 0.5
    for array in mlpass.Interpreter(out).predict(inputs).values():
        if isinstance(array, np.ndarray):
            assert np.isfinite(array).all()


def test_a_global_sparsity_is_divided_by_magnitude(mlp, tmp_path):
    mode = Percentile(0.5, scope="global")
    free = mlpass.prune(mlp, tmp_path / "a.mlpackage", mode)
    solved = mlpass.prune(mlp, tmp_path / "b.mlpackage", mode, sample_data=samples(4))
    assert [layer.zeros for layer in solved.layers] == [layer.zeros for layer in free.layers]


@pytest.mark.parametrize("how", ["owl", "error"])
def test_an_allocation_keeps_the_total(mlp, tmp_path, how):
    data = samples()
    uniform = mlpass.prune(mlp, tmp_path / "a.mlpackage", Percentile(0.6), sample_data=data)
    divided = mlpass.prune(
        mlp, tmp_path / "b.mlpackage", Percentile(0.6), sample_data=data, allocate=how
    )
    assert divided.sparsity == pytest.approx(uniform.sparsity, abs=1e-3)
    assert len({layer.zeros for layer in divided.layers}) > 1
    if how == "error":
        total = sum(layer.error for layer in divided.layers)
        assert total < sum(layer.error for layer in uniform.layers)


def test_an_allocation_keeps_to_bytes(mlp, tmp_path):
    budget = 3 * SIZE * SIZE * 4 * 2 // 5
    report = mlpass.prune(
        mlp,
        tmp_path / "o.mlpackage",
        Percentile(0.5),
        sample_data=samples(),
        allocate="error",
        max_nbytes=budget,
    )
    assert 0.8 * budget < sum(layer.bytes_after for layer in report.layers) <= budget


@pytest.mark.slow_but_every(2)
@pytest.mark.parametrize(
    ("options", "encoding", "share"),
    [
        ({"storage": "int4"}, "sparse + quantized", 0.25),
        ({"storage": "int8"}, "sparse + quantized", 0.36),
        ({"storage": {"palettize": 4}}, "sparse + palettized", 0.25),
    ],
    ids=str,
)
def test_joint_results_are_what_the_report_says(tmp_path, options, encoding, share):
    rows = 128
    first, second = (weight.astype(np.float16) for weight in weights(2, rows, rows))

    def build(x):
        x = mb.relu(x=mb.linear(x=mb.cast(x=x, dtype="fp16"), weight=first))
        return mb.cast(x=mb.linear(x=x, weight=second), dtype="fp32")

    path = tmp_path / "model.mlpackage"
    newest = ct.target.iOS18
    source = program(build, (8, rows), opset=newest)
    convert(source, minimum_deployment_target=newest).save(str(path))
    out = tmp_path / "out.mlpackage"
    data = samples(columns=rows)
    report = mlpass.prune(path, out, Percentile(0.5), sample_data=data, **options)
    assert len(report.layers) == 2
    for layer, was in zip(report.layers, (first, second), strict=True):
        assert (layer.encoding, layer.skipped) == (encoding, None)
        assert layer.bytes_after <= share * was.nbytes
        assert layer.sparsity >= 0.5
    dense = [op for op in peer.all_ops(peer.load_programs(out)) if op.op_type == "linear"]
    found = list(weights_of(out).values())
    for op, weight, layer in zip(dense, found, report.layers, strict=True):
        assert layer.zeros == np.count_nonzero(weight == 0)
        np.testing.assert_array_equal(peer.value_of(op.weight.op), weight)
    rows = np.concatenate([sample["x"] for sample in data]).astype(np.float64)
    change = rows @ (found[0].astype(np.float64) - first).T
    expected = np.square(change).sum() / np.square(rows @ first.astype(np.float64).T).sum()
    np.testing.assert_allclose(report.layers[0].error, expected, rtol=0.02)


@pytest.mark.parametrize("storage", ["int4", {"palettize": 4}], ids=str)
@pytest.mark.parametrize("config", [None, Percentile(0.0)], ids=str)
def test_a_storage_without_zeros_is_solved_for(tmp_path, storage, config):
    """What is rounded later makes up for what was rounded before: better than the nearest."""
    (weight,) = (each.astype(np.float16) for each in weights(1))

    def build(x):
        return mb.cast(x=mb.linear(x=mb.cast(x=x, dtype="fp16"), weight=weight), dtype="fp32")

    path, out = tmp_path / "model.mlpackage", tmp_path / "out.mlpackage"
    newest = ct.target.iOS18
    convert(program(build, (8, SIZE), opset=newest), minimum_deployment_target=newest).save(
        str(path)
    )
    inputs = np.concatenate([sample["x"].astype(np.float16) for sample in samples()])

    def error() -> float:
        (found,) = weights_of(out).values()
        was = inputs.astype(np.float64) @ weight.T.astype(np.float64)
        change = inputs.astype(np.float64) @ (found - weight).T.astype(np.float64)
        return float(np.square(change).sum() / np.square(was).sum())

    mlpass.prune(path, out, config, storage=storage)
    nearest = error()
    report = mlpass.prune(path, out, config, storage=storage, sample_data=samples(), force=True)
    (layer,) = report.layers
    assert (layer.skipped, layer.method) == (None, "sparsegpt")
    assert 0 < error() < 0.9 * nearest
    assert layer.error == pytest.approx(error(), rel=0.02)
