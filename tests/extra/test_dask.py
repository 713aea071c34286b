"""On a dask cluster: a sweep gives the table of a sweep here, a calibrated run the same bytes."""

from __future__ import annotations

import os
import signal
from dataclasses import replace

import numpy as np
import pytest

import mlpass
from mlpass import NM, Percentile
from mlpass.calibrate import wire
from mlpass.cli import main
from tests.program.packages import tree
from tests.study.measures import share_of_nonzeros

distributed = pytest.importorskip("distributed", reason="dask.distributed is not installed")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_the_same_table(fixtures):
    with np.load(fixtures / "tiny_lm.npz") as truth:
        samples = [{"tokens": truth["input:tokens"]}]
    model = str(fixtures / "tiny_lm.mlpackage")
    configs = [Percentile(0.5), NM(2, 4), {"target_sparsity": 0.5, "method": "sparsegpt"}]
    cluster = distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
    )
    with cluster, distributed.Client(cluster) as client:
        there = mlpass.sweep(
            model, samples, configs, evaluate=share_of_nonzeros, executor=client.get_executor()
        )
    here = mlpass.sweep(model, samples, configs, evaluate=share_of_nonzeros)
    assert replace(there, seconds=0.0) == replace(here, seconds=0.0)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_the_same_calibrated_bytes_though_a_worker_is_killed(fixtures, tmp_path, monkeypatch):
    model, draw = str(fixtures / "tiny_lm.mlpackage"), np.random.default_rng(0)
    with np.load(fixtures / "tiny_lm.npz") as truth:
        like = truth["input:tokens"]
    samples = [{"tokens": draw.integers(32, 127, like.shape, like.dtype)} for _ in range(48)]
    here = tmp_path / "here.mlpackage"
    mlpass.prune(model, here, Percentile(0.5), sample_data=samples)
    np.savez(tmp_path / "samples.npz", tokens=np.stack([one["tokens"] for one in samples]))
    receive, killed = wire.Wire.receive, []
    cluster = distributed.LocalCluster(
        n_workers=3, threads_per_worker=1, processes=True, dashboard_address=None
    )
    with cluster, distributed.Client(cluster) as client:
        for count in (1, 2, 3):
            there = tmp_path / f"{count}.mlpackage"
            some = list(client.ncores())[:count]
            executor = client.get_executor(workers=some)
            mlpass.prune(model, there, Percentile(0.5), sample_data=samples, executor=executor)
            assert tree(there) == tree(here)

        def killing(one):
            found = receive(one)
            if isinstance(found[0], list):
                killed.append(found)
                if len(killed) == 20:
                    os.kill(next(iter(client.run(os.getpid).values())), signal.SIGKILL)
            return found

        monkeypatch.setattr(wire.Wire, "receive", killing)
        there = tmp_path / "killed.mlpackage"
        given = ["prune", model, "-o", str(there), "--target-sparsity", "0.5"]
        given += ["--sample-data", str(tmp_path / "samples.npz")]
        assert main([*given, "--scheduler", cluster.scheduler_address]) == 0
        assert tree(there) == tree(here)
        assert len(killed) > 20


@pytest.mark.parametrize(
    ("given", "status", "text"),
    [
        ([], 2, "--scheduler: needs --sample-data"),
        (["--sample-data", "x.npz"], 1, "--scheduler: no dask scheduler answers: "),
    ],
)
def test_a_scheduler_that_is_of_no_use(fixtures, tmp_path, capsys, given, status, text):
    command = ["prune", str(fixtures / "tiny_lm.mlpackage"), "-o", str(tmp_path / "o.mlpackage")]
    command += ["--target-sparsity", "0.5", "--scheduler", "nowhere://host:1", *given]
    try:
        found = main(command)
    except SystemExit as ended:
        found = ended.code
    assert found == status
    assert text in capsys.readouterr().err
