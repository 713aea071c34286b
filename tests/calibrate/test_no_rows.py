"""Experts: a sample none of whose tokens reach a weight adds nothing to what is known of it."""

from __future__ import annotations

import numpy as np
import pytest
from coremltools.converters.mil.mil import Builder as mb

import mlpass
from mlpass import ADMM, Percentile, SparseGPT, Wanda
from tests.calibrate.layers import samples, save, weights, weights_of
from tests.program.packages import tree


@pytest.fixture
def expert(tmp_path):
    """Tokens (8, SIZE) whose first element is above 0 go through two layers, and are added up."""
    first, second = weights(2)

    def build(x):
        chosen = mb.greater(
            x=mb.slice_by_index(x=x, begin=[0, 0], end=[8, 1], squeeze_mask=[False, True]), y=0.0
        )
        rows = mb.squeeze(x=mb.non_zero(x=mb.cast(x=chosen, dtype="fp32")), axes=[1])
        tokens = mb.gather(x=x, indices=rows, axis=0)
        tokens = mb.relu(x=mb.linear(x=tokens, weight=first, name="first"))
        tokens = mb.linear(x=tokens, weight=second, name="second")
        return mb.reduce_sum(x=tokens, axes=[0], keep_dims=False)

    return save(build, tmp_path)


def reaching(count, tokens):
    """Samples of which so many tokens are chosen."""
    found = samples(count, seed=tokens)
    for sample in found:
        sample["x"][:, 0] = np.where(np.arange(8) < tokens, 1, -1) * np.abs(sample["x"][:, 0])
    return found


@pytest.mark.slow_but_every(2)
@pytest.mark.parametrize("method", [Wanda(), SparseGPT(), ADMM()], ids=str)
@pytest.mark.parametrize("backend", ["numpy", "torch"])
def test_samples_without_tokens_add_nothing(expert, tmp_path, backend, method):
    some, none = reaching(8, 5), reaching(8, 0)
    mixed = [sample for pair in zip(none, some, strict=True) for sample in pair]
    options = {"backend": backend, "method": method}
    both, alone = tmp_path / "both.mlpackage", tmp_path / "alone.mlpackage"
    report = mlpass.prune(expert, both, Percentile(0.5), sample_data=mixed, **options)
    mlpass.prune(expert, alone, Percentile(0.5), sample_data=some, **options)

    assert [(layer.samples, layer.tokens) for layer in report.layers] == [(8, 40), (8, 40)]
    if backend == "numpy":
        assert tree(both) == tree(alone)
    for found, wanted in zip(weights_of(both).values(), weights_of(alone).values(), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("backend", ["numpy", "torch"])
def test_where_no_sample_has_tokens_none_reaches_it(expert, tmp_path, backend):
    report = mlpass.prune(
        expert,
        tmp_path / "o.mlpackage",
        Percentile(0.5),
        sample_data=reaching(3, 0),
        backend=backend,
    )
    assert {layer.skipped for layer in report.layers} == {"no sample reaches it"}


def test_what_none_reaches_is_compared_and_measured(expert, tmp_path):
    none, some = reaching(2, 0), reaching(2, 3)
    out = tmp_path / "o.mlpackage"
    mlpass.prune(expert, out, Percentile(0.5), sample_data=some)
    (output,) = mlpass.compare(expert, out, none).outputs
    assert output.max_error == 0
    report = mlpass.sensitivity(expert, none, [0.5])
    assert {layer.skipped for layer in report.layers} == {"no sample reaches it"}
