"""A sweep on a dask cluster gives the table of a sweep here."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import mlpass
from mlpass import NM, Percentile
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
