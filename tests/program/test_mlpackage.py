"""Packages: opened, refused where they are broken, and copied with all that is not replaced."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from mlpass import Config, ModelFormatError, OutputExistsError, Percentile, prune
from mlpass.passes.inspect import weight_of
from mlpass.program import encode
from mlpass.program.ir import Constant, Op
from mlpass.program.mlpackage import Package, package_nbytes
from mlpass.program.proto import Model
from mlpass.program.sites import constants_of, find_sites
from tests.program.packages import (
    FIXTURES,
    MODEL,
    WEIGHTS,
    copy_fixture,
    edit_manifest,
    edit_spec,
    file_values,
    linear_stack,
    main_block,
    main_function,
    operations,
    read_spec,
    tree,
    write_spec,
)

ROOT = "com.apple.CoreML/model.mlmodel"


def root_entry(manifest: dict[str, Any]) -> Any:
    """Returns the manifest's entry of the root model."""
    return manifest["itemInfoEntries"][manifest["rootModelIdentifier"]]


def _manifest(text: str | bytes) -> Callable[[Path], Any]:
    data = text if isinstance(text, bytes) else text.encode()
    return lambda package: (package / "Manifest.json").write_bytes(data)


def _root_path(path: object) -> Callable[[Path], None]:
    return lambda package: edit_manifest(package, lambda m: root_entry(m).update(path=path))


def _blob_name(name: str) -> Callable[[Path], None]:
    """Returns an edit that gives every blob another file name."""

    def edit(spec: Any) -> None:
        for value in file_values(spec):
            value.blobFileValue.fileName = name

    return lambda package: edit_spec(package, edit)


def _other_model(spec: Any) -> Callable[[Path], None]:
    return lambda package: write_spec(package, spec)


def _link_out(inside: str) -> Callable[[Path], None]:
    """Returns an edit that moves a file or directory out of the package and links to it."""

    def edit(package: Path) -> None:
        outside = package.parent / "outside"
        (package / inside).rename(outside)
        (package / inside).symlink_to(outside)

    return edit


def _neural_network() -> Any:
    spec = Model(specificationVersion=4)
    spec.neuralNetwork.SetInParent()
    return spec


def _pipeline_of_networks() -> Any:
    spec = Model(specificationVersion=4)
    spec.pipeline.models.add().CopyFrom(_neural_network())
    return spec


class Refused(NamedTuple):
    edit: Callable[[Path], Any]
    message: str


