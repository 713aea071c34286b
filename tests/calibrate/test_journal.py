"""Calibrated runs again: after they died, and on other numbers of cores."""

from __future__ import annotations

import os
import subprocess
import sys

import coremltools as ct
import numpy as np
import pytest
from coremltools.converters.mil.mil import Builder as mb

import mlpass
from mlpass import NM, Percentile, SparseGPT
from mlpass.calibrate import layers as calibrated
from mlpass.errors import CalibrationError
from mlpass.ledger import journal_path
from tests.calibrate.layers import SIZE, samples, weights
from tests.program.packages import tree
from tests.runtime.programs import convert, program


def test_a_run_that_dies_goes_on_with_an_equal_result(mlp, tmp_path, monkeypatch):
    whole, out = tmp_path / "whole.mlpackage", tmp_path / "out.mlpackage"
    mlpass.prune(mlp, whole, Percentile(0.5), method=SparseGPT(), sample_data=samples())
    solved = []
    solve = calibrated.solve

    def dying(weight, *given, **options):
        if len(solved) == 2:
            raise KeyboardInterrupt
        solved.append(weight)
        return solve(weight, *given, **options)

    monkeypatch.setattr(calibrated, "solve", dying)
    with pytest.raises(KeyboardInterrupt):
        mlpass.prune(mlp, out, Percentile(0.5), method=SparseGPT(), sample_data=samples())
    assert not out.exists()
    assert journal_path(out).is_dir()
    solved.clear()
    report = mlpass.prune(mlp, out, Percentile(0.5), sample_data=samples(), resume=True)
    assert len(solved) == 1
    assert tree(out) == tree(whole)
    assert not journal_path(out).exists()
    assert [layer.samples for layer in report.layers] == [32, 32, 32]


def interrupted(mlp, out, monkeypatch, **given):
    given["sample_data"] = samples()
    with monkeypatch.context() as patched:
        calls = []
        solve = calibrated.solve

        def dying(*problem, **options):
            if calls:
                raise KeyboardInterrupt
            calls.append(1)
            return solve(*problem, **options)

        patched.setattr(calibrated, "solve", dying)
        with pytest.raises(KeyboardInterrupt):
            mlpass.prune(mlp, out, Percentile(0.5), **given)


def test_what_another_run_left_is_not_taken_up(mlp, tmp_path, monkeypatch):
    out = tmp_path / "out.mlpackage"
    interrupted(mlp, out, monkeypatch)
    with pytest.raises(
        CalibrationError, match="belongs to a run with another model, config, method"
    ):
        mlpass.prune(mlp, out, Percentile(0.6), sample_data=samples(), resume=True)
    mlpass.prune(mlp, out, Percentile(0.6), sample_data=samples())  # anew, without it
    assert not journal_path(out).exists()


def test_what_a_run_left_is_not_taken_up_by_a_joint_one(mlp, tmp_path, monkeypatch):
    out, raised = tmp_path / "out.mlpackage", {"minimum_deployment_target": "iOS18"}
    interrupted(mlp, out, monkeypatch, **raised)
    given = {"sample_data": samples(), "resume": True, **raised}
    with pytest.raises(CalibrationError, match="belongs to a run with another model"):
        mlpass.prune(mlp, out, Percentile(0.5), joint_compression=True, **given)
    mlpass.prune(mlp, out, Percentile(0.5), **given)
    assert not journal_path(out).exists()


def test_a_broken_journal_is_told(mlp, tmp_path, monkeypatch):
    out = tmp_path / "out.mlpackage"
    interrupted(mlp, out, monkeypatch)
    (file,) = journal_path(out).glob("*.npz")
    with file.open("wb") as opened:
        np.savez(opened, samples=1, tokens=2, weight=np.zeros(3))
    with pytest.raises(CalibrationError, match=r"0\.npz is broken, delete it: "):
        mlpass.prune(mlp, out, Percentile(0.5), sample_data=samples(), resume=True)


@pytest.mark.slow_but_every(2)
@pytest.mark.parametrize(
    "change",
    [
        {"weight": np.zeros((3, 3), np.float32)},
        {"weight": np.zeros((64, 64), np.float64)},
        {"weight": np.array("text")},
        {"keep": np.ones((64, 64), np.float32)},
        {"keep": np.ones(64, bool)},
        {"error": np.array("low")},
        {"error": np.zeros(3)},
        {"dampening": np.array("none")},
        {"error_before": np.array("x")},
        {"method": np.array(3)},
        {"reason": np.array(3)},
        {"samples": np.zeros(2)},
        {"tokens": np.array("many")},
        {"nonsense": np.zeros(2)},
        {"weight": None},
        {"error": None},
    ],
    ids=lambda change: "-".join(f"{key} {value!r:.20}" for key, value in change.items()),
)
def test_a_journal_that_says_what_cannot_be_is_told(mlp, tmp_path, monkeypatch, change):
    out = tmp_path / "out.mlpackage"
    interrupted(mlp, out, monkeypatch)
    (file,) = journal_path(out).glob("*.npz")
    with np.load(file) as stored:
        content = {name: stored[name] for name in stored.files} | change
    with file.open("wb") as opened:
        np.savez(opened, **{key: value for key, value in content.items() if value is not None})
    with pytest.raises(CalibrationError, match=r"resume: .*0\.npz is broken, delete it"):
        mlpass.prune(mlp, out, Percentile(0.5), sample_data=samples(), resume=True)


