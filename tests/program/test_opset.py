"""Raising iOS15 programs: what iOS16 added to ops is stated, and means what was before."""

from __future__ import annotations

import coremltools as ct
import numpy as np
import pytest
from coremltools.converters.mil import Builder as mb
from coremltools.optimize import coreml as cto

import mlpass
from tests import peer

RAISED = ("gather", "gather_nd", "topk", "crop_resize")


@pytest.fixture(scope="module", params=[np.float16, np.float32], ids=["fp16", "fp32"])
def old_package(request, tmp_path_factory):
    """An iOS15 package with every op that gained parameters, and one in a nested block."""
    dtype = ct.converters.mil.mil.types.numpy_type_to_builtin_type(request.param)
    rng = np.random.default_rng(0)

    @mb.program(
        input_specs=[mb.TensorSpec((1, 64), dtype), mb.TensorSpec((1, 3, 8, 8), dtype)],
        opset_version=ct.target.iOS15,
    )
    def program(x, image):
        weight = rng.standard_normal((64, 64)).astype(request.param)
        x = mb.linear(x=x, weight=weight, name="dense")
        picked = mb.gather(x=x, indices=np.array([3, 1], np.int32), axis=1)
        nested = mb.cond(
            pred=mb.greater(x=mb.reduce_sum(x=x, axes=[0, 1]), y=request.param(0)),
            _true_fn=lambda: mb.gather(x=x, indices=np.array([0], np.int32), axis=1),
            _false_fn=lambda: mb.gather(x=x, indices=np.array([2], np.int32), axis=1),
        )
        point = mb.gather_nd(x=x, indices=np.array([[0, 5]], np.int32))
        values, places = mb.topk(x=x, k=3, axis=1)
        roi = np.array([[[[[0]], [[0]], [[0]], [[1]], [[1]]]]], request.param).reshape(
            1, 1, 5, 1, 1
        )
        cut = mb.crop_resize(
            x=image, roi=roi, target_height=4, target_width=4, normalized_coordinates=True
        )
        return picked, nested, point, values, places, cut

    path = tmp_path_factory.mktemp("old") / "old.mlpackage"
    model = ct.convert(
        program,
        convert_to="mlprogram",
        minimum_deployment_target=ct.target.iOS15,
        compute_precision=ct.precision.FLOAT32,
        pass_pipeline=ct.PassPipeline.EMPTY,
        skip_model_load=True,
    )
    model.save(str(path))
    return path


def settings(programs):
    """The constant parameters of the ops that were raised, in order."""
    found = []
    for op in peer.all_ops(programs):
        if op.op_type in RAISED:
            constants = {
                parameter: np.asarray(var.val).tolist()
                for parameter, var in op.inputs.items()
                if var is not None and var.val is not None
            }
            found.append((op.op_type, constants))
    return found


@pytest.mark.filterwarnings("ignore")
def test_raised_ops_are_those_that_coremltools_makes(old_package, tmp_path):
    out = tmp_path / "out.mlpackage"
    report = mlpass.prune(old_package, out, mlpass.Percentile(0.5))
    assert [layer.encoding for layer in report.layers] == ["sparse"]
    ours = peer.load_programs(out)
    assert [op.op_type for op in peer.running_ops(peer.all_ops(ours))] == [
        op.op_type for op in peer.running_ops(peer.all_ops(peer.load_programs(old_package)))
    ]
    if report.layers[0].dtype == "fp16":  # where coremltools' own raising fails, on crop_resize
        return
    model = ct.models.MLModel(str(old_package), skip_model_load=True)
    config = cto.OptimizationConfig(cto.OpMagnitudePrunerConfig(target_sparsity=0.5))
    wanted = settings([cto.prune_weights(model, config)._mil_program])
    assert len(wanted) == 6
    assert settings(ours) == wanted


def test_the_new_parameters_are_written_out(old_package, tmp_path):
    out = tmp_path / "out.mlpackage"
    mlpass.prune(old_package, out, mlpass.Percentile(0.5))
    spec = ct.models.MLModel(str(out), skip_model_load=True).get_spec()
    function = spec.mlProgram.functions["main"]
    assert spec.specificationVersion == 7
    assert list(function.block_specializations) == ["CoreML6"]
    stated = {
        operation.type: set(operation.inputs)
        for operation in function.block_specializations["CoreML6"].operations
    }
    assert "batch_dims" in stated["gather"]
    assert "batch_dims" in stated["gather_nd"]
    assert {"sort", "return_indices"} <= stated["topk"]
    assert "pad_value" in stated["crop_resize"]
