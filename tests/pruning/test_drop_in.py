"""`mlpass.prune_weights` in the place of coremltools' own: its tests, and its results."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import tempfile
import types
import warnings
from pathlib import Path

import numpy as np
import pytest
from coremltools.models import MLModel
from coremltools.optimize import coreml as cto

import mlpass
from mlpass import NM, Block, Percentile, Threshold
from mlpass.errors import ModelFormatError
from mlpass.program import mlmodel
from mlpass.program.mlpackage import Package
from mlpass.program.opened import OpenPackage
from mlpass.pruning import drop_in
from tests import peer

# Their module imports torchvision, for other tests than these.
sys.modules.setdefault("torchvision", types.ModuleType("torchvision"))
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from coremltools.test.optimize.coreml import test_post_training_quantization as theirs

LARGER = "expects a sparse form that is larger than the dense one; mlpass leaves such weights dense"
EXCEPTIONS = {
    "test_weight_pruning_threshold_based[0.0]": LARGER,
    "test_weight_pruning_threshold_based[0.001]": LARGER,
    "test_weight_pruning_percentile_based[0.0]": LARGER,
}


@pytest.mark.conversion
@pytest.mark.filterwarnings("ignore")
class TestPruneWeights(theirs.TestPruneWeights):
    """coremltools' tests of `prune_weights`, with ours in its place."""

    @pytest.fixture(autouse=True)
    def _ours(self, monkeypatch, request):
        monkeypatch.setattr(cto, "prune_weights", mlpass.prune_weights)
        if reason := EXCEPTIONS.get(request.node.name):
            request.applymarker(pytest.mark.xfail(reason=reason, strict=True))


def magnitude(**options):
    return cto.OptimizationConfig(global_config=cto.OpMagnitudePrunerConfig(**options))


def threshold(value, minimum):
    return cto.OptimizationConfig(
        global_config=cto.OpThresholdPrunerConfig(
            threshold=value, minimum_sparsity_percentile=minimum
        )
    )


CASES = [
    (Threshold(0.05, 0.3), threshold(0.05, 0.3), 0),
    (Percentile(0.7), magnitude(target_sparsity=0.7), 1),
    (NM(2, 4), magnitude(n_m_ratio=(2, 4)), 0),
    (NM(1, 2, dim=0), magnitude(n_m_ratio=(1, 2), dim=0), 0),
    (Block(0.5, 4), magnitude(target_sparsity=0.5, block_size=4), 0),
    (Block(0.5, 2, dim=1), magnitude(target_sparsity=0.5, block_size=2, dim=1), 0),
]


@pytest.mark.slow_but_every(8)
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "mode", "config", "may_differ"),
    # coremltools 9.0 fails on structured modes where a constant feeds an einsum, as in `branches`.
    [("basic_pitch", *case) for case in CASES]
    + [("branches", *case) for case in CASES if not case[0].structured],
    ids=str,
)
def test_decoded_weights_are_coremltools_own(fixtures, tmp_path, name, mode, config, may_differ):
    source, out = fixtures / f"{name}.mlpackage", tmp_path / "out.mlpackage"
    report = mlpass.prune(source, out, mode)
    ours = sparse_weights(peer.load_programs(out))
    model = MLModel(str(source), skip_model_load=True)
    wanted = sparse_weights([cto.prune_weights(model, config)._mil_program])
    full = {
        layer.name
        for layer in report.layers
        if layer.encoding == "sparse" and layer.op_type in ("linear", "conv")
    }
    assert full
    compared = 0
    for layer in full:
        if layer in ours and f"{layer}_sparsified" in wanted:
            compared += 1
            different = np.count_nonzero(ours[layer] != wanted[f"{layer}_sparsified"])
            assert different <= may_differ, layer
    assert compared


def sparse_weights(programs):
    return {
        op.outputs[0].name: peer.value_of(op)
        for op in peer.all_ops(programs)
        if op.op_type == "constexpr_sparse_to_dense"
    }


def test_an_mlmodel_with_an_edited_description_keeps_it(fixtures):
    model = MLModel(str(fixtures / "digits_classifier.mlpackage"), skip_model_load=True)
    model.short_description = "edited in memory"
    model.user_defined_metadata["key"] = "value"
    pruned = mlpass.prune_weights(model, Percentile(0.5))
    assert isinstance(pruned, MLModel)
    assert pruned.short_description == "edited in memory"
    assert pruned.user_defined_metadata["key"] == "value"
    assert model.get_spec().description == pruned.get_spec().description
    assert sparse_weights([peer.load_programs(pruned.package_path)[0]])


def test_multifunction_models_are_welcome(fixtures):
    model = MLModel(
        str(fixtures / "multifunction_lm.mlpackage"), skip_model_load=True, function_name="short"
    )
    with pytest.raises(ValueError, match="not supported for a multifunction model"):
        cto.prune_weights(model, magnitude(target_sparsity=0.5))
    pruned = mlpass.prune_weights(model, magnitude(target_sparsity=0.5))
    assert pruned.function_name == "short"
    assert set(pruned.get_spec().mlProgram.functions) == {"prefill", "short"}


