"""How far outputs are from what they were."""

from __future__ import annotations

from types import SimpleNamespace

import coremltools as ct
import numpy as np
import pytest
from coremltools.converters.mil.mil import Builder as mb

import mlpass
from mlpass.calibrate.calibration import Calibration
from mlpass.calibrate.influence import influences
from mlpass.calibrate.outputs import error_of, interpreter_of, other_weights, outputs_of
from mlpass.calibrate.prices import Prices, Trial
from mlpass.program.mlpackage import Package
from mlpass.runtime.calls import Call
from mlpass.solvers.wanda import Magnitude
from mlpass.weights.sites import find_sites
from tests.calibrate.layers import SIZE, weights
from tests.multifunction import save_functions
from tests.runtime.programs import program


def test_the_error_is_relative_and_the_mean_of_all_outputs():
    dense = [{"a": np.array([3.0, 4.0]), "b": np.ones(4), "label": "cat"}]
    other = [{"a": np.array([3.0, 5.0]), "b": np.ones(4), "label": "dog"}]
    assert error_of(dense, other) == pytest.approx((1 / 25 + 0) / 2)


def test_an_output_of_another_shape_is_wrong_as_a_whole():
    dense = [{"a": np.ones((12, 3))}, {"a": np.ones((4, 3))}]
    other = [{"a": np.ones((11, 3))}, {"a": np.ones((4, 3))}]
    assert error_of(dense, other) == pytest.approx(12 / 16)


IMAGES = [{"image": np.full((1, 1, 28, 28), grey, np.float32)} for grey in (0, 90)]


def influences_of(package, limit=2048):
    with Package(package) as opened:
        sites = [site for site in find_sites(opened.programs) if np.prod(site.shape) > limit]
        prices = {site: Prices([], Trial(0.01), work=1.0) for site in sites}
        found = influences(opened, prices, Calibration(Magnitude(), IMAGES))
        return {site.name: factor for site, factor in found.items()}


def test_a_classifiers_probabilities_tell_what_its_weights_do(fixtures):
    package = fixtures / "digits_classifier.mlpackage"
    (first, _) = outputs_of(mlpass.Interpreter(package), IMAGES)
    shown = mlpass.Interpreter(package).predict(IMAGES[0])["classLabel_probs"]
    np.testing.assert_array_equal(first["classLabel_probs"], [*shown.values()])
    assert min(influences_of(package).values()) > 0


def test_where_no_output_tells_anything_all_weights_count_alike(fixtures, monkeypatch):
    nothing = SimpleNamespace(dtype=np.dtype(int))
    monkeypatch.setattr(
        "mlpass.calibrate.influence.outputs_of", lambda *_: [{"label": nothing}, {"label": nothing}]
    )
    assert {*influences_of(fixtures / "digits_classifier.mlpackage").values()} == {1.0}


def test_an_element_that_is_not_finite_any_more_is_wrong():
    dense = [{"a": np.array([3.0, 4.0, np.inf])}]
    for lost in (np.nan, np.inf):
        other = [{"a": np.array([lost, 4.0, 0.0])}]
        assert error_of(dense, other) == pytest.approx(9 / 25)


def test_every_function_runs_with_other_weights(tmp_path):
    first, second, third = weights(3)
    package = save_functions(
        tmp_path, {"one": two_linears(first, second), "two": two_linears(first, third)}, "one"
    )
    rng = np.random.default_rng(0)
    calls = [Call(name, {"x": rng.standard_normal((8, SIZE))}) for name in ("one", "two")]
    calibration = Calibration(Magnitude(), calls, functions=("one", "two"))
    with Package(package) as opened:
        interpreter = interpreter_of(opened, calibration)
        dense = outputs_of(interpreter, calls)
        for site in find_sites(opened.programs):
            nothing = np.zeros(site.shape, np.float32)
            with other_weights(interpreter, {site: nothing}):
                changed = outputs_of(interpreter, calls)
            silent = [not next(iter(made.values())).any() for made in changed]
            assert silent == [any(name in site.functions for name in (n,)) for n in ("one", "two")]
        again = outputs_of(interpreter, calls)
    for was, now in zip(dense, again, strict=True):
        for name, value in was.items():
            np.testing.assert_array_equal(now[name], value)


def two_linears(first, second):
    def build(x):
        return mb.linear(x=mb.relu(x=mb.linear(x=x, weight=first)), weight=second, name="made")

    return program(build, (8, SIZE), opset=ct.target.iOS18)
