"""What a pruned package has of the one that it was made of."""

from __future__ import annotations

import shutil
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coremltools.libmilstoragepython import _BlobStorageReader

from mlpass import Config, Percentile, inspect, prune
from mlpass.program.ir import Constant
from mlpass.program.mlpackage import Package
from mlpass.program.proto import Model
from mlpass.program.reads import constants_of
from mlpass.weights.reading import weight_of
from mlpass.weights.sites import find_sites
from tests.program.packages import (
    FIXTURES,
    MODEL,
    WEIGHTS,
    copy_fixture,
    edit_spec,
    file_values,
    linear_stack,
    main_block,
    main_function,
    operations,
    pruned,
    read_spec,
    tree,
    write_spec,
)


def _without(spec: Any) -> Any:
    """Returns a model message without what pruning may change: constants and where blobs are.

    Constants remain as names in order, and so do the readings of them.
    """
    copy = Model()
    copy.CopyFrom(spec)
    for operation in operations(copy):
        if operation.type.startswith("const"):
            name = operation.attributes["name"]
            operation.type = "const"
            operation.inputs.clear()
            for parameter in list(operation.attributes):
                if parameter != "name":
                    del operation.attributes[parameter]
            assert name.immediateValue.tensor.strings.values
    return copy


def _raised(spec: Any) -> Any:
    """Does by hand what raising to iOS16 does to a program without ops that changed."""
    for function in spec.mlProgram.functions.values():
        if function.opset == "CoreML5":
            function.block_specializations["CoreML6"].CopyFrom(
                function.block_specializations["CoreML5"]
            )
            del function.block_specializations["CoreML5"]
            function.opset = "CoreML6"
            spec.specificationVersion = 7
    return spec


def test_all_but_the_pruned_weights_stays(package: Path, tmp_path: Path) -> None:
    """Description, metadata, states, labels, functions, ops with names and attributes, types."""
    output = pruned(package, tmp_path / "out.mlpackage")

    assert _without(read_spec(output)) == _without(_raised(read_spec(package)))
    before, after = tree(package), tree(output)
    assert before.keys() == after.keys()
    assert {name for name in before if before[name] != after[name]} <= {
        name for name in before if name == MODEL or name.endswith(".bin")
    }