NAMES_NO_ROOT = "Manifest.json: names no root model ("
REFUSED = {
    "no manifest": Refused(
        lambda p: (p / "Manifest.json").unlink(),
        "has no Manifest.json: not a package, or half a copy",
    ),
    "manifest is a directory": Refused(
        lambda p: (p / "Manifest.json").unlink() or (p / "Manifest.json").mkdir(),
        "has no Manifest.json",
    ),
    "manifest is no JSON": Refused(_manifest("{"), NAMES_NO_ROOT),
    "manifest is no UTF-8": Refused(_manifest(b'{"\xff": 1}'), NAMES_NO_ROOT),
    "manifest is a number": Refused(_manifest("7"), NAMES_NO_ROOT),
    "manifest is empty": Refused(_manifest("{}"), NAMES_NO_ROOT),
    "manifest of lists": Refused(
        _manifest('{"itemInfoEntries": [], "rootModelIdentifier": 0}'), NAMES_NO_ROOT
    ),
    "manifest nested absurdly": Refused(_manifest("[" * 200_000), NAMES_NO_ROOT),
    "root of an unhashable name": Refused(
        _manifest('{"itemInfoEntries": {}, "rootModelIdentifier": []}'), NAMES_NO_ROOT
    ),
    "root path is no text": Refused(_root_path(7), "the root model's path is no text: 7"),
    "root path climbs out": Refused(
        _root_path("../../other.mlmodel"), "'../../other.mlmodel' is no plain path within"
    ),
    "root path is absolute": Refused(
        _root_path("/etc/passwd"), "'/etc/passwd' is no plain path within the package"
    ),
    "root path is empty": Refused(_root_path(""), "'' is no plain path within the package"),
    "root path has a NUL": Refused(_root_path("a\0b"), "'a\\x00b' is no plain path within"),
    "root path has half a letter": Refused(
        _root_path("a\ud800b"), "'a\\ud800b' is no plain path within the package"
    ),
    "root model is missing": Refused(
        lambda p: (p / MODEL).unlink(), f"the root model '{ROOT}' is missing"
    ),
    "root model is a directory": Refused(
        lambda p: (p / MODEL).unlink() or (p / MODEL).mkdir(), "the root model"
    ),
    "root model links out": Refused(_link_out(MODEL), f"'{ROOT}' leads out of the package"),
    "root model links to itself": Refused(
        lambda p: (p / MODEL).unlink() or (p / MODEL).symlink_to("model.mlmodel"),
        f"the root model '{ROOT}' is missing",
    ),
    "model is no message": Refused(
        lambda p: (p / MODEL).write_bytes(b"\xff" * 100), "is no Core ML model message: "
    ),
    "model is cut": Refused(
        lambda p: os.truncate(p / MODEL, 5000), "is no Core ML model message: "
    ),
    "model holds invalid UTF-8": Refused(
        lambda p: (p / MODEL).write_bytes((p / MODEL).read_bytes().replace(b"main", b"ma\xffn", 1)),
        "is no Core ML model message: ",
    ),
    "model is empty": Refused(
        lambda p: (p / MODEL).write_bytes(b""), "holds a model of unknown kind; mlpass reads ML"
    ),
    "model is a neural network": Refused(
        _other_model(_neural_network()), "holds a neuralNetwork; mlpass reads ML Programs alone"
    ),
    "pipeline of neural networks": Refused(
        _other_model(_pipeline_of_networks()), "no part of its pipeline is an ML Program"
    ),
    "weights are missing": Refused(
        lambda p: (p / WEIGHTS).unlink(),
        "its weight file '@model_path/weights/weight.bin' is missing, or no file",
    ),
    "weights are a directory": Refused(
        lambda p: (p / WEIGHTS).unlink() or (p / WEIGHTS).mkdir(), "is missing, or no file"
    ),
    "weights are a FIFO": Refused(
        lambda p: (p / WEIGHTS).unlink() or os.mkfifo(p / WEIGHTS), "is missing, or no file"
    ),
    "weights link out": Refused(
        _link_out(WEIGHTS), "'weights/weight.bin' leads out of the package"
    ),
    "the directory of weights links out": Refused(
        _link_out(os.path.dirname(WEIGHTS)), "'weights/weight.bin' leads out of the package"
    ),
    "weights link to themselves": Refused(
        lambda p: (p / WEIGHTS).unlink() or (p / WEIGHTS).symlink_to("weight.bin"),
        "is missing, or no file",
    ),
    "weight name climbs out": Refused(
        _blob_name("@model_path/../../../weight.bin"),
        "'../../../weight.bin' is no plain path within the package",
    ),
    "weight name is absolute": Refused(
        _blob_name("@model_path//etc/passwd"), "'/etc/passwd' is no plain path within the package"
    ),
    "weight name has no root": Refused(
        _blob_name("/etc/passwd"), "weight file name '/etc/passwd' is not below '@model_path/'"
    ),
    "weights are the model": Refused(
        _blob_name("@model_path/model.mlmodel"),
        "its weight file '@model_path/model.mlmodel' is the model itself",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_broken_package_is_refused(case: str, tmp_path: Path) -> None:
    package = copy_fixture("digits_ios15", tmp_path)
    REFUSED[case].edit(package)

    with pytest.raises(ModelFormatError) as caught:
        Package(package)
    assert REFUSED[case].message in str(caught.value)
    assert str(package) in str(caught.value) or "weight file" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nothing.mlpackage", "is not there; mlpass reads ML Programs, which are .mlpackage"),
        ("model.mlmodel", "is a single file; mlpass reads ML Programs, which are .mlpackage"),
        ("model.mlmodelc", "is compiled; give the .mlpackage it was compiled from"),
        ("directory", "has no Manifest.json: not a package, or half a copy"),
    ],
)
def test_what_is_no_package_is_refused(name: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "model.mlmodel").write_bytes(_neural_network().SerializeToString())
    (tmp_path / "model.mlmodelc").mkdir()
    (tmp_path / "directory").mkdir()

    with pytest.raises(ModelFormatError) as caught:
        Package(tmp_path / name)
    assert str(caught.value).startswith(f"{tmp_path / name}: {message}")


def _unlisted(package: Path) -> Path:
    """Returns the path of something in a package that nothing refers to."""
    return package / "Data" / "extra"


STRANGERS = {
    "a link out": (
        lambda p: _unlisted(p).symlink_to("/etc/passwd"),
        "is a link that leads out of its place",
    ),
    "a link to a directory": (
        lambda p: _unlisted(p).symlink_to("com.apple.CoreML"),
        "is a link that leads out of its place",
    ),
    "a link to itself": (lambda p: _unlisted(p).symlink_to("extra"), "is no regular file"),
    "a link to nothing": (lambda p: _unlisted(p).symlink_to("nothing"), "is no regular file"),
    "a FIFO": (lambda p: os.mkfifo(_unlisted(p)), "is no regular file"),
}


