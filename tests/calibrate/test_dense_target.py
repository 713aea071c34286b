"""target="dense": layers aim at what the dense model gives, on samples kept back for the choice."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from coremltools.converters.mil.mil import Builder as mb

import mlpass
from mlpass import ADMM, NM, Config, ConfigError, Magnitude, Percentile, SparseGPT, Wanda
from mlpass.cli import main
from mlpass.errors import CalibrationError
from mlpass.ledger import journal_path
from tests.calibrate.layers import SIZE, samples, save, weights, weights_of
from tests.runtime.programs import FIXTURES, program, truth

DAMPENING = 0.01


HALF = Percentile(0.5)


def prune(path, tmp_path, mode=HALF, **options):
    """The report, and the pruned weights by the name of their reader."""
    out = tmp_path / "out.mlpackage"
    options = {"sample_data": samples(64), "target": "dense", "force": True, **options}
    return mlpass.prune(path, out, mode, **options), weights_of(out)


def targets(report):
    return [layer.target for layer in report.layers]


def shares(report):
    """How far each layer has gone towards the dense model."""
    return [
        0.0
        if one.startswith("own")
        else float(one.split(", ")[1].split()[0])
        if "," in one
        else 1.0
        for one in targets(report)
    ]


def ridge(inputs, lacking):
    """numpy's dampened least squares for what outputs lack, (rows, columns)."""
    inputs = inputs.astype(np.float64)
    square = inputs.T @ inputs
    square += DAMPENING * np.trace(square) / len(square) * np.eye(len(square))
    return np.linalg.solve(square, inputs.T @ lacking).T


def rows_of(data):
    return np.concatenate([sample["x"] for sample in data])


def errors(path, out, count=16):
    """The error of all outputs on samples that none has seen."""
    dense, pruned = mlpass.Interpreter(path), mlpass.Interpreter(out)
    lost = whole = 0.0
    for sample in samples(count + 64)[64:]:
        for name, array in dense.predict(sample).items():
            lost += np.square(pruned.predict(sample)[name] - array, dtype=np.float64).sum()
            whole += np.square(array, dtype=np.float64).sum()
    return lost / whole


@pytest.mark.slow_but_every(3)
@pytest.mark.parametrize("mode", [Percentile(0.5), NM(2, 4)], ids=str)
@pytest.mark.parametrize(
    "method", [Magnitude(), Wanda(), SparseGPT(), SparseGPT(refit=True), ADMM()], ids=str
)
def test_a_layer_is_pruned_towards_numpys_least_squares(mlp, tmp_path, method, mode):
    report, found = prune(mlp, tmp_path, mode, method=method, sample_data=samples(128))
    dense = now = rows_of(samples(128)).astype(np.float64)
    went = shares(report)
    assert went[0] == 0
    assert max(went) > 0
    for share, layer, (name, weight) in zip(
        went, report.layers, zip(found, weights(3), strict=True), strict=True
    ):
        aimed = weight + share * ridge(now, (dense - now) @ weight.T.astype(np.float64))
        lost = np.square(now @ (found[name] - aimed).T).sum()
        assert layer.error == pytest.approx(lost / np.square(now @ aimed.T).sum(), rel=0.02)
        ran = Magnitude() if layer.method.startswith("magnitude") else method  # rows kept back say
        expected = mlpass.solve(aimed.astype(np.float32), now.T @ now, mode, method=ran)
        assert ((found[name] != 0) == expected.keep).mean() > 0.98
        dense = np.maximum(dense @ weight.T, 0)
        now = np.maximum(now @ found[name].T, 0)


@pytest.mark.slow_but_every(2)
@pytest.mark.parametrize("method", [SparseGPT(), ADMM()], ids=str)
@pytest.mark.parametrize("mode", [Percentile(0.5), NM(2, 4)], ids=str)
def test_the_outputs_of_unseen_samples_are_nearer(mlp, tmp_path, method, mode):
    out = tmp_path / "out.mlpackage"
    prune(mlp, tmp_path, mode, method=method, target="own")
    own = errors(mlp, out)
    prune(mlp, tmp_path, mode, method=method)
    assert errors(mlp, out) < own


