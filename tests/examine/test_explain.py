"""`explain`: what coremltools made is said to be what it is, and the command that mends it does."""

from __future__ import annotations

import json
import shlex
import warnings

import coremltools as ct
import coremltools.optimize.coreml as cto
import numpy as np
import pytest

import mlpass
from mlpass.cli import main
from mlpass.errors import ConfigError
from mlpass.sparsity import pieces
from mlpass.weights import decoding, lossless, rows
from tests import peer
from tests.weights.test_lossless import linear, optimized, weights_of

RANDOM = np.random.default_rng(8)
PRUNER = cto.OpMagnitudePrunerConfig


def compressed(folder, weight, *steps, target=ct.target.iOS18):
    """The path of a package with a weight that coremltools' functions compressed in turn."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # coremltools leaves a directory behind
        path = linear(folder, weight, target)
        model = ct.models.MLModel(str(path), skip_model_load=True)
        for step, config, options in steps:
            model = step(model, config, **options)
        model.save(str(folder / "made.mlpackage"))
        del model
    return folder / "made.mlpackage"


def dense():
    return RANDOM.standard_normal((64, 64)).astype(np.float16)


def prune(sparsity):
    return cto.prune_weights, optimized(PRUNER, target_sparsity=sparsity), {}


def palettize(**options):
    config = optimized(cto.OpPalettizerConfig, mode="uniform", nbits=4)
    return cto.palettize_weights, config, options


def quantize(**options):
    config = optimized(cto.OpLinearQuantizerConfig, dtype="int8")
    return cto.linear_quantize_weights, config, options


def findings(explanation, kind):
    return [each for each in explanation.findings if each.kind == kind]


def cured(finding, monkeypatch, folder):
    """The package that the command of a finding writes."""
    monkeypatch.chdir(folder)
    words = shlex.split(finding.cure)
    assert words[0] == "mlpass"
    assert main(words[1:]) == 0
    return folder / words[words.index("-o") + 1]


@pytest.mark.parametrize("step", [palettize, quantize])
def test_a_sparse_model_that_coremltools_left_unquantized_is_found(tmp_path, monkeypatch, step):
    fake = compressed(tmp_path, dense(), prune(0.5), step())
    types = {op.op_type for op in peer.all_ops(peer.load_programs(fake))}
    assert "constexpr_sparse_to_dense" in types
    assert not types & {"constexpr_lut_to_sparse", "constexpr_sparse_blockwise_shift_scale"}
    (finding,) = findings(mlpass.explain(fake), "not quantized")
    assert "zeros alone" in finding.text
    assert "joint_compression=True" in finding.text
    target = cured(finding, monkeypatch, tmp_path)
    assert mlpass.inspect(target).layers[0].encoding == "sparse + palettized"
    (ours,), (wanted,) = weights_of(target), weights_of(fake)
    assert np.array_equal(ours == 0, wanted == 0)
    real = compressed(tmp_path / "real", dense(), prune(0.5), step(joint_compression=True))
    assert not findings(mlpass.explain(real), "not quantized")


def test_values_on_few_levels_in_a_sparse_fp16_file_are_stored_so(tmp_path, monkeypatch):
    levels = (RANDOM.integers(-7, 8, (64, 64)) * 0.03125).astype(np.float16)
    fake = compressed(tmp_path, levels, prune(0.5))
    explanation = mlpass.explain(fake)
    (finding,) = findings(explanation, "not quantized")
    assert "quantized in name alone" in finding.text
    (weight,) = explanation.weights
    assert weight.encoding == "sparse"
    assert weight.bits > 6
    target = cured(finding, monkeypatch, tmp_path)
    (ours,), (wanted,) = weights_of(target), weights_of(fake)
    assert np.array_equal(ours, wanted)
    (layer,) = mlpass.inspect(target).layers
    assert layer.bytes_after == weight.smallest_nbytes < weight.nbytes / 2
    assert not findings(mlpass.explain(target), "not quantized")
    assert mlpass.explain(target).nbytes == mlpass.explain(target).smallest_nbytes


def test_a_mask_that_costs_more_than_it_saves_is_found(tmp_path, monkeypatch):
    source = compressed(tmp_path, dense(), prune(0.02))
    (finding,) = findings(mlpass.explain(source), "mask")
    assert finding.text == "the mask costs more than it saves: too few zeros"
    target = cured(finding, monkeypatch, tmp_path)
    assert mlpass.inspect(target).layers[0].encoding == "dense"
    assert not findings(mlpass.explain(compressed(tmp_path / "b", dense(), prune(0.5))), "mask")


def test_a_form_that_needs_ios18_is_named_with_the_target(tmp_path, monkeypatch):
    weight = np.stack([RANDOM.choice(dense()[0], 64) for _ in range(64)])
    weight = np.where(RANDOM.random(weight.shape) < 0.8, 0, RANDOM.choice(weight[0, :7], (64, 64)))
    source = linear(tmp_path, weight.astype(np.float16), ct.target.iOS17)
    explanation = mlpass.explain(source)
    (larger,), (newer,) = (
        findings(explanation, kind) for kind in ("larger than needed", "needs iOS18")
    )
    assert newer.text.endswith("needs iOS18; this is iOS17")
    assert newer.cure == f"{larger.cure} --minimum-deployment-target iOS18"
    target = cured(newer, monkeypatch, tmp_path)
    (ours,), (wanted,) = weights_of(target), weights_of(source)
    assert np.array_equal(ours, wanted)
    assert mlpass.inspect(target).layers[0].bytes_after < explanation.smallest_nbytes


def test_what_is_left_alone_is_said_with_its_reason(tmp_path):
    source = linear(tmp_path, dense()[:16])
    (finding,) = findings(mlpass.explain(source), "left")
    assert "its 1024 elements are no more than weight_threshold 2048" in finding.text
    assert finding.cure is None


def test_facts_are_of_the_processor_that_is_asked_for(tmp_path):
    source = compressed(tmp_path, dense(), prune(0.5))
    kinds = {each.processor for each in mlpass.explain(source).findings}
    assert kinds == {None, "ane", "cpu", "gpu"}
    for processor in ("ane", "cpu", "gpu"):
        found = mlpass.explain(source, processor=processor).findings
        assert {each.processor for each in found} == {None, processor}
    with pytest.raises(ConfigError, match="processor: must be one of ane, cpu, gpu, or None"):
        mlpass.explain(source, processor="tpu")


def test_zeros_in_a_pattern_that_a_processor_gains_from_are_no_finding(tmp_path):
    config = optimized(PRUNER, n_m_ratio=(2, 4))
    source = compressed(tmp_path, dense(), (cto.prune_weights, config, {}))
    kinds = [each.processor for each in findings(mlpass.explain(source), "zeros")]
    assert kinds == ["ane", "gpu"]
    config = optimized(PRUNER, target_sparsity=0.5, block_size=2)
    source = compressed(tmp_path / "b", dense(), (cto.prune_weights, config, {}))
    kinds = [each.processor for each in findings(mlpass.explain(source), "zeros")]
    assert kinds == ["cpu", "gpu"]


def test_a_table_for_each_row_is_slow_on_the_neural_engine(tmp_path):
    few, eight = tmp_path / "few.mlpackage", tmp_path / "eight.mlpackage"
    source = linear(tmp_path, dense())
    mlpass.prune(source, few, storage=mlpass.Palette(2, 4))
    mlpass.prune(source, eight, storage=mlpass.Palette(2, 8))
    assert [each.processor for each in findings(mlpass.explain(few), "tables")] == ["ane"]
    assert not findings(mlpass.explain(eight), "tables")


def test_the_command_prints_a_table_or_json(tmp_path, capsys):
    source = compressed(tmp_path, dense(), prune(0.5))
    assert main(["explain", str(source), "--for", "gpu"]) == 0
    text = capsys.readouterr().out
    assert "stored as" in text
    assert "[gpu]" in text
    assert "[ane]" not in text
    assert main(["explain", str(source), "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["weights"][0]["bits"] == pytest.approx(9, abs=0.1)
    assert content["bytes"] == content["weights"][0]["nbytes"]
    assert {"kind", "processor", "text", "cure", "weights"} == content["findings"][0].keys()


@pytest.mark.slow_but_every(3)
@pytest.mark.parametrize(
    "mode", [mlpass.NM(2, 4), mlpass.Block(0.5, 2), mlpass.Percentile(0.8)], ids=str
)
def test_a_large_weight_is_explained_by_its_rows(mode, tmp_path, monkeypatch):
    """It says the same, and never has all of a weight before it."""
    weight = RANDOM.integers(-7, 8, (90, 64)).astype(np.float16)
    source = linear(tmp_path, weight, ct.target.iOS18)
    mlpass.prune(source, tmp_path / "sparse.mlpackage", mode)
    for path in (source, tmp_path / "sparse.mlpackage"):
        whole = mlpass.explain(path)
        with monkeypatch.context() as changed:
            for module in (lossless, pieces, decoding):
                changed.setattr(module, "WHOLE", 1000)
            changed.setattr(pieces, "SLAB", 640)
            changed.setattr(rows, "SLAB", 320)
            changed.setattr(lossless, "weight_of", None)
            assert mlpass.explain(path) == whole
