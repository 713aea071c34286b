"""Functions of different opsets in one program: each is stored in the form that its own has."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np
import pytest
from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.frontend.milproto.load import load

import mlpass
from mlpass import ModelFormatError, Percentile
from mlpass.program.mlpackage import Package
from mlpass.weights.sites import find_sites
from tests import peer
from tests.program.packages import WEIGHTS, edit_spec, file_values, read_spec
from tests.runtime.programs import convert, program

WEIGHT = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
X = np.random.default_rng(1).standard_normal((1, 64)).astype(np.float32)
SPECIFICATIONS = {15: 6, 16: 7, 17: 8, 18: 9}
MIXES = [(15, 18), (15, 16), (16, 18), (17, 18), (15, 17, 18), (15, 16, 17)]


def head(x: Any) -> Any:
    x = mb.linear(x=x, weight=mb.const(val=WEIGHT, name="w"), name="dense")
    return mb.gather(x=x, indices=np.array([3, 1], np.int32), axis=1, name="picked")


def opset_name(opset: int) -> str:
    return f"CoreML{opset - 10}"


def mixed(directory: Path, opsets: Sequence[int]) -> Path:
    """Returns a package of one function for each opset, named after it, that share their weight."""
    path = directory / "in.mlpackage"
    source = program(head, (1, 64), opset=getattr(ct.target, f"iOS{opsets[0]}"))
    target = getattr(ct.target, f"iOS{opsets[0]}")
    convert(source, minimum_deployment_target=target, pass_pipeline=ct.PassPipeline.EMPTY).save(
        str(path)
    )

    def edit(spec: Any) -> None:
        main, description = type(spec)(), type(spec)()
        main.CopyFrom(spec)
        description.CopyFrom(spec)
        spec.specificationVersion = SPECIFICATIONS[max(opsets)]
        spec.mlProgram.functions.clear()
        old = main.mlProgram.functions["main"]
        for opset in opsets:
            function = spec.mlProgram.functions[f"for{opset}"]
            function.inputs.extend(old.inputs)
            function.opset = opset_name(opset)
            block = function.block_specializations[function.opset]
            block.CopyFrom(old.block_specializations[old.opset])
            if opset > 15 and opsets[0] == 15:
                state_batch_dims(block)
            named = spec.description.functions.add(name=f"for{opset}")
            named.input.extend(description.description.input)
            named.output.extend(description.description.output)
        spec.description.ClearField("input")
        spec.description.ClearField("output")
        spec.description.defaultFunctionName = f"for{opsets[0]}"

    edit_spec(path, edit)
    return path


def state_batch_dims(block: Any) -> None:
    """Gives the gather of a block the parameter that it has from iOS16 on."""
    (gather,) = [op for op in block.operations if op.type == "gather"]
    axis = next(op for op in block.operations if "axis" in op.outputs[0].name)
    added = type(axis)()
    added.CopyFrom(axis)
    added.attributes["val"].immediateValue.tensor.ints.values[:] = [0]
    added.attributes["name"].immediateValue.tensor.strings.values[:] = ["dims"]
    added.outputs[0].name = "dims"
    block.operations.insert(0, added)
    gather.inputs["batch_dims"].arguments.add(name="dims")


def function_alone(package: Path, name: str) -> Any:
    """Returns one function of a package as coremltools loads it, for the opset that it states."""
    spec = read_spec(package)
    function = spec.mlProgram.functions[name]
    for other in list(spec.mlProgram.functions):
        if other != name:
            del spec.mlProgram.functions[other]
    version = SPECIFICATIONS[int(function.opset.removeprefix("CoreML")) + 10]
    spec.specificationVersion = version
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return load(spec, version, str((package / WEIGHTS).parent))


def weight_in(package: Path, name: str) -> Any:
    """Returns the op that makes the weight in a function, as coremltools loads it."""
    (made,) = [op for op in peer.all_ops([function_alone(package, name)]) if op.name == "w"]
    return made


def wanted(percentile: float) -> Any:
    """Returns the weight with that share of its elements zero, those of least magnitude."""
    order = np.argsort(np.abs(WEIGHT).ravel(), kind="stable")[: int(percentile * WEIGHT.size)]
    result = WEIGHT.copy().ravel()
    result[order] = 0
    return result.reshape(WEIGHT.shape)


@pytest.mark.parametrize("opsets", MIXES, ids=str)
def test_each_function_has_the_form_of_its_opset(opsets: tuple[int, ...], tmp_path: Path) -> None:
    source, out = mixed(tmp_path, opsets), tmp_path / "out.mlpackage"
    (layer,) = mlpass.prune(source, out, Percentile(0.75)).layers  # one weight, decided once
    assert (layer.name, layer.encoding) == ("w", "sparse")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        spec = ct.models.MLModel(str(out), skip_model_load=True).get_spec()
    assert spec.specificationVersion == max(SPECIFICATIONS[max(opsets)], 7)
    for opset in opsets:
        name, raised = f"for{opset}", max(opset, 16)
        function = spec.mlProgram.functions[name]
        assert function.opset == opset_name(raised)
        assert [*function.block_specializations] == [function.opset]
        operations = function.block_specializations[function.opset].operations
        (sparse,) = [op for op in operations if op.type == "constexpr_sparse_to_dense"]
        stated = sparse.inputs if raised >= 18 else sparse.attributes
        assert {"nonzero_data", "mask"} <= set(stated)
        assert ("shape" in sparse.attributes) == (raised < 18)
        made = weight_in(out, name)
        assert made.opset_version == getattr(ct.target, "iOS18" if raised >= 18 else "iOS16")
        assert peer.same(peer.value_of(made), wanted(0.75))
        interpreter = mlpass.Interpreter(out, function_name=name)
        result = interpreter.predict({"x": X})["picked"]
        np.testing.assert_allclose(result, (X @ wanted(0.75).T)[:, [3, 1]], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("opsets", MIXES, ids=str)
def test_what_functions_can_share_is_stored_once(opsets: tuple[int, ...], tmp_path: Path) -> None:
    source, out = mixed(tmp_path, opsets), tmp_path / "out.mlpackage"
    (layer,) = mlpass.prune(source, out, Percentile(0.75)).layers
    values = file_values(read_spec(out))
    places = {value.blobFileValue.offset for value in values}
    masks = len({max(opset, 16) >= 18 for opset in opsets})
    assert len(places) == 1 + masks + 1  # the kept elements, the masks, the bias
    assert layer.bytes_after == WEIGHT.size + masks * WEIGHT.size // 8


@pytest.mark.parametrize("opsets", MIXES, ids=str)
def test_only_functions_that_need_it_are_raised(opsets: tuple[int, ...], tmp_path: Path) -> None:
    source, out = mixed(tmp_path, opsets), tmp_path / "out.mlpackage"
    (layer,) = mlpass.prune(source, out, Percentile(0.01)).layers
    assert layer.encoding == "dense"
    for opset in opsets:
        assert read_spec(out).mlProgram.functions[f"for{opset}"].opset == opset_name(opset)
        assert peer.same(peer.value_of(weight_in(out, f"for{opset}")), wanted(0.01))


def test_a_function_without_sparse_weights_is_left_in_its_opset(tmp_path: Path) -> None:
    source, out = mixed(tmp_path, (15, 18)), tmp_path / "out.mlpackage"

    def edit(spec: Any) -> None:
        block = spec.mlProgram.functions["for15"].block_specializations["CoreML5"]
        for op in list(block.operations):
            if op.outputs[0].name in ("w", "dense"):
                if op.type == "const":
                    block.operations.remove(op)
                else:
                    op.type = "relu"
                    for parameter in ("weight", "bias"):
                        del op.inputs[parameter]

    edit_spec(source, edit)
    mlpass.prune(source, out, Percentile(0.75))
    before, after = (read_spec(path).mlProgram.functions["for15"] for path in (source, out))
    assert (after.opset, [*after.block_specializations]) == ("CoreML5", ["CoreML5"])
    (was, now) = (each.block_specializations["CoreML5"].operations for each in (before, after))
    assert [(op.type, op.outputs) for op in now] == [(op.type, op.outputs) for op in was]


def test_calibrated_runs_store_each_form_too(tmp_path: Path) -> None:
    source, out = mixed(tmp_path, (16, 18)), tmp_path / "out.mlpackage"
    options = {"sample_data": [{"x": X}] * 4, "function_name": "for18"}
    (layer,) = mlpass.prune(source, out, Percentile(0.5), **options).layers
    assert layer.method == "sparsegpt"
    first, second = (peer.value_of(weight_in(out, name)) for name in ("for16", "for18"))
    assert peer.same(first, second)
    assert np.count_nonzero(first) == WEIGHT.size // 2


@pytest.mark.parametrize("option", [{"storage": "int8"}, {"storage": {"palettize": 4}}], ids=str)
def test_joint_forms_are_refused_where_one_function_is_too_old(
    option: dict[str, Any], tmp_path: Path
) -> None:
    source = mixed(tmp_path, (17, 18))
    text = r"needs iOS18: minimum_deployment_target=.*; a function that has 'w' is iOS17"
    with pytest.raises(ModelFormatError, match=text):
        mlpass.prune(
            source,
            tmp_path / "out.mlpackage",
            Percentile(0.5),
            sample_data=[{"x": X}],
            function_name="for18",
            **option,
        )
    assert not (tmp_path / "out.mlpackage").exists()


def test_compressed_weights_of_different_forms_are_sites_of_their_own(tmp_path: Path) -> None:
    source, sparse = mixed(tmp_path, (16, 17, 18)), tmp_path / "sparse.mlpackage"
    mlpass.prune(source, sparse, Percentile(0.5))
    with Package(sparse) as package:
        sites = {site.name: site for site in find_sites(package.programs)}
    assert {name: site.opsets for name, site in sites.items()} == {
        "for16/w": (16, 17),
        "for18/w": (18,),
    }
    report = mlpass.inspect(sparse)
    assert [layer.zeros for layer in report.layers] == [WEIGHT.size // 2] * 2


def test_training_writes_each_form(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    source, out = mixed(tmp_path, (16, 18)), tmp_path / "out.mlpackage"
    module = mlpass.finetune.to_module(source, function_name="for18")
    pruner = mlpass.finetune.MagnitudePruner(module, Percentile(0.75))
    pruner.prepare()
    pruner.step()
    pruner.finalize(out)
    for name in ("for16", "for18"):
        assert peer.same(peer.value_of(weight_in(out, name)), wanted(0.75))


def test_programs_in_memory_of_different_opsets_are_refused() -> None:
    live = program(head, (1, 64), opset=ct.target.iOS17)
    live.add_function("new", program(head, (1, 64), opset=ct.target.iOS17).functions["main"])
    live.functions["new"].opset_version = ct.target.iOS18
    with pytest.raises(ValueError, match="all functions must have the same opset_version"):
        live._check_program_opset_version()  # coremltools does not take it either
    text = "must have one opset, or coremltools does not convert it: 'main' is iOS17, 'new' is iOS1"
    with pytest.raises(ModelFormatError, match=text):
        mlpass.prune(live, Percentile(0.5))
