"""What a manifest lists is there in every package that is written: coremltools opens no other."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np
import pytest
from coremltools.converters.mil import Builder as mb

import mlpass
from mlpass import ModelFormatError, Percentile
from mlpass.program.mlpackage import Package
from tests.program.packages import (
    copy_fixture,
    edit_manifest,
    pruned,
    read_spec,
    tree,
    write_spec,
)
from tests.runtime.programs import convert, program

NO_WEIGHTS = "Data/com.apple.CoreML/weights"


def opened(package: Path) -> Any:
    """Returns a package as coremltools' own loader opens it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ct.models.MLModel(str(package), skip_model_load=True)


@pytest.fixture
def weightless(tmp_path: Path) -> Path:
    """A package that coremltools made of a program without any weight."""

    model = convert(program(lambda x: mb.relu(x=x, name="y"), (1, 8)))
    path = tmp_path / "weightless.mlpackage"
    model.save(str(path))
    assert list((path / NO_WEIGHTS).iterdir()) == []
    return path


def test_a_package_without_weights_stays_one_that_coremltools_opens(
    weightless: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.mlpackage"
    mlpass.prune(weightless, out, Percentile(0.5))
    assert tree(out) == tree(weightless)
    assert opened(out).get_spec() == opened(weightless).get_spec()
    x = np.array([[-1, 2, -3, 4, 0, 1, -1, 5]], np.float32)
    assert np.array_equal(mlpass.Interpreter(out).predict({"x": x})["y"], np.maximum(x, 0))


def test_an_mlmodel_without_weights_is_pruned_to_one(weightless: Path) -> None:
    made = mlpass.prune_weights(opened(weightless), Percentile(0.5))
    assert opened(made.package_path).get_spec() == opened(weightless).get_spec()


def test_a_pipeline_whose_parts_have_no_weights(weightless: Path, tmp_path: Path) -> None:
    spec = read_spec(weightless)
    part = type(spec)()
    part.CopyFrom(spec)
    spec.ClearField("mlProgram")
    spec.pipeline.models.append(part)
    write_spec(weightless, spec)
    mlpass.prune(weightless, tmp_path / "out.mlpackage", Percentile(0.5))
    assert opened(tmp_path / "out.mlpackage").get_spec() == spec


def test_a_sweep_over_a_model_without_weights_leaves_what_coremltools_opens(
    weightless: Path, tmp_path: Path
) -> None:
    samples = [{"x": np.ones((1, 8), np.float32)}]
    report = mlpass.sweep(weightless, samples, [Percentile(0.5)])
    assert [trial.failed for trial in report.trials] == [None]


def _item(*path: str, file: bool = False) -> Callable[[Path], None]:
    """Returns an edit that adds to a package, and lists in its manifest, a file or a folder."""

    def edit(package: Path) -> None:
        place = Path(package, "Data", *path)
        place.parent.mkdir(parents=True, exist_ok=True)
        if file:
            place.write_bytes(b"")
        else:
            place.mkdir()
        entry = {"author": "another", "name": path[-1], "path": "/".join(path), "description": ""}
        edit_manifest(package, lambda m: m["itemInfoEntries"].update({"extra": entry}))

    return edit


EXTRAS = {
    "an empty folder": _item("com.example", "cache"),
    "an empty folder, deep": _item("com.example", "a", "b", "c"),
    "an empty folder beside the weights": _item("com.apple.CoreML", "extra"),
    "an empty folder in that of the weights": _item("com.apple.CoreML", "weights", "later"),
    "an empty file": _item("com.example", "notes.json", file=True),
    "an empty file beside the weights": _item("com.apple.CoreML", "weights", "b.bin", file=True),
}


@pytest.mark.parametrize("percentile", [0.75, 0.0], ids=["edited", "as it was"])
@pytest.mark.parametrize("case", EXTRAS)
def test_whatever_a_manifest_lists_is_in_the_output(
    case: str, percentile: float, tmp_path: Path
) -> None:
    package, out = copy_fixture("digits_ios15", tmp_path), tmp_path / "out.mlpackage"
    EXTRAS[case](package)
    assert opened(package)
    report = mlpass.prune(package, out, Percentile(percentile))
    assert any(layer.encoding == "sparse" for layer in report.layers) == bool(percentile)
    assert opened(out)
    assert set(tree(out)) == set(tree(package))


def test_what_no_manifest_lists_is_in_the_output_too(tmp_path: Path) -> None:
    package = copy_fixture("digits_ios15", tmp_path)
    (package / "empty" / "in it").mkdir(parents=True)
    assert set(tree(pruned(package, tmp_path / "out.mlpackage"))) == set(tree(package))


def test_training_writes_all_of_it(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    package = copy_fixture("digits_classifier", tmp_path)
    EXTRAS["an empty folder"](package)
    module = mlpass.finetune.to_module(package)
    pruner = mlpass.finetune.MagnitudePruner(module, Percentile(0.5))
    pruner.prepare()
    pruner.step()
    pruner.finalize(tmp_path / "out.mlpackage")
    assert set(tree(tmp_path / "out.mlpackage")) == set(tree(package))
    assert opened(tmp_path / "out.mlpackage")


LACKING: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a folder": (
        lambda p: shutil.rmtree(p / NO_WEIGHTS),
        "lists 'com.apple.CoreML/weights', which is missing: copy the package again, or make an",
    ),
    "an item that was never there": (
        lambda p: edit_manifest(p, lambda m: m["itemInfoEntries"].update(x={"path": "no/where"})),
        "lists 'no/where', which is missing",
    ),
    "the path of an item": (
        lambda p: edit_manifest(p, lambda m: m["itemInfoEntries"].update(x={"name": "a"})),
        "its item 'x' has no path",
    ),
    "an item": (
        lambda p: edit_manifest(p, lambda m: m["itemInfoEntries"].update(x=None)),
        "its item 'x' has no path",
    ),
    "a plain path": (
        lambda p: edit_manifest(p, lambda m: m["itemInfoEntries"].update(x={"path": "../.."})),
        "'../..' is not a plain path within the package",
    ),
    "names": (
        lambda p: edit_manifest(
            p,
            lambda m: m.update(
                itemInfoEntries=[m["itemInfoEntries"][m["rootModelIdentifier"]]],
                rootModelIdentifier=0,
            ),
        ),
        "its items must have names; got a list",
    ),
}


