"""The package in a `.pte`, opened and written like any other."""

from __future__ import annotations

import shutil
from dataclasses import replace

import coremltools as ct
import numpy as np
import pytest

import mlpass
from mlpass import ConfigError, Interpreter, ModelFormatError, Percentile, Threshold
from mlpass.cli import main
from mlpass.errors import BackendError, OutputExistsError
from mlpass.examine.explain import command_for
from mlpass.examine.predict import predict_to_file
from mlpass.program.hosted import HostedPackage, write_hosts
from mlpass.program.inmemoryfs import digest
from mlpass.program.mlmodel import open_package
from mlpass.program.pte import Pte
from mlpass.program.pte_paths import output_name
from mlpass.program.pte_writing import write_pte
from tests.conftest import FIXTURES
from tests.program.commands import one_line, prune

FOLDER = FIXTURES / "executorch"
INLINE, DELEGATES, METHODS = (FOLDER / f"{n}.pte" for n in ("inline", "delegates", "methods"))
ROWS = np.load(FOLDER / "rows.npz")["x"][:, 0]
MADE = np.load(FOLDER / "made.npz")["y"][:, 0]
CHANGED = {
    "metadata.json",
    "model.mlpackage/Data/com.apple.CoreML/model.mlmodel",
    "model.mlpackage/Data/com.apple.CoreML/weights/weight.bin",
}


def items(path):
    pte = Pte(path)
    return pte.image(next(iter(pte.models))).items


def edited(path, edit):
    """Writes a program of which the model's folder has other items."""
    pte = Pte(INLINE)
    (blob,) = pte.models
    image = pte.image(blob)
    with path.open("wb") as file:
        write_pte(pte, file, {blob: replace(image, items=edit(dict(image.items)))})
    return path


@pytest.mark.parametrize(
    ("path", "rows"),
    [(INLINE, 1), (METHODS, 1), (METHODS / "forward/0", 1), (METHODS / "prefill/0", 4)],
)
def test_it_computes_what_torch_does(path, rows):
    made = Interpreter(path).predict({"x": ROWS[:rows]})
    np.testing.assert_allclose(*made.values(), MADE[:rows], atol=2e-3)


@pytest.mark.parametrize("path", [INLINE, METHODS, METHODS / "prefill/0"])
def test_what_is_written_holds_all_else_as_it_was(path, tmp_path):
    out, alone = tmp_path / "out.pte", tmp_path / "alone.mlpackage"
    report = mlpass.prune(path, out, Percentile(0.5))
    source = path if path.is_file() else METHODS
    assert report.bytes_before - report.bytes_after == source.stat().st_size - out.stat().st_size
    before, after = items(source), items(out)
    assert list(before) == list(after)
    assert {
        name for name in before if digest({"": before[name]}) != digest({"": after[name]})
    } == CHANGED
    assert {layer.sparsity for layer in mlpass.inspect(out).layers} == {0.5}
    mlpass.prune(path, alone, Percentile(0.5))
    sample = {"x": ROWS[:1]}
    first, second = (Interpreter(each).predict(sample) for each in (out, alone))
    np.testing.assert_array_equal(*first.values(), *second.values())
    mlpass.prune(path, tmp_path / "again.pte", Percentile(0.5))
    assert (tmp_path / "again.pte").read_bytes() == out.read_bytes()


def test_where_nothing_changes_the_file_is_the_same(tmp_path):
    for source in (INLINE, DELEGATES, METHODS):
        mlpass.prune(source, tmp_path / source.name, Threshold(0.0))
        assert (tmp_path / source.name).read_bytes() == source.read_bytes()


def test_a_new_file_in_the_package_is_packed_as_well(tmp_path):
    pte = Pte(INLINE)
    with HostedPackage(INLINE) as package:
        copy = shutil.copytree(package.path, tmp_path / "copy.mlpackage")
        (copy / "Data/more").mkdir()
        (copy / "Data/more/new.bin").write_bytes(b"new")
        write_hosts(pte, {package.blob: copy}, tmp_path / "out.pte", force=False)
    found = items(tmp_path / "out.pte")
    assert bytes(found["model.mlpackage/Data/more/new.bin"]) == b"new"
    assert found.keys() - items(INLINE).keys() == {
        "model.mlpackage/Data/more",
        "model.mlpackage/Data/more/new.bin",
    }


def test_what_rides_in_a_package_stays_there(tmp_path):
    """`prune_weights` and `prune` keep what the exporter left beside the model."""
    name = "executorch_debug_handle_mapping.json"
    mlpass.prune(INLINE, tmp_path / "out.mlpackage", Percentile(0.5))
    with HostedPackage(INLINE) as package:
        kept = (package.path / name).read_bytes()
    assert (tmp_path / "out.mlpackage" / name).read_bytes() == kept
    model = ct.models.MLModel(str(tmp_path / "out.mlpackage"), skip_model_load=True)
    pruned = mlpass.prune_weights(model, Percentile(0.75))
    with open_package(pruned) as package:
        assert (package.path / name).read_bytes() == kept


def test_its_folder_goes_with_it():
    with HostedPackage(INLINE) as package:
        folder = package.path.parent
        assert folder.is_dir()
    assert not folder.exists()


@pytest.mark.parametrize(
    ("path", "text"),
    [
        (DELEGATES, "has 2 Core ML models; name one: .*pte/forward/0, .*pte/forward/1"),
        (DELEGATES / "forward/7", "has no Core ML delegate 'forward/7'; it has forward/0, forw"),
        (FOLDER / "rows.npz", "is a single file; mlpass reads ML Programs"),
    ],
)
def test_which_model_is_meant_must_be_clear(path, text):
    with pytest.raises(ModelFormatError, match=text):
        open_package(path)


