"""Packages as they are written: beside, then renamed; all that stays, and all that moves."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlpass import ModelFormatError, OutputExistsError, Percentile, prune
from mlpass.program import encode
from mlpass.program.ir import Constant, Op
from mlpass.program.mlpackage import Package
from mlpass.weights.sites import find_sites
from tests.program.packages import (
    FIXTURES,
    MODEL,
    copy_fixture,
    file_values,
    linear_stack,
    main_block,
    main_function,
    neural_network,
    pruned,
    read_spec,
    tree,
    unlisted,
    write_spec,
)

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
        message = "out.mlpackage: already exists; pass force=True to replace it"
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
    unlisted(package).symlink_to(package / MODEL)
    with Package(package) as opened, opened.rewrite(output):
        pass

    assert not unlisted(output).is_symlink()
    assert unlisted(output).read_bytes() == (package / MODEL).read_bytes()


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
            return neural_network()

    with pytest.raises(ModelFormatError, match="this MLModel is not an ML Program; convert with"):
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
