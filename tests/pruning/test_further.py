"""Compressed weights, compressed further: from every form to every form, without data and with."""

from __future__ import annotations

import re

import numpy as np
import pytest

import mlpass
from mlpass import ADMM, NM, Config, Lossless, OpConfig, Palette, Percentile, Quantized
from tests.pruning.further import samples, weights_of, write_source

TARGETS = {
    "zeros": OpConfig(Percentile(0.75)),
    "pattern": OpConfig(NM(3, 4)),
    "int8": OpConfig(None, Quantized("int8")),
    "palette": OpConfig(None, Palette(4, 0)),
    "zeros, int4": OpConfig(Percentile(0.75), Quantized("int4")),
    "lossless": OpConfig(None, Lossless()),
}
ANEW = r"give a storage that it is rounded to anew, such as int8 \(--quantize int8\)"
# What stays as it is, and why: weight, target, with samples or without (or either), reason.
LEFT = [
    (
        "vectors",
        "zeros|pattern",
        None,
        f"it is palettized by vectors, .* share; {ANEW}",
    ),
    ("our_sparse_palette", "zeros", None, r"Percentile\(0.75\) zeroes nothing more in it"),
    ("scaled", "zeros|pattern", None, f"its data are made by another op; {ANEW}"),
    ("palette_int8", "zeros|pattern", True, f"its lut is compressed itself; with samples {ANEW}"),
    ("", "lossless", None, "no form of the same values takes less than its"),
]


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Packages with a weight of each form, by opset; each with its weights."""
    made = {}

    def find(opset):
        if opset not in made:
            path = tmp_path_factory.mktemp("further") / "source.mlpackage"
            write_source(path, opset)
            made[opset] = path, weights_of(path)
        return made[opset]

    return find


def pruned(source, out, what, **options):
    options = {"joint_compression": True, **options}
    return mlpass.prune(source, out, Config(what, weight_threshold=1), **options)


@pytest.mark.slow_but_every(12)
@pytest.mark.parametrize(
    ("opset", "target", "calibrated"),
    [
        (opset, target, calibrated)
        for opset in (18, 16)
        for calibrated in (False, True)
        for target in TARGETS
    ],
)
def test_every_form_to_every_form(sources, tmp_path, opset, target, calibrated):
    (source, before), out = sources(opset), tmp_path / "out.mlpackage"
    given = samples()
    what = TARGETS[target]
    options = {"sample_data": given, "target": "own"} if calibrated else {}
    if what.mode is not None or opset < 18:
        options["minimum_deployment_target"] = "iOS18"
    report = pruned(source, out, what, **options)
    after = weights_of(out)
    inputs = np.concatenate([sample["x"] for sample in given]).astype(np.float64)
    for layer in report.layers:
        old, new = before[layer.name], after[layer.name]
        if layer.skipped:
            assert np.array_equal(old, new)
            assert any(
                re.match(name, layer.name)
                and re.fullmatch(targets, target)
                and samples_given in (None, calibrated)
                and re.match(reason, layer.skipped)
                for name, targets, samples_given, reason in LEFT
            ), layer
        check(layer, old, new, what, calibrated)
        if layer.error is not None:  # of the weight that coremltools decodes
            wanted, change = inputs @ old.T, inputs @ (new.astype(np.float64) - old).T
            error = np.sum(change**2) / np.sum(wanted**2)
            assert layer.error == pytest.approx(error, rel=2e-2, abs=1e-9), layer
        inputs = inputs @ new.T.astype(np.float64)
    (found,) = mlpass.Interpreter(out).predict(given[-1]).values()
    wanted = inputs[-len(found) :]
    assert np.abs(found - wanted).max() < 1e-4 * np.abs(wanted).max()


def check(layer, old, new, what, calibrated):
    """Checks a weight that coremltools decodes against what was asked for."""
    assert layer.zeros == np.count_nonzero(new == 0)
    if re.match("sparse|pairs|our_sparse", layer.name):  # its zeros stay
        assert not np.any(new[old == 0])
    if what.storage == Lossless():
        assert np.array_equal(old, new)
    if layer.skipped or what.mode is None:
        return
    assert layer.zeros >= 0.75 * new.size
    if what.storage is not None:
        return
    assert layer.bytes_after < layer.bytes_before
    if not calibrated:
        assert np.array_equal(new[new != 0], old[new != 0])
    elif layer.encoding == "sparse + palettized":  # tables stay
        assert {*np.unique(new)} <= {0, *np.unique(old)}


def test_zeros_of_a_sparse_weight_stay_where_they_are(sources, tmp_path):
    source, before = sources(16)
    out = tmp_path / "out.mlpackage"
    what = {"sparse_sparsified": OpConfig(Percentile(0.75))}
    report = mlpass.prune(
        source,
        out,
        Config(op_name_configs=what, weight_threshold=1),
        method=ADMM(),
        target="dense",
        sample_data=samples(),
    )
    layer = next(each for each in report.layers if each.name == "sparse_sparsified")
    new, old = weights_of(out)[layer.name], before[layer.name]
    assert not np.any(new[old == 0])
    assert np.count_nonzero(new) == new.size // 4
    assert layer.method.startswith("sparsegpt + refit, not admm: its zeros stay where they are")


def test_zeros_beside_codes_need_ios18(sources, tmp_path):
    source, _ = sources(16)
    report = pruned(source, tmp_path / "out.mlpackage", OpConfig(None, Quantized("int8")))
    reasons = {layer.name: layer.skipped for layer in report.layers if layer.skipped}
    assert [*reasons] == ["sparse_sparsified"]
    assert (
        "its zeros take a mask beside the codes of Quantized(int8), which needs iOS18"
        in (reasons["sparse_sparsified"])
    )


def test_what_is_sparse_needs_no_asking(sources, tmp_path):
    source, _ = sources(16)
    out = tmp_path / "out.mlpackage"
    report = pruned(source, out, OpConfig(Percentile(0.75)), joint_compression=False)
    done = {layer.name for layer in report.layers if not layer.skipped}
    assert done == {"plain", "sparse_sparsified"}
