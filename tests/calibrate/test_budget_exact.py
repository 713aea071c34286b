"""A budget leaves a weight of few values as it is, in fewer bytes, and rounds the others."""

from __future__ import annotations

import coremltools as ct
import numpy as np
import pytest
from coremltools.converters.mil.mil import Builder as mb

import mlpass
from tests.calibrate.layers import save
from tests.pruning.further import weights_of


@pytest.mark.parametrize("calibrated", [False, True])
def test_a_weight_that_was_palettized_before_stays_as_it_is(tmp_path, calibrated):
    rng = np.random.default_rng(0)
    tables = rng.standard_normal((32, 8)).astype(np.float16)
    few = np.take_along_axis(tables, rng.integers(0, 8, (32, 4 * 128)), axis=1).reshape(128, 128)
    many = rng.standard_normal((128, 128)).astype(np.float16)
    source = save(
        lambda x: mb.linear(x=mb.linear(x=x, weight=few, name="few"), weight=many, name="many"),
        tmp_path,
        (16, 128),
        minimum_deployment_target=ct.target.iOS18,
        compute_precision=ct.precision.FLOAT16,
    )
    samples = [{"x": rng.standard_normal((16, 128), np.float32)} for _ in range(16)]
    out = tmp_path / "out.mlpackage"
    report = mlpass.prune(source, out, bits=4.2, sample_data=samples if calibrated else None)
    stored = [layer.storage for layer in report.layers]
    assert stored.count("Lossless()") == 1
    assert 0.95 * report.budget.nbytes < report.budget.used <= report.budget.nbytes
    after = weights_of(out)
    assert any(np.array_equal(each, few) for each in after.values())
    assert not any(np.array_equal(each, many) for each in after.values())
