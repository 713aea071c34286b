"""What is encoded is what coremltools reads."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlpass.program import encode
from mlpass.program.ir import Constant, Op, TensorType, Value
from mlpass.program.milproto import MilProto
from mlpass.program.mlpackage import Package
from mlpass.weights.sites import Site, find_sites
from tests.program.messages import NoBlobs, block_of, decode, small_program
from tests.program.packages import FIXTURES, read_spec


@pytest.mark.parametrize("opset", ["CoreML7", "CoreML8"])
def test_replaced_ops_are_decoded_as_they_were_encoded(opset: str) -> None:
    program = small_program()
    block = program.functions["main"].block_specializations[opset]
    block.CopyFrom(block_of(program))
    program.functions["main"].opset = opset
    part = MilProto(program, "", lambda _: NoBlobs())
    weight, _, relu = part.program.functions["main"].block.ops
    maker = Op("constexpr_made_up", "new", {"data": (_fp32(3.0, 0.1),)}, relu.outputs)
    before = Op(
        "const", "before", {"val": (_fp32(1e-30),)}, (Value("b", TensorType("fp32", (1,))),)
    )

    part.replace(weight, [before, encode.dense(weight, _fp32(4, 5))], _no_store)
    part.replace(relu, [maker], _no_store)
    ops = decode(program).functions["main"].block.ops

    assert [op.type for op in ops] == ["const", "const", "const", "constexpr_made_up"]
    assert [op.name for op in ops] == ["before", "weight", "axis", "new"]
    assert ops[0].inputs["val"][0].read().tolist() == [np.float32(1e-30)]
    assert ops[1].inputs["val"][0].read().tolist() == [4, 5]
    assert ops[3].inputs["data"][0].read().tolist() == [3, np.float32(0.1)]
    message = block_of(program).operations[3]
    assert ("data" in message.inputs, "data" in message.attributes) == (
        opset == "CoreML8",
        opset == "CoreML7",
    )
    assert not part.owns(weight)
    assert not part.owns(relu)


def _fp32(*values: float) -> Constant:
    return Constant.of(np.array(values, np.float32))


def _no_store(constant: Constant) -> tuple[str, int]:
    raise AssertionError("nothing here goes to a weight file")


SMALL = {
    "fp16": np.array([1.5, -0.0], np.float16),
    "fp32": np.array([np.inf, 1e-45], np.float32),
    "int32": np.array([1, -(1 << 31)], np.int32),
    "int8": np.array([1, -128], np.int8),
    "uint8": np.array([1, 255], np.uint8),
    "uint32": np.array([1, (1 << 32) - 1], np.uint32),
    "empty fp32": np.empty((0,), np.float32),
    "empty int32": np.empty((0, 2), np.int32),
}


@pytest.mark.parametrize("name", SMALL)
def test_stated_constants_survive_encoding(name: str) -> None:
    program = small_program()
    part = MilProto(program, "", lambda _: NoBlobs())
    weight = part.program.functions["main"].block.ops[0]
    constant = Constant.of(SMALL[name])
    output = Value("weight", constant.type)

    part.replace(weight, [Op("const", "weight", {"val": (constant,)}, (output,))], _no_store)
    got = decode(program).functions["main"].block.ops[0].inputs["val"][0].read()

    assert got.dtype == SMALL[name].dtype
    assert got.tobytes() == SMALL[name].tobytes()
    assert got.shape == SMALL[name].shape


def _sites(package: Package) -> list[Site]:
    return [site for site in find_sites(package.programs) if site.refusal is None]


def _load(path: Path) -> Any:
    """Returns a package as coremltools' program."""
    from coremltools.converters.mil.frontend.milproto.load import load

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        spec = read_spec(path)
        weights = path / "Data/com.apple.CoreML/weights"
        return load(spec, spec.specificationVersion, str(weights))


def _made(program: Any, name: str) -> Any:
    """Returns what the op that makes `name` computes, and its type, in coremltools."""
    for function in program.functions.values():
        for op in function.operations:
            if op.outputs[0].name == name:
                if op.op_type == "const":
                    return op.op_type, op.outputs[0].val
                return op.op_type, op.materialized_val_inference()
    raise AssertionError(f"nothing makes {name}")


def _sparse(site: Site, keep: Any) -> list[Op]:
    assert site.constant is not None
    weight = site.constant.read()
    opset = max(site.opset, encode.FIRST_SPARSE_OPSET)
    bits = np.packbits(keep.reshape(-1), bitorder="little")
    mask = encode.mask_constant(bits, site.constant.shape, opset, site.constant)
    return [encode.sparse(site.makers[0], mask, Constant.of(weight[keep], site.constant), opset)]


def _dense(site: Site, keep: Any) -> list[Op]:
    assert site.constant is not None
    constant = Constant.of(np.where(keep, site.constant.read(), 0), site.constant)
    return [encode.dense(site.makers[0], constant)]


@pytest.mark.parametrize("form", [_sparse, _dense])
@pytest.mark.parametrize("name", ["digits_ios15", "digits_classifier", "stateful_lm"])
def test_coremltools_loads_what_is_encoded(
    name: str, form: Callable[[Site, Any], list[Op]], tmp_path: Path
) -> None:
    generator = np.random.default_rng(0)
    expected = {}
    with (
        Package(FIXTURES / f"{name}.mlpackage") as package,
        package.rewrite(tmp_path / "out.mlpackage") as rewriter,
    ):
        for site in _sites(package):
            assert site.constant is not None
            assert len(site.makers) == 1
            keep = generator.random(site.shape) < 0.3
            expected[site.name] = np.where(keep, site.constant.read(), 0)
            rewriter.replace(site.makers[0], form(site, keep))
    program = _load(tmp_path / "out.mlpackage")

    assert expected
    for value, array in expected.items():
        op_type, got = _made(program, value)
        assert op_type == ("const" if form is _dense else "constexpr_sparse_to_dense")
        np.testing.assert_array_equal(got.reshape(array.shape), array)


@pytest.mark.parametrize("name", ["palettized_digits", "quantized_digits"])
def test_coremltools_loads_joint_forms(name: str, tmp_path: Path) -> None:
    from mlpass import Percentile, prune
    from mlpass.weights.reading import weight_of

    output = tmp_path / "out.mlpackage"
    prune(FIXTURES / f"{name}.mlpackage", output, Percentile(0.6), joint_compression=True)
    program = _load(output)
    with Package(output) as package:
        arrays = {
            site.name: weight_of(site)
            for site in find_sites(package.programs)
            if site.makers[0].type == "constexpr_sparse_to_dense"
        }

    assert arrays
    for value, array in arrays.items():
        op_type, got = _made(program, value)
        assert op_type == "constexpr_sparse_to_dense"
        np.testing.assert_array_equal(got, array)
