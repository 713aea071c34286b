"""What is wrong with a package is an error that says where."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from mlpass import ModelFormatError
from mlpass.program.mlpackage import Package
from mlpass.program.opened import package_nbytes
from mlpass.program.proto import Model
from tests.program.packages import (
    MODEL,
    WEIGHTS,
    copy_fixture,
    edit_manifest,
    edit_spec,
    file_values,
    neural_network,
    unlisted,
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


def _pipeline_of_networks() -> Any:
    spec = Model(specificationVersion=4)
    spec.pipeline.models.add().CopyFrom(neural_network())
    return spec


class Refused(NamedTuple):
    edit: Callable[[Path], Any]
    message: str


NAMES_NO_ROOT = "Manifest.json: names no root model ("
REFUSED = {
    "no manifest": Refused(
        lambda p: (p / "Manifest.json").unlink(),
        "has no Manifest.json: not a package, or an incomplete copy",
    ),
    "manifest is a directory": Refused(
        lambda p: (p / "Manifest.json").unlink() or (p / "Manifest.json").mkdir(),
        "has no Manifest.json",
    ),
    "manifest is not JSON": Refused(_manifest("{"), NAMES_NO_ROOT),
    "manifest is not UTF-8": Refused(_manifest(b'{"\xff": 1}'), NAMES_NO_ROOT),
    "manifest is a number": Refused(_manifest("7"), NAMES_NO_ROOT),
    "manifest is empty": Refused(_manifest("{}"), NAMES_NO_ROOT),
    "manifest of lists": Refused(
        _manifest('{"itemInfoEntries": [], "rootModelIdentifier": 0}'), NAMES_NO_ROOT
    ),
    "manifest nested absurdly": Refused(_manifest("[" * 200_000), NAMES_NO_ROOT),
    "root of an unhashable name": Refused(
        _manifest('{"itemInfoEntries": {}, "rootModelIdentifier": []}'), NAMES_NO_ROOT
    ),
    "root path is not text": Refused(_root_path(7), "the root model's path is not text: 7"),
    "root path climbs out": Refused(
        _root_path("../../other.mlmodel"), "'../../other.mlmodel' is not a plain path within"
    ),
    "root path is absolute": Refused(
        _root_path("/etc/passwd"), "'/etc/passwd' is not a plain path within the package"
    ),
    "root path is empty": Refused(_root_path(""), "'' is not a plain path within the package"),
    "root path has a NUL": Refused(_root_path("a\0b"), "'a\\x00b' is not a plain path within"),
    "root path has half a letter": Refused(
        _root_path("a\ud800b"), "'a\\ud800b' is not a plain path within the package"
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
    "model is not a message": Refused(
        lambda p: (p / MODEL).write_bytes(b"\xff" * 100), "is not a Core ML model message: "
    ),
    "model is cut": Refused(
        lambda p: os.truncate(p / MODEL, 5000), "is not a Core ML model message: "
    ),
    "model holds invalid UTF-8": Refused(
        lambda p: (p / MODEL).write_bytes((p / MODEL).read_bytes().replace(b"main", b"ma\xffn", 1)),
        "is not a Core ML model message: ",
    ),
    "model is empty": Refused(
        lambda p: (p / MODEL).write_bytes(b""),
        "holds a model of unknown kind; mlpass only reads ML",
    ),
    "model is a neural network": Refused(
        _other_model(neural_network()), "holds a neuralNetwork; mlpass only reads ML Programs"
    ),
    "pipeline of neural networks": Refused(
        _other_model(_pipeline_of_networks()), "no part of its pipeline is an ML Program"
    ),
    "weights are missing": Refused(
        lambda p: (p / WEIGHTS).unlink(),
        "its weight file '@model_path/weights/weight.bin' is missing, or not a file",
    ),
    "weights are a directory": Refused(
        lambda p: (p / WEIGHTS).unlink() or (p / WEIGHTS).mkdir(), "is missing, or not a file"
    ),
    "weights are a FIFO": Refused(
        lambda p: (p / WEIGHTS).unlink() or os.mkfifo(p / WEIGHTS), "is missing, or not a file"
    ),
    "weights link out": Refused(
        _link_out(WEIGHTS), "'weights/weight.bin' leads out of the package"
    ),
    "the directory of weights links out": Refused(
        _link_out(os.path.dirname(WEIGHTS)), "'weights/weight.bin' leads out of the package"
    ),
    "weights link to themselves": Refused(
        lambda p: (p / WEIGHTS).unlink() or (p / WEIGHTS).symlink_to("weight.bin"),
        "is missing, or not a file",
    ),
    "weight name climbs out": Refused(
        _blob_name("@model_path/../../../weight.bin"),
        "'../../../weight.bin' is not a plain path within the package",
    ),
    "weight name is absolute": Refused(
        _blob_name("@model_path//etc/passwd"),
        "'/etc/passwd' is not a plain path within the package",
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
        ("directory", "has no Manifest.json: not a package, or an incomplete copy"),
    ],
)
def test_what_is_no_package_is_refused(name: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "model.mlmodel").write_bytes(neural_network().SerializeToString())
    (tmp_path / "model.mlmodelc").mkdir()
    (tmp_path / "directory").mkdir()

    with pytest.raises(ModelFormatError) as caught:
        Package(tmp_path / name)
    assert str(caught.value).startswith(f"{tmp_path / name}: {message}")


STRANGERS = {
    "a link out": (
        lambda p: unlisted(p).symlink_to("/etc/passwd"),
        "is a link that leads out of the package",
    ),
    "a link to a directory": (
        lambda p: unlisted(p).symlink_to("com.apple.CoreML"),
        "is a link that leads out of the package",
    ),
    "a link to itself": (lambda p: unlisted(p).symlink_to("extra"), "is not a regular file"),
    "a link to nothing": (lambda p: unlisted(p).symlink_to("nothing"), "is not a regular file"),
    "a FIFO": (lambda p: os.mkfifo(unlisted(p)), "is not a regular file"),
}


@pytest.mark.parametrize("case", STRANGERS)
def test_what_cannot_be_copied_is_refused(case: str, tmp_path: Path) -> None:
    package = copy_fixture("digits_ios15", tmp_path)
    add, message = STRANGERS[case]
    add(package)

    with pytest.raises(ModelFormatError) as caught:
        package_nbytes(package)
    assert str(caught.value) == f"{unlisted(package)}: {message}"


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
