"""How far outputs are from what they were."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

import mlpass
from mlpass.calibrate.calibration import Calibration
from mlpass.calibrate.influence import influences
from mlpass.calibrate.outputs import error_of, outputs_of
from mlpass.calibrate.prices import Prices, Trial
from mlpass.program.mlpackage import Package
from mlpass.solvers.wanda import Magnitude
from mlpass.weights.sites import find_sites


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