def residual(tmp_path):
    """x + second(relu(first(x))), whose first layer is pruned, then a third on that."""
    first, second, third = weights(3)

    def build(x):
        stream = mb.linear(x=x, weight=first, name="first")
        active = mb.relu(x=stream)
        branch = mb.linear(x=active, weight=second, name="second")
        return mb.linear(x=mb.add(x=branch, y=stream), weight=third, name="third")

    return save(build, tmp_path)


def test_what_a_stream_has_drifted_is_made_up_for(tmp_path):
    """By brute force: dense and pruned streams as numpy has them."""
    report, found = prune(residual(tmp_path), tmp_path)
    first, second, _ = weights(3)
    assert targets(report)[0] == "own: its inputs are those of the dense model"
    assert targets(report)[1].startswith("dense stream")
    x = rows_of(samples(64)).astype(np.float64)
    dense, now = x @ first.T, x @ found["first"].T
    before, after = np.maximum(dense, 0), np.maximum(now, 0)
    lacking = (before - after) @ second.T.astype(np.float64) + (dense - now)
    aimed = second + shares(report)[1] * ridge(after, lacking)
    lost = np.square(after @ (found["second"] - aimed).T).sum()
    expected = lost / np.square(after @ aimed.T).sum()
    assert report.layers[1].error == pytest.approx(expected, rel=0.02)
    alone = second + shares(report)[1] * ridge(after, (before - after) @ second.T)
    assert np.square(aimed - alone).sum() > 1e-3 * np.square(aimed).sum()


