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
from tests.calibrate.layers import samples, save_mlp
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
def test_the_same_calibrated_bytes_though_a_worker_is_killed(tmp_path, monkeypatch):
    mlp, given = save_mlp(tmp_path), samples(72)  # three stops, four cohorts
    here = tmp_path / "here.mlpackage"
    mlpass.prune(mlp, here, Percentile(0.5), sample_data=given)
    np.savez(tmp_path / "samples.npz", x=np.stack([one["x"] for one in given]))
    receive, calls, sums, victim = wire.Wire.receive, [], {}, None

    def noting(one):
        """Notes calls, and by connection how many sums it brings; kills a worker at a stop."""
        nonlocal victim
        found, nbytes = receive(one)
        if isinstance(found, int):
            calls.append(found)
        if isinstance(found, dict):
            sums[one] = sums.get(one, 0) + 1
        if isinstance(found, list) and victim is not None:
            os.kill(victim, signal.SIGKILL)
            victim = None
        return found, nbytes

    monkeypatch.setattr(wire.Wire, "receive", noting)
    cluster = distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
    )
    with cluster, distributed.Client(cluster) as client:
        there = tmp_path / "there.mlpackage"
        executor = client.get_executor()
        mlpass.prune(mlp, there, Percentile(0.5), sample_data=given, executor=executor)
        assert tree(there) == tree(here)
        assert sorted(calls) == [1, 2]
        assert list(sums.values()) == [6, 6]  # of two cohorts each at three stops

        calls.clear()
        sums.clear()
        victim = next(iter(client.run(os.getpid).values()))
        there = tmp_path / "killed.mlpackage"
        command = ["prune", str(mlp), "-o", str(there), "--target-sparsity", "0.5"]
        command += ["--sample-data", str(tmp_path / "samples.npz")]
        assert main([*command, "--scheduler", cluster.scheduler_address]) == 0
        assert tree(there) == tree(here)
        assert set(calls) == {1, 2, 3}  # one worker was followed by another
        assert max(sums.values()) == 6  # the other share went on where it was
        assert sum(sums.values()) <= 14  # what was lost at the stop came twice, and no more


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