@pytest.mark.parametrize("name", ["palettized_digits", "quantized_digits"])
@pytest.mark.filterwarnings("ignore")
def test_joint_compression_decodes_to_coremltools_own(fixtures, name):
    model = MLModel(str(fixtures / f"{name}.mlpackage"), skip_model_load=True)
    config = magnitude(target_sparsity=0.6)
    ours = mlpass.prune_weights(model, config, joint_compression=True)
    theirs_ = cto.prune_weights(model, config, joint_compression=True)
    mine = by_reader(peer.load_programs(ours.package_path))
    wanted = by_reader([theirs_._mil_program])
    assert mine.keys() == wanted.keys()
    for reader, (op_type, value) in mine.items():
        assert op_type == wanted[reader][0], reader
        if value.size > 65504:  # where coremltools' percentile overflows fp16
            continue
        # Elements share few magnitudes here: coremltools zeroes all that equal the percentile.
        kept = wanted[reader][1] != 0
        assert np.array_equal(value[kept], wanted[reader][1][kept]), reader
        assert np.count_nonzero(value == 0) >= 0.6 * value.size - 1 or op_type == "const"


def by_reader(programs):
    return {
        op.outputs[0].name: (op.weight.op.op_type, peer.value_of(op.weight.op))
        for op in peer.all_ops(programs)
        if op.op_type in ("conv", "linear")
    }


def test_a_model_without_a_program_is_refused():
    class Other:
        package_path = None

        def get_spec(self):
            raise AssertionError("not reached")

    with pytest.raises(ModelFormatError, match="this MLModel is not an ML Program"):
        mlpass.prune_weights(Other(), Percentile(0.5))


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """The folder that temporary ones are made in."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.mark.filterwarnings("ignore")
def test_the_package_of_a_result_goes_with_it(fixtures, temporary):
    path = str(fixtures / "digits_ios15.mlpackage")
    model = MLModel(path, skip_model_load=True)
    pruned = mlpass.prune_weights(model, Percentile(0.5))
    (folder,) = temporary.iterdir()
    assert Path(pruned.package_path).parent == folder
    twice = mlpass.prune_weights(pruned, Percentile(0.75))
    assert len(list(temporary.iterdir())) == 2
    del pruned
    gc.collect()
    assert folder not in temporary.iterdir()
    del twice
    gc.collect()
    assert list(temporary.iterdir()) == []
    assert Path(path).is_dir()


@pytest.mark.filterwarnings("ignore")
def test_the_package_stays_while_something_reads_it(fixtures, temporary, tmp_path):
    source = fixtures / "digits_ios15.mlpackage"
    model = MLModel(str(source), skip_model_load=True)
    mlpass.prune(source, tmp_path / "same.mlpackage", Percentile(0.5))
    with np.load(fixtures / "digits_ios15.npz") as truth:
        (image,) = (truth[name] for name in truth.files if name.startswith("input:"))
    wanted = mlpass.Interpreter(tmp_path / "same.mlpackage").predict({"image": image})
    interpreter = mlpass.Interpreter(mlpass.prune_weights(model, Percentile(0.5)))
    gc.collect()
    assert len(list(temporary.iterdir())) == 1
    made = interpreter.predict({"image": image})
    assert made.keys() == wanted.keys()
    assert all(np.array_equal(made[name], wanted[name]) for name in made)
    del interpreter
    gc.collect()
    assert list(temporary.iterdir()) == []


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("failing", ["prune", "load"])
def test_a_failure_leaves_no_package(failing, fixtures, temporary, monkeypatch):
    model = MLModel(str(fixtures / "digits_ios15.mlpackage"), skip_model_load=True)

    def fail(*_, **__):
        raise KeyboardInterrupt

    if failing == "prune":
        monkeypatch.setattr(drop_in, "prune_package", fail)
    else:
        monkeypatch.setattr(mlmodel, "_load_mlmodel", fail)
    with pytest.raises(KeyboardInterrupt):
        mlpass.prune_weights(model, Percentile(0.5))
    assert list(temporary.iterdir()) == []


@pytest.mark.filterwarnings("ignore")
def test_what_lives_at_the_end_of_the_process_leaves_no_package(fixtures, tmp_path):
    script = (
        "import sys, mlpass\nfrom coremltools.models import MLModel\n"
        "kept = mlpass.prune_weights(MLModel(sys.argv[1], skip_model_load=True), "
        "mlpass.Percentile(0.5))\n"
        "sys.kept = kept\nprint(kept.package_path)"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script, fixtures / "digits_ios15.mlpackage"],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith(str(tmp_path))
    assert os.listdir(tmp_path) == []


@pytest.mark.conversion
@pytest.mark.filterwarnings("ignore")
def test_the_package_of_a_part_goes_with_it(fixtures, temporary):
    model = MLModel(str(fixtures / "digits_ios15.mlpackage"), skip_model_load=True)
    with Package(model.package_path) as package:
        (function,) = package.programs[0].functions.values()
        name = next(op for op in function.block.ops if op.type == "conv").outputs[0].name
    part = mlmodel.submodel(model, [name])
    assert Path(part.package_path) in temporary.iterdir()
    assert [output.name for output in part.get_spec().description.output] == [name]
    del part
    gc.collect()
    assert list(temporary.iterdir()) == []


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("joint", [False, True])
def test_the_package_is_opened_once(joint, fixtures, monkeypatch):
    opened, once = [], OpenPackage._decode
    monkeypatch.setattr(OpenPackage, "_decode", lambda self: (opened.append(self.path), once(self)))
    path = fixtures / "palettized_digits.mlpackage"
    model = MLModel(str(path), skip_model_load=True)
    mlpass.prune_weights(model, Percentile(0.6), joint_compression=joint)
    assert len(opened) == 2  # and what was written is looked at once