@pytest.mark.parametrize("head", ["", "[" * 100_000, "3", '{"digest": [1]}', "\xff\xfe"])
def test_a_broken_head_is_of_another_run(mlp, tmp_path, monkeypatch, head):
    out = tmp_path / "out.mlpackage"
    interrupted(mlp, out, monkeypatch)
    (journal_path(out) / "run").write_bytes(head.encode("latin-1"))
    with pytest.raises(CalibrationError, match="a run with another model, config, method"):
        mlpass.prune(mlp, out, Percentile(0.5), sample_data=samples(), resume=True)


@pytest.mark.parametrize("form", [None, "0.0.1 weight keep", ""])
def test_a_journal_of_another_version_is_not_used(form, mlp, tmp_path, monkeypatch):
    out = tmp_path / "out.mlpackage"
    interrupted(mlp, out, monkeypatch)
    (file,) = journal_path(out).glob("*.npz")
    with file.open("wb") as opened:  # as that version wrote it
        np.savez(opened, samples=1, tokens=2, weight=np.zeros(3), of_old=1)
    written = journal_path(out) / "form"
    assert mlpass.__version__ in written.read_text()
    written.unlink() if form is None else written.write_text(form)
    with pytest.raises(
        CalibrationError,
        match=r"out\.mlpackage\.resume was written by another version of mlpass, and is not used; "
        "without resume, the run starts anew and deletes it",
    ):
        mlpass.prune(mlp, out, Percentile(0.5), sample_data=samples(), resume=True)
    assert file.is_file()
    mlpass.prune(mlp, out, Percentile(0.5), sample_data=samples())
    assert not journal_path(out).exists()


def test_resuming_what_never_began_is_a_plain_run(mlp, tmp_path):
    report = mlpass.prune(
        mlp, tmp_path / "o.mlpackage", NM(2, 4), sample_data=samples(2), resume=True
    )
    assert all(layer.skipped is None for layer in report.layers)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["Wanda()", "SparseGPT(refit=True)", "ADMM()"])
def test_the_bytes_are_the_same_on_any_number_of_threads(mlp, tmp_path, method):
    digests = set()
    for threads in ("1", "2", "4"):
        out = tmp_path / f"{threads}.mlpackage"
        script = (
            "import mlpass\nfrom mlpass import *\n"
            "from tests.calibrate.layers import samples\n"
            f"mlpass.prune({str(mlp)!r}, {str(out)!r}, Percentile(0.5), method={method}, "
            "sample_data=samples())"
        )
        environment = {"MLPASS_THREADS": threads, "OPENBLAS_NUM_THREADS": threads}
        subprocess.run(
            [sys.executable, "-W", "ignore", "-c", script], check=True, env=os.environ | environment
        )
        digests.add(str(sorted(tree(out).items())))
    assert len(digests) == 1


def test_quantized_and_resumed_alike(tmp_path, monkeypatch):
    """What the journal keeps of a joint result gives the same bytes."""
    (weight,) = (each.astype(np.float16) for each in weights(1))

    def build(x):
        x = mb.linear(x=mb.cast(x=x, dtype="fp16"), weight=weight)
        return mb.cast(x=mb.linear(x=x, weight=weight[::-1].copy()), dtype="fp32")

    newest = ct.target.iOS18
    path, whole, out = (tmp_path / f"{name}.mlpackage" for name in ("model", "whole", "out"))
    convert(program(build, (8, SIZE), opset=newest), minimum_deployment_target=newest).save(
        str(path)
    )
    options = {"sample_data": samples(), "storage": "uint4"}
    mlpass.prune(path, whole, Percentile(0.5), **options)
    with monkeypatch.context() as patched:
        encode = calibrated.encode_stored
        done = []

        def dying(site, solution, storage):
            if done:
                raise KeyboardInterrupt
            done.append(site)
            return encode(site, solution, storage)

        patched.setattr(calibrated, "encode_stored", dying)
        with pytest.raises(KeyboardInterrupt):
            mlpass.prune(path, out, Percentile(0.5), **options)
    mlpass.prune(path, out, Percentile(0.5), resume=True, **options)
    assert tree(out) == tree(whole)
