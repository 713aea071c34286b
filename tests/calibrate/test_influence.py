"""What a weight's error does to the model's outputs, told before any is decided."""

from __future__ import annotations

import coremltools as ct
import numpy as np
import pytest
from coremltools.converters.mil.mil import Builder as mb

from mlpass import SparseGPT
from mlpass.calibrate.calibration import Calibration
from mlpass.calibrate.influence import _spread, influences
from mlpass.calibrate.menus import Menu
from mlpass.calibrate.outputs import error_of, interpreter_of, other_weights, outputs_of
from mlpass.calibrate.prices import fixed_prices, prices_of
from mlpass.plan.steps import Step
from mlpass.program.mlpackage import Package
from mlpass.runtime.calls import Call
from mlpass.runtime.samples import functions_in
from mlpass.solvers.gram import Gram
from mlpass.solvers.solve import solve
from mlpass.sparsity.modes import Percentile
from mlpass.storage.palette import Palette
from mlpass.weights.sites import find_sites
from tests.calibrate.layers import save

ROWS = 64


@pytest.fixture(params=[128, 1024], ids=["all-rows", "some-rows"])
def towering(request, tmp_path):
    """A linear layer, one of whose tokens is a thousand times the others, and a normalization."""
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((request.param, 64)).astype(np.float32)
    inputs = rng.standard_normal((ROWS * 8, 64)).astype(np.float32)
    inputs[::ROWS] *= 1000

    def build(x):
        y = mb.linear(x=x, weight=weight, name="one")
        return mb.layer_norm(x=y, axes=[-1], epsilon=np.float32(1e-6), name="normed")

    path = save(build, tmp_path, (ROWS, 64), minimum_deployment_target=ct.target.iOS18)
    return path, weight, inputs


@pytest.mark.slow_but_every(2)
def test_what_solves_do_to_the_outputs_is_predicted_whatever_tokens_tower_over_others(towering):
    path, weight, inputs = towering
    gram = Gram(inputs.T @ inputs)
    samples = [{"x": part} for part in inputs.reshape(8, ROWS, 64)]
    calibration = Calibration(SparseGPT(), samples)
    with Package(path) as package:
        (site,) = find_sites(package.programs)
        step = Step(site, Percentile(0.0), None)
        prices = prices_of(step, gram, SparseGPT(), Menu())
        (factor,) = influences(package, {site: prices}, calibration).values()
        interpreter = interpreter_of(package, calibration)
        dense = outputs_of(interpreter, samples)
        tried = [each for each in prices.offers if each.form.storage and each.error < 0.1]
        assert len(tried) > 3
        for offer in tried:
            mode, storage = offer.form.mode, offer.form.storage
            found = solve(weight, gram, mode, method=SparseGPT(), storage=storage)
            with other_weights(interpreter, {site: found.weight}):
                changed = error_of(dense, outputs_of(interpreter, samples))
            assert 0.5 < factor * offer.error / changed < 2, str(offer.form)


@pytest.mark.parametrize("storage", [None, Palette(3)])
def test_a_form_that_is_said_is_tried_as_it_is_solved_for(storage, towering):
    path, weight, inputs = towering
    gram, mode = Gram(inputs.T @ inputs), Percentile(0.5)
    samples = [{"x": part} for part in inputs.reshape(8, ROWS, 64)]
    calibration = Calibration(SparseGPT(), samples)
    with Package(path) as package:
        (site,) = find_sites(package.programs)
        prices = fixed_prices(Step(site, mode, storage), gram, SparseGPT())
        (factor,) = influences(package, {site: prices}, calibration).values()
        interpreter = interpreter_of(package, calibration)
        dense = outputs_of(interpreter, samples)
        found = solve(weight, gram, mode, method=SparseGPT(), storage=storage)
        with other_weights(interpreter, {site: found.weight}):
            changed = error_of(dense, outputs_of(interpreter, samples))
    (offer,) = prices.offers
    assert 0.5 < factor * offer.error / changed < 2


def test_a_weight_that_the_samples_do_not_reach_counts_as_the_others_do(tmp_path):
    """Here by a product with zeros, else in a branch that is not taken, or behind a dead relu."""
    rng = np.random.default_rng(0)
    reached, other, beyond = (rng.standard_normal((64, 64)).astype(np.float32) for _ in range(3))

    def build(x, gate):
        y = mb.linear(x=mb.linear(x=x, weight=reached, name="one"), weight=other, name="two")
        return mb.add(x=y, y=mb.mul(x=mb.linear(x=x, weight=beyond, name="three"), y=gate))

    path = save(build, tmp_path, (8, 64), (8, 64))
    gate = np.zeros((8, 64), np.float32)
    samples = [{"x": rng.standard_normal((8, 64), np.float32), "gate": gate} for _ in range(8)]
    with Package(path) as package:
        sites = find_sites(package.programs)
        prices = {
            site: prices_of(Step(site, Percentile(0.0), None), None, SparseGPT(), Menu())
            for site in sites
        }
        found = influences(package, prices, Calibration(SparseGPT(), samples))
    first, second, third = (found[site] for site in sites)
    assert third == pytest.approx((first + second) / 2)
    assert min(first, second) > 0.1


def test_every_function_is_measured_however_few_its_samples():
    every = [*([Call("a", {})] * 20), Call("b", {}), *([Call("a", {})] * 20), [Call("c", {})]]
    for count in (1, 2, 8):
        found = functions_in(_spread(every, count))
        assert {*found} == {"a", "b", "c"}
    assert len(_spread([{}] * 20, 8)) == 8
