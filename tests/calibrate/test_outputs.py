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
from mlpass.calibrate.outputs import (
    error_of,
    interpreter_of,
    other_weights,
    outputs_of,
    outputs_with,
)
from mlpass.calibrate.prices import Prices, Trial
from mlpass.program.mlpackage import Package
from mlpass.runtime.calls import Call
from mlpass.runtime.onward import can_go_on
from mlpass.runtime.samples import functions_in
from mlpass.solvers.wanda import Magnitude
from mlpass.weights.reading import weight_of
from mlpass.weights.sites import find_sites
from tests.calibrate.layers import SIZE, save, weights
from tests.finetune.samples import samples_of
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
    monkeypatch.setattr(
        "mlpass.calibrate.influence.outputs_with",
        lambda interpreter, samples, changes: [[{"label": nothing}] * 2 for _ in changes],
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


ONE_PROGRAM = ["tiny_lm", "digits_classifier", "basic_pitch", "branches", "palettized_digits"]
ONE_PROGRAM += ["silero_vad", "multifunction_lm"]
OTHERS = ["stateful_lm", "digits_pipeline"]


@pytest.mark.parametrize("backend", ["numpy", "torch"])
@pytest.mark.parametrize("name", ONE_PROGRAM + OTHERS)
def test_with_one_change_after_another_a_model_gives_what_it_does_with_each(
    name, backend, fixtures
):
    """Whether it goes on from where a weight is read, or runs as a whole; in any order."""
    if backend == "torch":
        pytest.importorskip("torch")
    samples = samples_of(f"{name}.mlpackage", 2)
    functions = functions_in(samples)
    calibration = Calibration(Magnitude(), samples, functions=functions, backend=backend)
    with Package(fixtures / f"{name}.mlpackage") as opened:
        interpreter = interpreter_of(opened, calibration)
        assert can_go_on(interpreter) == (name in ONE_PROGRAM)
        sites = [site for site in find_sites(opened.programs) if is_run(interpreter, site)]
        one, two, *_, last = sites
        changes = [{site: halved(site) for site in some} for some in ([one], [two], [last])]
        changes += [{site: halved(site) for site in some} for some in ([last, one], [two])]
        with interpreter.backend.held():
            dense = outputs_of(interpreter, samples)
            made = [*outputs_with(interpreter, samples, changes)]
            for change, found in zip(changes, made, strict=True):
                with other_weights(interpreter, change):
                    wanted = outputs_of(interpreter, samples)
                assert_equal(found, wanted)
            assert error_of(dense, made[0]) > 0 or name == "branches"  # one is not taken
            assert_equal(outputs_of(interpreter, samples), dense)


@pytest.mark.parametrize("name", ["one", None])
def test_a_weight_of_a_function_that_is_not_run_changes_nothing(name, tmp_path):
    """Alone, beside one that is run, and after all that is read."""
    first, second, third = weights(3)
    package = save_functions(
        tmp_path, {"one": two_linears(first, second), "two": two_linears(first, third)}, "one"
    )
    samples = [{"x": np.random.default_rng(0).standard_normal((8, SIZE), np.float32)}]
    calibration = Calibration(Magnitude(), samples, function_name=name)
    with Package(package) as opened:
        interpreter = interpreter_of(opened, calibration)
        dense = outputs_of(interpreter, samples)
        sites = find_sites(opened.programs)
        (other,) = (site for site in sites if not is_run(interpreter, site))
        run = next(site for site in sites if is_run(interpreter, site))
        changes = [{other: halved(other)}, {site: halved(site) for site in (other, run)}, {}]
        alone, beside, nothing = outputs_with(interpreter, samples, changes)
        assert_equal(alone, dense)
        assert_equal(nothing, dense)
        with other_weights(interpreter, {run: halved(run)}):
            assert_equal(beside, outputs_of(interpreter, samples))


def is_run(interpreter, site):
    values = {maker.outputs[-1] for maker in site.makers}
    return any(value in part.constants for part in interpreter.parts for value in values)


def halved(site):
    weight = weight_of(site)
    return weight * weight.dtype.type(0.5)


def assert_equal(first, second):
    for one, other in zip(first, second, strict=True):
        assert one.keys() == other.keys()
        for name, value in one.items():
            np.testing.assert_array_equal(value, other[name])


def test_weights_within_control_flow_are_others_there(tmp_path):
    """Here in the body of a loop, which reads it again and again."""
    first, second = weights(2)

    def build(x):
        y = mb.linear(x=x, weight=first)
        made = mb.while_loop(
            _cond=lambda value: mb.less(x=mb.reduce_sum(x=mb.abs(x=value)), y=np.float32(1e6)),
            _body=lambda value: mb.mul(x=mb.linear(x=value, weight=second), y=np.float32(9)),
            loop_vars=(y,),
        )
        return mb.identity(x=made, name="made")

    package = save(build, tmp_path, (8, SIZE))
    samples = [{"x": np.random.default_rng(0).standard_normal((8, SIZE), np.float32)}]
    with Package(package) as opened:
        interpreter = interpreter_of(opened, Calibration(Magnitude(), samples))
        sites = find_sites(opened.programs)
        assert len(sites) == 2
        changes = [{site: halved(site)} for site in (*sites, *reversed(sites))]
        for change, found in zip(changes, outputs_with(interpreter, samples, changes), strict=True):
            with other_weights(interpreter, change):
                assert_equal(found, outputs_of(interpreter, samples))