def test_a_convolution_makes_up_for_the_drift_of_its_stream(tmp_path):
    rng = np.random.default_rng(5)
    first, second = (rng.standard_normal((16, 16 // g, 3, 3)).astype("f") / 9 for g in (1, 4))

    def build(x):
        stream = mb.conv(x=x, weight=first, pad_type="same", name="first")
        active = mb.relu(x=stream)
        branch = mb.conv(x=active, weight=second, pad_type="same", groups=4, name="second")
        return mb.add(x=stream, y=branch)

    path = save(build, tmp_path, (2, 16, 6, 6))
    data = [{"x": rng.standard_normal((2, 16, 6, 6)).astype(np.float32)} for _ in range(48)]
    out = tmp_path / "out.mlpackage"
    whole = Config(global_config=Percentile(0.5), op_name_configs={}, weight_threshold=0)
    lost = {}
    for target in ("own", "dense"):
        report = mlpass.prune(path, out, whole, sample_data=data[:40], target=target, force=True)
        dense, pruned = mlpass.Interpreter(path), mlpass.Interpreter(out)
        lost[target] = sum(
            np.square(pruned.predict(one)[name] - array).sum()
            for one in data[40:]
            for name, array in dense.predict(one).items()
        )
    assert report.layers[1].target.startswith("dense stream")
    assert lost["dense"] < 0.95 * lost["own"]


def test_sites_of_one_activation_share_one_cross_sum(tmp_path, monkeypatch):
    from mlpass.solvers.cross_sum import CrossSum

    head, query, key = weights(3)

    def build(x):
        x = mb.linear(x=x, weight=head)
        return mb.mul(x=mb.linear(x=x, weight=query), y=mb.linear(x=x, weight=key))

    seen, add = [], CrossSum.add

    def counting(self, left, right):
        seen.append(right.shape)
        add(self, left, right)

    monkeypatch.setattr(CrossSum, "add", counting)
    report, _ = prune(save(build, tmp_path), tmp_path, sample_data=samples(10))
    assert len(report.layers) == 3
    assert len(seen) == 2 * 10  # of two activations


def test_a_weight_in_a_loop_and_a_shared_one(tmp_path):
    head, inner, tied = weights(3)

    def build(x):
        x = mb.linear(x=x, weight=head)

        def again(turn, value):
            return mb.less(x=turn, y=np.int32(3))

        def turned(turn, value):
            return mb.add(x=turn, y=np.int32(1)), mb.tanh(x=mb.linear(x=value, weight=inner))

        x = mb.while_loop(_cond=again, _body=turned, loop_vars=(np.int32(0), x))[1]
        shared = mb.const(val=tied, name="tied")
        return mb.linear(x=mb.relu(x=mb.linear(x=x, weight=shared)), weight=shared)

    path = save(build, tmp_path)
    own, _ = prune(path, tmp_path, target="own")
    before = errors(path, tmp_path / "out.mlpackage")
    report, _ = prune(path, tmp_path)
    assert [layer.tokens for layer in report.layers] == [layer.tokens for layer in own.layers]
    assert [one.split(",")[0] for one in targets(report)[1:]] == ["dense", "dense"]
    assert errors(path, tmp_path / "out.mlpackage") < before


def until(tmp_path):
    """A loop that ends sooner or later as its weight says."""
    head, inner, _ = weights(3)

    def build(x):
        x = mb.linear(x=x, weight=head)

        def again(value):
            power = mb.reduce_sum(x=mb.abs(x=value), axes=[0, 1], keep_dims=False)
            return mb.less(x=power, y=np.float32(1e5))

        def turned(value):
            return (mb.mul(x=mb.linear(x=value, weight=inner), y=np.float32(1.1)),)

        return mb.while_loop(_cond=again, _body=turned, loop_vars=(x,))

    return save(build, tmp_path)


def test_where_it_does_not_apply_the_report_says_so(mlp, tmp_path):
    report, _ = prune(mlp, tmp_path, sample_data=samples(1))
    assert set(targets(report)[1:]) == {"own: too few samples reach it to keep some back"}
    report, _ = prune(until(tmp_path), tmp_path, mode=Percentile(0.9))
    assert targets(report)[1] == "own: it runs another number of times in the dense model"
    assert "target own: it runs another number" in str(report)


def test_a_table_of_rows_keeps_its_own(tmp_path):
    table = np.random.default_rng(1).standard_normal((64, 48)).astype(np.float32)

    def build(x):
        return mb.gather(x=table, indices=mb.cast(x=x, dtype="int32"), axis=0)

    path = save(build, tmp_path, (16,))
    data = [{"x": np.arange(16, dtype=np.float32)} for _ in range(9)]
    report, _ = prune(path, tmp_path, sample_data=data)
    assert targets(report) == ["own: its rows are gathered"]


def test_without_it_nothing_is_said(mlp, tmp_path):
    report, _ = prune(mlp, tmp_path, target="own")
    assert targets(report) == [None] * 3
    assert "target" not in str(report)


@pytest.mark.parametrize(
    "method", [SparseGPT(), ADMM(), Wanda(refit=True), Wanda(swaps=1)], ids=str
)
def test_it_is_the_default_of_methods_that_change_what_they_keep(mlp, tmp_path, method):
    asked, found = prune(mlp, tmp_path, method=method)
    alone, same = prune(mlp, tmp_path, method=method, target=None)
    assert alone.layers == asked.layers
    assert max(shares(alone)) > 0
    for name, weight in found.items():
        np.testing.assert_array_equal(same[name], weight)


@pytest.mark.parametrize("options", [{"method": Wanda()}, {"propagate": "dense"}], ids=str)
def test_it_is_not_where_nothing_could_make_up_for_anything(mlp, tmp_path, options):
    report, found = prune(mlp, tmp_path, target=None, **options)
    assert targets(report) == [None] * 3
    if "method" in options:  # what stays is as it came
        for name, weight in weights_of(mlp).items():
            kept = found[name] != 0
            np.testing.assert_array_equal(found[name][kept], weight[kept])


def test_dense_inputs_leave_nothing_to_make_up_for(mlp, tmp_path):
    with pytest.raises(ConfigError, match="with propagate='dense' none meets that; give one of"):
        prune(mlp, tmp_path, propagate="dense")
    with pytest.raises(ConfigError, match="target: must be 'own' or 'dense'. Got 'both'"):
        prune(mlp, tmp_path, target="both")


@pytest.mark.slow_but_every(4)
@pytest.mark.parametrize("name", ["digits_ios15", "tiny_lm", "silero_vad", "stateful_lm"])
def test_every_kind_of_model_goes_through(name, tmp_path):
    inputs, _ = truth(name)
    if name == "stateful_lm":
        data = [{key: array[n] for key, array in inputs.items()} for n in range(4)]
    else:
        data = [inputs] * 4
    out = tmp_path / "out.mlpackage"
    source = FIXTURES / f"{name}.mlpackage"
    report = mlpass.prune(source, out, NM(2, 4), sample_data=data, target="dense")
    solved = [layer for layer in report.layers if layer.mode]
    assert solved
    assert all(layer.target for layer in solved)
    assert any(layer.target.startswith("dense") for layer in solved)


def test_the_steps_of_sequences_go_side_by_side(tmp_path):
    inputs, _ = truth("stateful_lm")
    steps = [{key: array[n] for key, array in inputs.items()} for n in range(6)]
    data = [steps[:4], steps[1:5], steps[2:6]]
    out, source = tmp_path / "out.mlpackage", FIXTURES / "stateful_lm.mlpackage"
    report = mlpass.prune(source, out, NM(2, 4), sample_data=data, target="dense")
    solved = [layer for layer in report.layers if layer.mode]
    assert {(layer.samples, layer.tokens) for layer in solved if layer.op_type == "linear"} == {
        (3, 12)
    }
    assert all(layer.target for layer in solved)
    assert any("number of times" not in layer.target for layer in solved)


def test_torch_runs_it_as_well(mlp, tmp_path):
    numpy, _ = prune(mlp, tmp_path)
    torch, _ = prune(mlp, tmp_path, backend="torch")
    assert targets(torch) == targets(numpy)
    for one, other in zip(torch.layers, numpy.layers, strict=True):
        assert one.error == pytest.approx(other.error, rel=0.02)


def test_a_program_in_place(tmp_path):
    first, second, _ = weights(3)

    def build(x):
        return mb.linear(x=mb.relu(x=mb.linear(x=x, weight=first)), weight=second)

    report = mlpass.prune_program(
        program(build, (8, SIZE)), NM(2, 4), sample_data=samples(64), target="dense"
    )
    assert targets(report)[1].startswith("dense")


def test_a_quantized_solve_and_the_command_line(mlp, tmp_path, capsys):
    np.savez(tmp_path / "s.npz", x=np.stack([sample["x"] for sample in samples(32)]))
    out = tmp_path / "out.mlpackage"
    command = ["prune", str(mlp), "-o", str(out), "--sample-data", str(tmp_path / "s.npz")]
    command += ["--target-sparsity", "0.5", "--quantize", "int8", "--target", "dense"]
    assert main([*command, "--minimum-deployment-target", "iOS18"]) == 0
    assert "target dense" in capsys.readouterr().out


def files(path):
    return {
        str(file.relative_to(path)): file.read_bytes()
        for file in sorted(path.rglob("*"))
        if file.is_file() and file.name != "Manifest.json"
    }


@pytest.mark.slow
def test_the_bytes_are_the_same_on_any_number_of_threads(tmp_path):
    path, found = residual(tmp_path), []
    for threads in ("1", "2", "4"):
        out = tmp_path / f"{threads}.mlpackage"
        script = (
            "import mlpass\nfrom tests.calibrate.layers import samples\n"
            f"mlpass.prune({str(path)!r}, {str(out)!r}, mlpass.NM(2, 4), method=mlpass.ADMM(), "
            "sample_data=samples(), target='dense')"
        )
        environment = {"MLPASS_THREADS": threads, "OPENBLAS_NUM_THREADS": threads}
        subprocess.run(
            [sys.executable, "-W", "ignore", "-c", script], check=True, env=os.environ | environment
        )
        found.append(files(out))
    assert found[0] == found[1] == found[2]


def test_a_run_that_died_goes_on_to_the_same_bytes(tmp_path, monkeypatch):
    path, whole, out = residual(tmp_path), tmp_path / "whole.mlpackage", tmp_path / "o.mlpackage"
    options = {"sample_data": samples(128), "target": "dense"}
    expected = mlpass.prune(path, whole, Percentile(0.5), **options)
    solve, calls = SparseGPT.prune, []

    def dying(self, problem):
        calls.append(problem)
        if len(calls) == 5:  # each layer takes two
            raise KeyboardInterrupt
        return solve(self, problem)

    with monkeypatch.context() as patched:
        patched.setattr(SparseGPT, "prune", dying)
        with pytest.raises(KeyboardInterrupt):
            mlpass.prune(path, out, Percentile(0.5), **options)
    assert journal_path(out).is_dir()
    with pytest.raises(CalibrationError, match="belongs to a run with another model, config"):
        mlpass.prune(path, out, Percentile(0.5), sample_data=samples(128), resume=True)
    report = mlpass.prune(path, out, Percentile(0.5), resume=True, **options)
    assert targets(report) == targets(expected)
    assert files(out) == files(whole)
