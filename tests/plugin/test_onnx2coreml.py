"""onnx2coreml, a converter that takes no pipeline of passes: what it converts is pruned on the way.

Runs where the extra `onnx` is installed, which needs Python 3.11 or later.
"""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import pytest

import mlpass
from mlpass import Percentile

if not (find_spec("onnx2coreml") and find_spec("onnx")):
    pytest.skip("the extra onnx is not installed", allow_module_level=True)

# They are what onnx and coremltools have to say to each other.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def model():
    """Two layers with a ReLU between them, and a convolution before."""
    from onnx import TensorProto, checker, helper, numpy_helper

    draw = np.random.default_rng(0)
    shapes = {"first": (16, 3, 3, 3), "second": (64, 16 * 36), "third": (10, 64)}
    weights = [
        numpy_helper.from_array(draw.standard_normal(shape).astype(np.float32) / 8, name)
        for name, shape in shapes.items()
    ]
    nodes = [
        helper.make_node("Conv", ["x", "first"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Flatten", ["b"], ["c"]),
        helper.make_node("Gemm", ["c", "second"], ["d"], transB=1),
        helper.make_node("Relu", ["d"], ["e"]),
        helper.make_node("Gemm", ["e", "third"], ["y"], transB=1),
    ]
    given, made = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("x", [1, 3, 8, 8]), ("y", [1, 10]))
    )
    graph = helper.make_graph(nodes, "network", [given], [made], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    checker.check_model(model)
    return model


def converted(model, path):
    import onnx2coreml

    onnx2coreml.convert(model, minimum_deployment_target="iOS17").save(str(path))
    return path


def test_its_packages_run_as_onnx_does_and_can_be_pruned(model, tmp_path):
    from onnx.reference import ReferenceEvaluator

    path, out = converted(model, tmp_path / "dense.mlpackage"), tmp_path / "out.mlpackage"
    x = np.random.default_rng(1).standard_normal((1, 3, 8, 8)).astype(np.float32)
    (wanted,) = ReferenceEvaluator(model).run(None, {"x": x})
    (made,) = mlpass.Interpreter(path).predict({"x": x}).values()
    np.testing.assert_allclose(made, wanted, atol=0.02 * np.abs(wanted).max())
    report = mlpass.prune(path, out, Percentile(0.5), sample_data=[{"x": x}] * 2)
    assert any(layer.method == "sparsegpt" or layer.zeros for layer in report.layers)


def test_a_conversion_inside_is_what_pruning_after_gives(model, tmp_path):
    config = Percentile(0.75)
    with mlpass.converting(config) as reports:
        inside = converted(model, tmp_path / "inside.mlpackage")
    assert len(reports) == 1
    dense = converted(model, tmp_path / "dense.mlpackage")
    after = tmp_path / "after.mlpackage"
    mlpass.prune(dense, after, config)
    found = [
        sorted((one.shape, one.zeros) for one in mlpass.inspect(each).layers)
        for each in (inside, after)
    ]
    assert found[0] == found[1] and any(zeros for _, zeros in found[0])
    assert not any(one.zeros for one in mlpass.inspect(dense).layers)