@pytest.mark.parametrize("case", STRANGERS)
def test_what_cannot_be_copied_is_refused(case: str, tmp_path: Path) -> None:
    package = copy_fixture("digits_ios15", tmp_path)
    add, message = STRANGERS[case]
    add(package)

    with pytest.raises(ModelFormatError) as caught:
        package_nbytes(package)
    assert str(caught.value) == f"{_unlisted(package)}: {message}"


def test_a_directory_that_cannot_be_listed_is_no_empty_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = copy_fixture("digits_ios15", tmp_path)
    scandir = os.scandir

    def fail(path: str) -> Any:
        if str(path).endswith("weights"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", fail)
    with pytest.raises(PermissionError):
        package_nbytes(package)


TARGETS = {
    "another suffix": ("out.mlmodel", "a package's name must end in .mlpackage"),
    "within the source": (
        "digits_ios15.mlpackage/Data/out.mlpackage",
        "is within the model to prune; name another target",
    ),
    "within the source, through a link": (
        "link/out.mlpackage",
        "is within the model to prune; name another target",
    ),
    "around the source": ("around.mlpackage", "holds the model to prune; name another target"),
}


@pytest.mark.parametrize("case", TARGETS)
def test_a_target_that_cannot_be_is_refused(case: str, tmp_path: Path) -> None:
    name, message = TARGETS[case]
    holder = tmp_path / "around.mlpackage" if "around" in name else tmp_path
    holder.mkdir(exist_ok=True)
    package = copy_fixture("digits_ios15", holder)
    (tmp_path / "link").symlink_to(package)
    before = tree(tmp_path)

    with (
        Package(package) as opened,
        pytest.raises(ModelFormatError) as caught,
        opened.rewrite(tmp_path / name, force=True),
    ):
        pytest.fail("it was not refused")
    assert str(caught.value) == f"{tmp_path / name}: {message}"
    assert tree(tmp_path) == before


@pytest.mark.parametrize("kind", ["directory", "file", "link", "dangling link"])
def test_a_target_that_exists_is_replaced_by_force_alone(kind: str, tmp_path: Path) -> None:
    target, elsewhere = tmp_path / "out.mlpackage", tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "file").write_text("kept")
    if kind == "directory":
        target.mkdir()
        (target / "old").write_text("old")
    elif kind == "file":
        target.write_text("old")
    else:
        target.symlink_to(elsewhere if kind == "link" else tmp_path / "nothing")
    before = tree(tmp_path)

    with Package(FIXTURES / "digits_ios15.mlpackage") as package:
        message = "out.mlpackage exists: name another target, or force it"
        with pytest.raises(OutputExistsError, match=message), package.rewrite(target):
            pytest.fail("it was not refused")
        assert tree(tmp_path) == before
        with package.rewrite(target, force=True):
            pass
    assert tree(target) == tree(package.path)
    assert not target.is_symlink()
    assert sorted(os.listdir(tmp_path)) == ["elsewhere", "out.mlpackage"]
    assert (elsewhere / "file").read_text() == "kept"


def test_a_package_may_take_its_own_place(tmp_path: Path) -> None:
    package = copy_fixture("digits_ios15", tmp_path)
    prune(package, package, Percentile(0.75), force=True)

    with Package(package) as opened:
        types = [op.type for op in opened.programs[0].functions["main"].block.ops]
    assert "constexpr_sparse_to_dense" in types
    assert os.listdir(tmp_path) == [package.name]


def test_a_caller_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with Package(FIXTURES / "digits_ios15.mlpackage") as package:
        (site, *_) = find_sites(package.programs)
        assert site.constant is not None
        ops = [encode.dense(site.makers[0], Constant.of(site.constant.read(), site.constant))]
        with (  # noqa: PT012
            pytest.raises(KeyError, match="of the caller"),
            package.rewrite(tmp_path / "out.mlpackage") as rewriter,
        ):
            rewriter.replace(site.makers[0], ops)
            raise KeyError("of the caller")
    assert os.listdir(tmp_path) == []