def test_weights_stay_as_arrays_but_for_zeros_in_the_pruned(package: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.mlpackage"
    report = prune(package, output, Config(global_config=Percentile(0.5), weight_threshold=512))
    changed = {layer.name for layer in report.layers if layer.mode is not None}
    with Package(package) as old, Package(output) as new:
        before, after = find_sites(old.programs), find_sites(new.programs)
        for site, other in zip(before, after, strict=True):
            weight, original = weight_of(other), weight_of(site)
            kept = weight != 0 if site.name in changed else np.ones(site.shape, bool)
            np.testing.assert_array_equal(weight[kept], original[kept])
            assert other.names == site.names
        names = {name for site in before if site.name in changed for name in site.names}
        left, right = _file_constants(old), _file_constants(new)
        same = [key for key in left if key[-1] not in names]
        for key in same:
            assert right[key].type == left[key].type
            assert right[key].load().tobytes() == left[key].load().tobytes()

    assert same
    assert bool(changed) == (package.name.split("_")[0] not in ("palettized", "quantized"))


def _file_constants(package: Package) -> dict[tuple[str, str, str], Constant]:
    """Returns what the ops of a package hold in weight files, by part, function and const op."""
    return {
        (program.name, function.name, op.outputs[0].name): constant
        for program in package.programs
        for function in program.functions.values()
        for op in function.block.walk()
        for constant in constants_of(op)
        if op.type == "const" and constant.in_file
    }


def test_every_blob_of_an_output_is_used_once(package: Path, tmp_path: Path) -> None:
    """The weight file holds what the program refers to and no more, in 64-byte steps."""
    output = pruned(package, tmp_path / "out.mlpackage")
    spec = read_spec(output)
    offsets: dict[str, set[int]] = {}
    for value in file_values(spec):
        offsets.setdefault(value.blobFileValue.fileName, set()).add(value.blobFileValue.offset)
    with Package(output) as opened:
        for name, found in offsets.items():
            assert opened.open_blobs(name).count == len(found)


def test_functions_keep_sharing_weights(tmp_path: Path) -> None:
    output = pruned(FIXTURES / "multifunction_lm.mlpackage", tmp_path / "out.mlpackage")
    functions = read_spec(output).mlProgram.functions
    stored = {name: _blobs_by_name(functions[name]) for name in functions}

    assert set(stored) == {"prefill", "short"}
    shared = {name for name in stored["prefill"] if name in stored["short"]}
    masks = [name for name in shared if name.endswith(("mask", "nonzero_data"))]
    assert masks
    assert {name: stored["prefill"][name] for name in masks} == {
        name: stored["short"][name] for name in masks
    }
    size = (output / WEIGHTS).stat().st_size
    assert size < (FIXTURES / "multifunction_lm.mlpackage" / WEIGHTS).stat().st_size * 0.75


def _blobs_by_name(function: Any) -> dict[str, int]:
    """Returns the offset of each value in a function's message, by op name and parameter."""
    found = {}
    for operation in function.block_specializations[function.opset].operations:
        values = dict(operation.attributes)
        values |= {
            parameter: argument.arguments[0].value
            for parameter, argument in operation.inputs.items()
            if len(argument.arguments) == 1
        }
        for parameter, value in values.items():
            if value.WhichOneof("value") == "blobFileValue":
                found[f"{operation.outputs[0].name} {parameter}"] = value.blobFileValue.offset
    return found


def test_every_process_writes_the_same_bytes(tmp_path: Path) -> None:
    """Protobuf draws the order of a map anew in each process, that of functions included."""
    source, output = FIXTURES / "multifunction_lm.mlpackage", tmp_path / "out.mlpackage"
    digests = []
    for _ in range(6):
        command = ("prune", source, "-o", output, "--target-sparsity", "0.5", "--force", "--json")
        ended = subprocess.run(
            [sys.executable, "-m", "mlpass", *command], capture_output=True, check=True
        )
        digests.append((tree(output), ended.stdout))

    assert digests == digests[:1] * 6


def test_each_part_of_a_pipeline_keeps_its_own_file(tmp_path: Path) -> None:
    source = FIXTURES / "digits_pipeline.mlpackage"
    output = pruned(source, tmp_path / "out.mlpackage")
    directory = (MODEL.rpartition("/")[0], "weights")

    with Package(output) as opened:
        assert len(opened.programs) == 2
        for program in opened.programs:
            types = [op.type for f in program.functions.values() for op in f.block.walk()]
            assert "constexpr_sparse_to_dense" in types
    for name in ("0-weight.bin", "1-weight.bin"):
        path = Path(*directory, name)
        assert (output / path).stat().st_size < (source / path).stat().st_size


def test_a_pipeline_is_raised_with_its_parts(tmp_path: Path) -> None:
    """An iOS15 part becomes iOS16, and so does the pipeline around it."""
    package = copy_fixture("digits_ios15", tmp_path)
    part = read_spec(package)
    pipeline = Model(specificationVersion=6)
    pipeline.pipelineClassifier.pipeline.models.add().CopyFrom(part)
    pipeline.pipelineClassifier.pipeline.names.append("only")
    write_spec(package, pipeline)
    output = pruned(package, tmp_path / "out.mlpackage")

    spec = read_spec(output)
    assert spec.specificationVersion == 7
    assert spec.pipelineClassifier.pipeline.models[0].specificationVersion == 7
    with Package(output) as opened:
        assert [program.name for program in opened.programs] == ["only"]


def test_an_old_op_without_results_is_raised_as_it_is(tmp_path: Path) -> None:
    package = copy_fixture("digits_ios15", tmp_path)
    edit_spec(package, lambda spec: main_block(spec).operations.add(type="gather"))
    output = pruned(package, tmp_path / "out.mlpackage")

    spec = read_spec(output)
    assert main_function(spec).opset == "CoreML6"
    assert main_block(spec).operations[-1].type == "gather"


def test_weights_at_offsets_of_more_than_31_and_32_bits_are_pruned(tmp_path: Path) -> None:
    near = linear_stack(tmp_path / "near.mlpackage", 4, 64)
    far = shutil.copytree(near, tmp_path / "far.mlpackage")
    spec, packed = read_spec(near), (near / WEIGHTS).read_bytes()
    # What is between them takes no room on the disk.
    places = [64, (1 << 31) - 1024, 3_400_000_000, (1 << 32) - 64]
    with (far / WEIGHTS).open("r+b") as file:
        file.truncate(64)
        for value, place in zip(file_values(spec), places, strict=True):
            offset = value.blobFileValue.offset
            header = bytearray(packed[offset : offset + 64])
            nbytes, start = struct.unpack_from("<QQ", header, 8)
            struct.pack_into("<Q", header, 16, place + 64)
            file.seek(place)
            file.write(header + packed[start : start + nbytes])
            value.blobFileValue.offset = place
    write_spec(far, spec)

    assert inspect(far).layers == inspect(near).layers
    reports = [prune(each, f"{each}.mlpackage", Percentile(0.5)) for each in (near, far)]
    assert reports[1].layers == reports[0].layers
    assert tree(Path(f"{far}.mlpackage")) == tree(Path(f"{near}.mlpackage"))


@pytest.mark.slow  # 6 GB on the disk
def test_a_package_of_3_4_gigabytes_is_pruned_and_inspected_right(tmp_path: Path) -> None:
    size, layers = 4096, 102
    source = linear_stack(tmp_path / "in.mlpackage", layers, size)
    output = tmp_path / "out.mlpackage"
    try:
        prune(source, output, Percentile(0.3))
        assert (source / WEIGHTS).stat().st_size > 3.4e9
        zeros = int(0.3 * size * size)
        told = inspect(output).layers
        assert [(layer.zeros, layer.encoding) for layer in told] == [(zeros, "sparse")] * layers

        last = [op for op in operations(read_spec(output)) if op.type.startswith("constexpr")][-1]
        kept, mask = (
            last.attributes[name].blobFileValue.offset for name in ("nonzero_data", "mask")
        )
        assert min(kept, mask) > 1 << 31
        reader = _BlobStorageReader(str(output / WEIGHTS))
        values = np.asarray(reader.read_fp16_data(kept)).view(np.float16)
        bits = np.unpackbits(np.asarray(reader.read_uint8_data(mask)), bitorder="little")
        with Package(source) as package:
            weight = weight_of(find_sites(package.programs)[-1]).reshape(-1)
        lowest = np.partition(np.abs(weight), zeros)[zeros]
        assert np.abs(weight[bits == 0]).max() <= lowest <= np.abs(values).min()
        np.testing.assert_array_equal(values, weight[bits == 1])
    finally:
        for each in (source, output):
            shutil.rmtree(each, ignore_errors=True)