@pytest.mark.parametrize("case", LACKING)
def test_a_source_that_lacks_what_its_manifest_lists_is_refused(
    case: str, weightless: Path, tmp_path: Path
) -> None:
    edit, message = LACKING[case]
    edit(weightless)
    with pytest.raises(RuntimeError):
        opened(weightless)
    before = tree(tmp_path)
    with pytest.raises(ModelFormatError) as caught:
        mlpass.prune(weightless, tmp_path / "out.mlpackage", Percentile(0.5))
    assert message in str(caught.value)
    assert tree(tmp_path) == before


def test_a_path_may_end_in_a_slash(weightless: Path, tmp_path: Path) -> None:
    def edit(manifest: dict[str, Any]) -> None:
        for entry in manifest["itemInfoEntries"].values():
            entry["path"] += "/" if entry["name"] == "weights" else ""

    edit_manifest(weightless, edit)
    with Package(weightless) as package, package.rewrite(tmp_path / "out.mlpackage"):
        pass
    assert opened(tmp_path / "out.mlpackage")


def test_an_mlmodel_that_was_edited_keeps_the_folder(weightless: Path, tmp_path: Path) -> None:
    mlmodel = opened(weightless)
    mlmodel.short_description = "edited in memory"
    out = tmp_path / "out.mlpackage"
    mlpass.prune(mlmodel, out, Percentile(0.5))
    assert opened(out).short_description == "edited in memory"
