"""Calibrated runs on torch: numpy's results, with activations, Grams and solvers on one device."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest

import mlpass
from mlpass import ADMM, NM, Percentile, SparseGPT, Wanda, arrays
from mlpass.program.mlpackage import Package
from mlpass.weights.reading import weight_of
from mlpass.weights.sites import find_sites

torch = pytest.importorskip("torch")
from tests import pretended  # noqa: E402 - imports torch

RNG = np.random.default_rng(0)
SAMPLES = {
    # Its embedding is its head as well: gathered from, and multiplied with.
    "tiny_lm": [{"tokens": RNG.integers(0, 256, (1, 64)).astype(np.int32)} for _ in range(24)],
    "digits_classifier": [
        {"image": RNG.uniform(0, 255, (1, 1, 28, 28)).astype(np.float32)} for _ in range(16)
    ],
}
# What rounding flips in one layer, the layers after it meet.
APART, DEVICE = (pytest.param(name, marks=pytest.mark.slow) for name in ("apart", "device"))
TOLERANCES = [
    (Wanda(), Percentile(0.5), 1e-3),
    (SparseGPT(), Percentile(0.5), 0.1),
    (SparseGPT(), NM(2, 4), 0.1),
    (ADMM(), NM(2, 4), 0.1),
]


@contextlib.contextmanager
def place(name, monkeypatch):
    """Yields the device that stands for `name`, and the context that knows what left it."""
    if name == "apart":  # torch's own form of the solvers, on the processor
        monkeypatch.setattr(arrays, "_SHARED", frozenset())
    if name == "device":
        monkeypatch.setattr(arrays, "_SINGLE", frozenset({pretended.NAME}))
        with pretended.Pretending() as context:
            yield pretended.NAME, context
    else:
        yield "cpu", None


def weights_of(package):
    """Decoded weights by name."""
    with Package(package) as opened:
        return {site.name: np.array(weight_of(site)) for site in find_sites(opened.programs)}


@pytest.mark.slow_but_every(24)
@pytest.mark.parametrize("name", ["shared", APART, DEVICE])
@pytest.mark.parametrize(("method", "mode", "tolerance"), TOLERANCES, ids=str)
@pytest.mark.parametrize("model", SAMPLES)
def test_a_run_on_torch_comes_out_as_numpys(
    fixtures, tmp_path, monkeypatch, model, method, mode, tolerance, name
):
    options = {"method": method, "sample_data": SAMPLES[model], "target": "own"}
    source, ours, theirs = fixtures / f"{model}.mlpackage", tmp_path / "a", tmp_path / "b"
    wanted = mlpass.prune(source, ours.with_suffix(".mlpackage"), mode, **options)
    with place(name, monkeypatch) as (device, _):
        options |= {"backend": "torch", "device": device}
        found = mlpass.prune(source, theirs.with_suffix(".mlpackage"), mode, **options)
    for one, other in zip(wanted.layers, found.layers, strict=True):
        assert (one.name, one.zeros, one.skipped) == (other.name, other.zeros, other.skipped)
        assert (one.samples, one.tokens) == (other.samples, other.tokens)
        if one.error is not None:
            if one.shrinkage == other.shrinkage:  # two may be as good
                few = 2 * tolerance  # rows that are kept back: what they say varies more
                assert other.error_held == pytest.approx(one.error_held, rel=few)
                assert other.error == pytest.approx(one.error, rel=tolerance)
            assert other.error_before == pytest.approx(one.error_before, rel=tolerance)
    if isinstance(method, Wanda):
        kept = weights_of(ours.with_suffix(".mlpackage"))
        for site, weight in weights_of(theirs.with_suffix(".mlpackage")).items():
            assert np.mean((weight != 0) != (kept[site] != 0)) <= 1e-3


@pytest.mark.slow_but_every(4)
@pytest.mark.parametrize("target", ["own", "dense"])
@pytest.mark.parametrize("model", SAMPLES)
def test_no_activation_and_no_gram_leaves_the_device(
    fixtures, tmp_path, monkeypatch, model, target
):
    source = fixtures / f"{model}.mlpackage"
    shapes = [weight.shape for weight in weights_of(source).values()]
    with place("device", monkeypatch) as (device, context):
        report = mlpass.prune(
            source,
            tmp_path / "out.mlpackage",
            Percentile(0.5),
            method=SparseGPT(),
            sample_data=SAMPLES[model],
            target=target,
            backend="torch",
            device=device,
        )
    pruned = [layer for layer in report.layers if layer.skipped is None]
    # Weights and masks do, to be written; vectors: diagonals, and how often rows are read; and what
    # weights are to be for the dense model's outputs, which is of their size.
    matrices = [shape for shape in context.fetched if len(shape) > 1 and min(shape) > 1]
    assert len(matrices) == 2 * len(pruned)
    assert set(matrices) <= set(shapes)
    most = max(max(shape[-1], np.prod(shape[1:])) for shape in shapes)
    if target == "dense":
        most = max(np.prod(shape) for shape in shapes)
    assert max(np.prod(shape) for shape in context.fetched if shape not in matrices) <= most


@pytest.mark.slow
@pytest.mark.parametrize(
    "option",
    [
        {"storage": "int4"},
        pytest.param({"allocate": "error"}, marks=pytest.mark.slow),
        pytest.param({"allocate": "owl"}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_joint_and_divided_runs_end_alike(fixtures, tmp_path, monkeypatch, option):
    source, samples = fixtures / "multifunction_lm.mlpackage", SAMPLES["tiny_lm"]
    reports = []
    for name in ("numpy", "device"):
        with place(name, monkeypatch) as (device, _):
            how = {} if name == "numpy" else {"backend": "torch", "device": device}
            out = tmp_path / f"{name}.mlpackage"
            reports.append(
                mlpass.prune(source, out, Percentile(0.5), sample_data=samples, **option, **how)
            )
    for one, other in zip(*(report.layers for report in reports), strict=True):
        assert one.encoding == other.encoding
        assert one.sparsity == pytest.approx(other.sparsity, abs=0.02)
