"""What some rows of a weight tell of all: forms' errors against those of the whole weight."""

from __future__ import annotations

import numpy as np
import pytest
from coremltools.converters.mil.mil import Builder as mb

from mlpass import SparseGPT
from mlpass.calibrate.menus import Menu
from mlpass.calibrate.prices import prices_of
from mlpass.plan.steps import Step
from mlpass.program.mlpackage import Package
from mlpass.solvers.estimate import excerpt
from mlpass.solvers.gram import Gram
from mlpass.solvers.held_out import HeldOut
from mlpass.solvers.solve import solve
from mlpass.sparsity.layout import matrix_layout
from mlpass.sparsity.modes import Percentile
from mlpass.storage.palette import Palette
from mlpass.weights.sites import find_sites
from tests.calibrate.layers import save


@pytest.fixture
def loud(tmp_path):
    """A linear layer with one row that outweighs all."""
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((512, 64)).astype(np.float32)
    weight[20] *= 40
    inputs = rng.standard_normal((400, 64)) @ rng.standard_normal((64, 64))
    gram = (inputs.T @ inputs).astype(np.float32)
    step = np.abs(weight).max(axis=1, keepdims=True) / 7
    some = excerpt(weight, np.rint(weight / step) * step, matrix_layout(512, 64), Gram(gram))
    assert len(some.weight) < 512
    assert some.error(np.zeros_like(some.weight), Gram(gram)) == pytest.approx(1, rel=0.2)
    path = save(lambda x: mb.linear(x=x, weight=weight, name="one"), tmp_path)
    return path, weight, gram


def test_errors_of_some_rows_are_those_of_all(loud):
    path, weight, gram = loud
    with Package(path) as package:
        (site,) = find_sites(package.programs)
        step = Step(site, Percentile(0.0), None)
        prices = prices_of(step, Gram(gram), SparseGPT(), Menu())
    tried = [each for each in prices.offers if each.form.storage is not None]
    assert len(tried) > 2
    for offer in tried:
        whole = solve(weight, gram, offer.form.mode, method=SparseGPT(), storage=offer.form.storage)
        assert offer.error >= 0.6 * whole.error, str(offer.form)
        if not isinstance(offer.form.storage, Palette) or offer.form.storage.group_size:
            assert offer.error == pytest.approx(whole.error, rel=0.6), str(offer.form)


def test_few_rows_make_a_risk_of_an_error_that_seems_little(tmp_path):
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((32, 64)).astype(np.float32)
    mix = rng.standard_normal((64, 64)) * np.geomspace(1, 0.1, 64)[:, None]
    few, others = (rng.standard_normal((count, 64)) @ mix for count in (96, 2000))
    gram, learnt, held = (Gram(np.float32(x.T @ x)) for x in (few, few[12:], few[:12]))
    path = save(lambda x: mb.linear(x=x, weight=weight, name="one"), tmp_path)
    with Package(path) as package:
        (site,) = find_sites(package.programs)
        step = Step(site, Percentile(0.0), None)
        prices = prices_of(step, gram, SparseGPT(), Menu(), HeldOut(learnt, held, 96, 12))
    tried = [each for each in prices.offers if each.form.storage is not None]
    assert tried
    for offer in tried:
        mode, storage = offer.form.mode, offer.form.storage
        found = solve(weight, gram, mode, method=SparseGPT(), storage=storage).weight
        truth = np.square(others @ (found - weight).T).sum() / np.square(others @ weight.T).sum()
        assert offer.error < 0.8 * truth, str(offer.form)
        assert offer.risk == pytest.approx(truth, rel=0.3), str(offer.form)
