"""Constants that are not weights: smaller with a budget, and the very same values."""

from __future__ import annotations

import coremltools as ct
import numpy as np
import pytest
from coremltools.converters.mil.mil import Builder as mb

import mlpass
from mlpass.calibrate.constants import exact_constants
from mlpass.program.mlpackage import Package
from mlpass.weights.footprint import footprint, rest_of_files
from mlpass.weights.sites import find_sites
from tests.calibrate.layers import SIZE, samples, save, weights
from tests.multifunction import save_functions
from tests.runtime.programs import program

WEIGHTS = "Data/com.apple.CoreML/weights/weight.bin"
MASK = np.triu(np.full((SIZE, SIZE), -1e4, np.float32), 1)


def masked(mask, op=mb.add):
    (weight,) = weights(1)

    def build(x):
        return op(x=mb.linear(x=x, weight=weight), y=mask, name="one")

    return build


@pytest.fixture
def model(tmp_path):
    return save(masked(MASK), tmp_path, (SIZE, SIZE))


def test_a_mask_takes_a_bit_an_element_and_gives_the_same(model, tmp_path):
    out = tmp_path / "out.mlpackage"
    report = mlpass.prune(model, out, budget="0.3x")
    (layer,) = [layer for layer in report.layers if layer.op_type == "add"]
    assert layer.encoding == "palettized"
    assert SIZE * SIZE / 8 <= layer.bytes_after < SIZE * SIZE / 4
    size = (out / WEIGHTS).stat().st_size
    assert size <= 0.3 * (model / WEIGHTS).stat().st_size
    # Whole numbers, so that nothing but the weight differs: without it, the outputs are the mask's.
    nothing = {"x": np.zeros((SIZE, SIZE), np.float32)}
    before, after = (mlpass.Interpreter(path).predict(nothing)["one"] for path in (model, out))
    np.testing.assert_array_equal(after, before)
    assert np.unique(after).size == 2


def test_what_it_takes_is_known_before(model):
    with Package(model) as package:
        (exact,) = exact_constants(package.programs)
        makers = set(exact.step.site.makers)
        saved = rest_of_files(package.programs, ()) - rest_of_files(package.programs, makers)
    assert exact.nbytes < saved / 8


@pytest.mark.parametrize(
    "mask",
    [
        np.triu(np.full((SIZE, SIZE), -np.inf, np.float32), 1),
        np.random.default_rng(0).standard_normal((SIZE, SIZE)).astype(np.float32),
        MASK[:8],
    ],
    ids=["inf", "all differ", "small"],
)
def test_what_is_not_smaller_stays(mask, tmp_path):
    rows = len(mask)
    with Package(save(masked(mask), tmp_path, (rows, SIZE))) as package:
        assert exact_constants(package.programs) == []


def test_what_others_read_stays(tmp_path):
    (weight,) = weights(1)

    def build(x):
        shared = mb.const(val=MASK)
        return mb.add(x=mb.linear(x=mb.linear(x=x, weight=shared), weight=weight), y=shared)

    with Package(save(build, tmp_path, (SIZE, SIZE))) as package:
        assert exact_constants(package.programs) == []


def test_with_samples_too(model, tmp_path):
    given = samples(16, rows=SIZE)
    report = mlpass.prune(model, tmp_path / "out.mlpackage", budget="0.3x", sample_data=given)
    assert [layer.op_type for layer in report.layers] == ["linear", "add"]
    assert report.budget.used <= report.budget.nbytes


def test_what_other_functions_read_as_well_stays(tmp_path):
    shared, *others = weights(3)
    package = save_functions(
        tmp_path,
        {name: linears(shared, own) for name, own in zip("ab", others, strict=True)},
        "a",
    )
    with Package(package) as opened:
        (site,) = (s for s in find_sites(opened.programs) if len(s.functions) == 2)
        whole = rest_of_files(opened.programs, ())
        assert rest_of_files(opened.programs, {site.makers[0]}) == whole
        assert rest_of_files(opened.programs, {*site.makers}) == whole - footprint(site.makers)


def linears(first, second):
    return program(
        lambda x: mb.linear(x=mb.linear(x=x, weight=first), weight=second, name="made"),
        (8, SIZE),
        opset=ct.target.iOS18,
    )