def compiled(found):
    return {"model.mlmodelc": None, "metadata.json": found["metadata.json"]}


def broken(found):
    return {**found, "model.mlpackage/Manifest.json": b"{}"}


@pytest.mark.parametrize(
    ("edit", "text"),
    [
        (compiled, "its Core ML model is compiled; export with model_type"),
        (lambda found: {"a": b""}, "its Core ML model is not a package; export with model_type"),
        (broken, r"x.pte: model.mlpackage.Manifest.json: names no root model"),
    ],
)
def test_a_delegate_without_a_package(edit, text, tmp_path):
    with pytest.raises(ModelFormatError, match=text):
        mlpass.inspect(edited(tmp_path / "x.pte", edit))


@pytest.mark.parametrize("metadata", [None, b"{", b"[]", b"\xff", b'{"identifier": "a", "b": "a"}'])
def test_without_an_identifier_a_device_would_serve_the_old_model(metadata, tmp_path):
    def edit(found):
        del found["metadata.json"]
        return found if metadata is None else {"metadata.json": metadata, **found}

    path = edited(tmp_path / "x.pte", edit)
    with pytest.raises(ModelFormatError, match="x.pte: its Core ML model has no identifier in met"):
        mlpass.prune(path, tmp_path / "out.pte", Percentile(0.5))
    assert not (tmp_path / "out.pte").exists()


def test_targets(tmp_path):
    out = tmp_path / "out.pte"
    out.write_bytes(b"mine")
    with pytest.raises(OutputExistsError, match="out.pte: already exists"):
        mlpass.prune(INLINE, out, Percentile(0.5))
    with pytest.raises(ModelFormatError, match="a package's name must end in .mlpackage"):
        mlpass.prune(INLINE, tmp_path / "out.bin", Percentile(0.5))
    with pytest.raises(ModelFormatError, match="a package's name must end in .mlpackage"):
        mlpass.prune(FIXTURES / "branches.mlpackage", tmp_path / "new.pte", Percentile(0.5))
    with pytest.raises(ModelFormatError, match="a .pte is written of a model in a .pte alone"):
        mlpass.prune(FIXTURES / "branches.mlpackage", tmp_path / "new.pte", Percentile(0.5))
    shutil.copy(INLINE, out)
    mlpass.prune(out, out, Percentile(0.5), force=True)  # in its own place
    assert {layer.sparsity for layer in mlpass.inspect(out).layers} == {0.5}
    assert [*tmp_path.iterdir()] == [out]


def test_a_prediction_does_not_take_the_place_of_a_model(tmp_path):
    model = tmp_path / "model.pte"
    shutil.copy(INLINE, model)
    np.savez(tmp_path / "x.npz", x=ROWS[:1])
    with pytest.raises(ConfigError, match="model.pte: is named as a model, and an .npz is written"):
        predict_to_file(model, tmp_path / "x.npz", model, force=True)
    assert model.read_bytes() == INLINE.read_bytes()


def test_what_came_into_being_meanwhile_is_kept_and_so_is_the_result(tmp_path):
    out = tmp_path / "out.pte"
    out.write_bytes(b"mine")
    with (
        HostedPackage(INLINE) as package,
        pytest.raises(OutputExistsError, match="the result is .*out-1.pte, whole"),
        package.rewrite(out, keep=True),
    ):
        pass
    assert out.read_bytes() == b"mine"
    assert (tmp_path / "out-1.pte").read_bytes() == INLINE.read_bytes()


def test_core_ml_loads_what_is_unpacked(monkeypatch):
    monkeypatch.setattr("platform.system", lambda: "Darwin")
    monkeypatch.setattr("coremltools.models.MLModel", lambda path, function_name: 1 / 0)
    with pytest.raises(BackendError, match="Core ML cannot load .*/model.mlpackage: division"):
        Interpreter(INLINE, backend="coreml")


def test_commands_in_reports_write_a_program():
    path = f"{METHODS}/prefill/0"
    assert command_for(path) == f"mlpass prune {path} -o methods-smaller.pte"
    assert output_name(path, "int8") == output_name(str(METHODS), "int8") == "int8.pte"
    assert output_name("model.mlpackage", "int8") == "int8.mlpackage"


@pytest.mark.parametrize("command", ["prune", "tune", "finetune", "choose"])
def test_help_names_what_may_be_written(command, capsys):
    with pytest.raises(SystemExit):
        main([command, "--help"])
    assert "the .mlpackage or .pte to write" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("config", [Percentile(0.5), None])
def test_fine_tuning_writes_a_program(config, tmp_path):
    pytest.importorskip("torch")
    from mlpass.finetune import finetune

    out, samples = tmp_path / "out.pte", [{"x": row[None]} for row in ROWS]
    report = finetune(METHODS / "forward/0", out, config, samples, steps=2)
    assert report.output == str(out) and [*Pte(out).delegates] == [*Pte(METHODS).delegates]
    sparse = {layer.sparsity for layer in mlpass.inspect(out).layers}
    assert sparse == {0.0 if config is None else 0.5}


def test_the_command_line(tmp_path, capsys):
    assert prune(DELEGATES / "forward/0", tmp_path / "out.pte") == 0
    assert "1 of 1 weights pruned" in capsys.readouterr().out
    assert prune(tmp_path / "no.pte", tmp_path / "out2.pte") == 1
    one_line(capsys, "no.pte: No such file or directory")
