"""What some rows of a weight tell of all: forms' errors against those of the whole weight."""

from __future__ import annotations

import coremltools as ct
import numpy as np
import pytest
from coremltools.converters.mil.mil import Builder as mb

from mlpass import SparseGPT
from mlpass.calibrate import probes
from mlpass.calibrate.menus import DENSE, Form, Menu
from mlpass.calibrate.prices import prices_of
from mlpass.plan.steps import Step
from mlpass.program.mlpackage import Package
from mlpass.solvers.estimate import excerpt
from mlpass.solvers.gram import Gram
from mlpass.solvers.held_out import HeldOut, choose
from mlpass.solvers.solve import solve
from mlpass.sparsity.layout import matrix_layout
from mlpass.sparsity.modes import Percentile
from mlpass.storage.palette import Palette
from mlpass.weights.sites import find_sites
from tests.calibrate.layers import save


def one_layer(weight, folder, **options):
    shape = (8, weight.shape[1])
    return save(lambda x: mb.linear(x=x, weight=weight, name="one"), folder, shape, **options)


@pytest.fixture
def loud(tmp_path):
    """A linear layer with one row that outweighs all."""
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((4096, 64)).astype(np.float32)
    weight[20] *= 40
    inputs = rng.standard_normal((400, 64)) @ rng.standard_normal((64, 64))
    gram = (inputs.T @ inputs).astype(np.float32)
    step = np.abs(weight).max(axis=1, keepdims=True) / 7
    some = excerpt(weight, np.rint(weight / step) * step, matrix_layout(4096, 64), Gram(gram))
    assert len(some.weight) < 4096
    assert some.error(np.zeros_like(some.weight), Gram(gram)) == pytest.approx(1, rel=0.2)
    path = one_layer(weight, tmp_path)
    return path, weight, gram


def test_errors_of_some_rows_are_those_of_all(loud):
    path, weight, gram = loud
    with Package(path) as package:
        (site,) = find_sites(package.programs)
        step = Step(site, Percentile(0.0), None)
        prices = prices_of(step, Gram(gram), SparseGPT(), Menu(), share=0.09)
    tried = [each for each in prices.offers if each.form.storage is not None]
    assert len(tried) > 2
    for offer in tried:
        whole = solve(weight, gram, offer.form.mode, method=SparseGPT(), storage=offer.form.storage)
        assert offer.error >= 0.6 * whole.error, str(offer.form)
        if not isinstance(offer.form.storage, Palette) or offer.form.storage.group_size:
            assert offer.error == pytest.approx(whole.error, rel=0.6), str(offer.form)


@pytest.mark.slow
def test_rows_stand_for_others_by_what_solves_leave(tmp_path, monkeypatch):
    """A few inputs tower over the others, so that what plain rounding loses of a row is chance."""
    monkeypatch.setattr(probes, "_LITTLE", 1 << 40)  # all forms near the front are solved for
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((1024, 512)) * rng.lognormal(0, 1, (1024, 1))
    weight = weight.astype(np.float32)
    mix = rng.standard_normal((512, 512)) * np.geomspace(30, 0.3, 512)[:, None]
    inputs = rng.standard_normal((2048, 512)) @ mix
    inputs[::64] = inputs[0] * 300
    gram = Gram(np.float32(inputs.T @ inputs))
    path = one_layer(weight, tmp_path, minimum_deployment_target=ct.target.iOS18)
    with Package(path) as package:
        (site,) = find_sites(package.programs)
        prices = prices_of(Step(site, Percentile(0.0), None), gram, SparseGPT(), Menu())
    forms = {Form(Percentile(0.0), Palette(bits, size)) for bits in (3, 4, 6) for size in (0, 8)}
    compared = [offer for offer in prices.offers if offer.form in forms]
    assert len(compared) > 1
    for offer in compared:
        whole = solve(weight, gram, offer.form.mode, method=SparseGPT(), storage=offer.form.storage)
        assert offer.error == pytest.approx(whole.error, rel=0.2), str(offer.form)