def test_bytes_are_the_same_where_nothing_is_replaced(package: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.mlpackage"
    with Package(package) as opened, opened.rewrite(output):
        pass

    assert tree(output) == tree(package)


def test_links_within_a_package_become_files(tmp_path: Path) -> None:
    package, output = copy_fixture("digits_ios15", tmp_path), tmp_path / "out.mlpackage"
    _unlisted(package).symlink_to(package / MODEL)
    with Package(package) as opened, opened.rewrite(output):
        pass

    assert not _unlisted(output).is_symlink()
    assert _unlisted(output).read_bytes() == (package / MODEL).read_bytes()


def pruned(package: Path, output: Path) -> Path:
    """Prunes a package at half its weights and returns where the result is."""
    prune(package, output, Config(global_config=Percentile(0.5), weight_threshold=512))
    return output


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


def test_blobs_beside_the_ops_move_along(tmp_path: Path) -> None:
    """Attributes of program, function and block, lists, and blocks for other opsets."""
    package = copy_fixture("digits_classifier", tmp_path)
    spec = read_spec(package)
    value = file_values(spec)[-1]  # the last: everything before it may shrink
    program, function, block = spec.mlProgram, main_function(spec), main_block(spec)
    for message in (program, function, block):
        message.attributes["extra"].CopyFrom(value)
    listed = block.operations[-1].attributes["extra"]
    listed.type.listType.type.CopyFrom(value.type)
    listed.immediateValue.list.values.add().CopyFrom(value)
    function.block_specializations["CoreML9"].CopyFrom(block)
    write_spec(package, spec)
    with Package(package) as opened:
        raw = _read(opened, value)
    output = pruned(package, tmp_path / "out.mlpackage")

    spec = read_spec(output)
    program, function, block = spec.mlProgram, main_function(spec), main_block(spec)
    other = function.block_specializations["CoreML9"]
    values = [message.attributes["extra"] for message in (program, function, block, other)]
    lists = [b.operations[-1].attributes["extra"].immediateValue.list for b in (block, other)]
    values += [moved.values[0] for moved in lists]
    with Package(output) as opened:
        for moved in values:
            assert moved.blobFileValue.offset != value.blobFileValue.offset
            assert _read(opened, moved) == raw


def _read(package: Package, value: Any) -> bytes:
    """Returns the bytes of a value message in a weight file."""
    from mlpass.program.dtypes import BY_PROTO

    tensor = value.type.tensorType
    count = int(np.prod([dimension.constant.size for dimension in tensor.dimensions]))
    blobs = package.open_blobs(value.blobFileValue.fileName)
    return blobs.read(value.blobFileValue.offset, BY_PROTO[tensor.dataType], count).tobytes()


def test_results_take_the_place_of_ops_in_order(tmp_path: Path) -> None:
    package = linear_stack(tmp_path / "stack.mlpackage", 3, 64)
    output = pruned(package, tmp_path / "out.mlpackage")
    with Package(output) as opened:
        ops = opened.programs[0].functions["main"].block.ops

    assert [(op.type, op.outputs[0].name) for op in ops] == [
        row
        for layer in range(3)
        for row in (
            ("constexpr_sparse_to_dense", f"weight_{layer}"),
            ("linear", f"y_{layer}"),
        )
    ]


def test_an_edited_spec_is_written_as_edited(tmp_path: Path) -> None:
    from coremltools.models import MLModel

    source = FIXTURES / "digits_classifier.mlpackage"
    model = MLModel(str(source), skip_model_load=True)
    model.short_description = "another"
    model.user_defined_metadata["note"] = "new"
    before = tree(source)

    for name, config in (("all", Percentile(0.5)), ("none", Percentile(0.0))):
        output = tmp_path / f"{name}.mlpackage"
        prune(model, output, config)
        metadata = read_spec(output).description.metadata
        assert metadata.shortDescription == "another"
        assert metadata.userDefined["note"] == "new"
    assert model.get_spec().mlProgram == read_spec(source).mlProgram
    assert tree(source) == before


def test_a_package_that_was_never_saved_is_refused() -> None:
    class Unsaved:
        package_path = None

        def get_spec(self) -> Any:
            return _neural_network()

    with pytest.raises(ModelFormatError, match="this MLModel is no ML Program; convert with"):
        prune(Unsaved(), "out.mlpackage", Percentile(0.5))
    with pytest.raises(ModelFormatError, match="source: must be the path of an .mlpackage or an"):
        prune(7, "out.mlpackage", Percentile(0.5))


def test_only_an_op_of_the_package_is_replaced(tmp_path: Path) -> None:
    stranger = Op("const", "stranger", {}, ())
    with (
        Package(FIXTURES / "branches.mlpackage") as package,
        package.rewrite(tmp_path / "out.mlpackage") as rewriter,
    ):
        rewriter.replace(stranger, [stranger])
    assert tree(tmp_path / "out.mlpackage") == tree(FIXTURES / "branches.mlpackage")
