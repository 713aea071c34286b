"""The way through a model: who leaves it half-way leaves nothing behind."""

from __future__ import annotations

import tempfile

import numpy as np
import pytest
from threadpoolctl import ThreadpoolController

from mlpass import Percentile, SparseGPT
from mlpass.calibrate.calibration import Calibration
from mlpass.calibrate.walk import observe_dense, walk
from mlpass.plan.config import as_config
from mlpass.plan.steps import plan
from mlpass.program.mlpackage import Package
from mlpass.runtime import spill
from mlpass.weights.sites import find_sites
from tests.calibrate.layers import samples


@pytest.fixture
def files(monkeypatch):
    """The temporary files that are opened."""
    opened, temporary = [], tempfile.TemporaryFile
    monkeypatch.setattr(
        spill.tempfile, "TemporaryFile", lambda: opened.append(temporary()) or opened[-1]
    )
    return opened


def held():
    """How many threads each BLAS has, and what numpy does about overflows."""
    blas = ThreadpoolController().select(user_api="blas").lib_controllers
    return [library.num_threads for library in blas], np.geterr()


@pytest.fixture
def calibration():
    return Calibration(SparseGPT(), samples(8), memory_budget=0)


def leave_half_way(package, calibration, files):
    steps = plan(find_sites(package.programs), as_config(Percentile(0.5)))
    with observe_dense(package, steps, calibration) as sites:
        for number, _ in enumerate(sites):
            if number == 1:
                assert not all(file.closed for file in files)
                raise KeyError("enough")


def test_sites_that_are_left_half_way_leave_nothing_behind(mlp, calibration, files):
    before = held()
    with Package(mlp) as package, pytest.raises(KeyError, match="enough"):
        leave_half_way(package, calibration, files)
    assert files
    assert all(file.closed for file in files)
    assert held() == before


def test_sites_come_in_their_order_with_the_grams_of_all_samples(mlp, calibration):
    rows = np.concatenate([sample["x"] for sample in samples(8)])
    with Package(mlp) as package:
        steps = plan(find_sites(package.programs), as_config(Percentile(0.5)))
        with observe_dense(package, steps, calibration) as sites:
            found = [(step.site, observed) for step, observed in sites]
    assert [site for site, _ in found] == [step.site for step in steps]
    first = found[0][1]
    gram, expected = first.gram.matrix[0], rows.T @ rows
    np.testing.assert_allclose(
        gram / np.trace(gram), expected / np.trace(expected), rtol=1e-3, atol=1e-6
    )
    assert (first.samples, first.tokens, first.refusal) == (8, 64, None)


def test_sites_whose_gram_is_not_needed_are_given_without(mlp, calibration):
    with Package(mlp) as package:
        steps = plan(find_sites(package.programs), as_config(Percentile(0.5)))
        known = {steps[1].site}
        with walk(package, steps, calibration, known.__contains__) as way:
            found = {step.site: one for met in way for step, one in met.sites}
    assert [found[step.site].gram is None for step in steps] == [False, True, False]