def test_of_each_kind_those_near_the_room_and_the_smallest_are_solved_for(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((64, 64)).astype(np.float32)
    gram = Gram(np.cov(rng.standard_normal((64, 300))).astype(np.float32))
    asked = []
    telling = probes._telling

    def noted(offers, wanted):
        asked.append((offers, telling(offers, wanted)))
        return asked[-1][1]

    monkeypatch.setattr(probes, "_telling", noted)
    monkeypatch.setattr(probes, "_LITTLE", 0)
    with Package(one_layer(weight, tmp_path)) as package:
        (site,) = find_sites(package.programs)
        step, menu = Step(site, Percentile(0.0), None), Menu()
        own = menu.nbytes(site, DENSE)
        for share in (0.5, 0.25, 0.001):
            asked.clear()
            prices = prices_of(step, gram, SparseGPT(), menu, share=share)
            assert asked
            for offers, told in asked:
                if not offers:
                    continue
                sizes = [abs(np.log(offer.nbytes / (share * own))) for offer in offers]
                apart = [abs(np.log(offer.nbytes / (share * own))) for offer in told]
                assert min(apart) == min(sizes)
                assert min(told, key=lambda offer: offer.nbytes).nbytes == min(
                    offer.nbytes for offer in offers
                )
            assert sum(len(told) for _, told in asked) < sum(len(offers) for offers, _ in asked)
            assert min(offer.nbytes for offer in prices.every) < 0.15 * own  # weighed all the same


def test_few_rows_make_a_risk_of_an_error_that_seems_little(tmp_path):
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((32, 64)).astype(np.float32)
    mix = rng.standard_normal((64, 64)) * np.geomspace(1, 0.1, 64)[:, None]
    few, others = (rng.standard_normal((count, 64)) @ mix for count in (96, 2000))
    gram, learnt, held = (Gram(np.float32(x.T @ x)) for x in (few, few[12:], few[:12]))
    path = one_layer(weight, tmp_path, minimum_deployment_target=ct.target.iOS18)
    parts = HeldOut(learnt, held, 96, 12)
    with Package(path) as package:
        (site,) = find_sites(package.programs)
        prices = prices_of(Step(site, Percentile(0.0), None), gram, SparseGPT(), Menu(), parts)
    compared = [each for each in prices.every if each.form.mode == Percentile(0.0)]
    assert len({each.form for each in compared} - {each.form for each in prices.offers}) > 2
    for offer in compared:
        mode, storage = offer.form.mode, offer.form.storage
        how = {"method": SparseGPT(), "storage": storage, "layout": matrix_layout(32, 64)}
        choice = choose(weight, parts, mode, target=None, **how)
        how |= {"method": choice.method, "shrinkage": choice.shrinkage}
        lost = (solve(weight, gram, mode, **how).weight - weight).T
        seen, unseen = (
            np.square(x @ lost).sum() / np.square(x @ weight.T).sum() for x in (few, others)
        )
        assert seen < unseen, str(offer.form)
        tolerance = 0.3 if offer in prices.offers else 0.6  # of those that are not solved for
        assert offer.error == pytest.approx(seen, rel=tolerance), str(offer.form)
        assert offer.risk == pytest.approx(unseen, rel=tolerance), str(offer.form)


@pytest.mark.parametrize("silent", ["all", "kept back"])
def test_inputs_of_zeros_tell_nothing(silent, tmp_path):
    """Where all are, errors are the weight's own; where those kept back are, risks are not 0."""
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((32, 64)).astype(np.float32)
    inputs = rng.standard_normal((640, 64)).astype(np.float32)
    none, some = Gram(np.zeros((64, 64), np.float32)), Gram(inputs.T @ inputs)
    gram = none if silent == "all" else some
    path = one_layer(weight, tmp_path, minimum_deployment_target=ct.target.iOS18)
    parts = HeldOut(gram, none, 640, 80)
    with Package(path) as package:
        (site,) = find_sites(package.programs)
        step = Step(site, Percentile(0.0), None)
        prices = prices_of(step, gram, SparseGPT(), Menu(), parts)
        alone = prices_of(step, None, SparseGPT(), Menu())
    assert all(offer.risk > 0 for offer in prices.offers if offer.form.mode is not None)
    assert len(prices.offers) > 5
    if silent == "all":
        assert prices.offers == alone.offers
