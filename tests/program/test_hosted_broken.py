"""Programs whose models or methods are not what they should be: which one, in one line."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice

import pytest

import mlpass
from mlpass import ModelFormatError, Percentile
from mlpass.program.flatbuffers import Table
from mlpass.program.pte import Fields, Pte
from mlpass.program.pte_writing import write_pte
from tests.conftest import FIXTURES

FOLDER = FIXTURES / "executorch"
DELEGATES, METHODS = FOLDER / "delegates.pte", FOLDER / "methods.pte"


def with_second(path, edit):
    """Writes a program of two models whose second has other items in its folder."""
    pte = Pte(DELEGATES)
    (second,) = islice(pte.models, 1, None)
    image = pte.image(second)
    with path.open("wb") as file:
        write_pte(pte, file, {second: replace(image, items=edit(dict(image.items)))})
    return path


def called(path, source, *names):
    """Writes a program whose methods have other names, of the same length or shorter."""
    data = bytearray(source.read_bytes())
    for plan, name in zip(
        Table.root(memoryview(bytes(data))).tables(Fields.plans), names, strict=True
    ):
        span = plan.vector(Fields.plan_name)
        assert len(name) <= span.size
        data[span.start - 4 : span.start] = len(name).to_bytes(4, "little")
        data[span.start : span.start + len(name)] = name
    path.write_bytes(data)
    return path


def without_metadata(items):
    del items["metadata.json"]
    return items


@pytest.mark.parametrize(
    ("edit", "text"),
    [
        (lambda items: {"a": b""}, "its Core ML model is not a package; export with model_type"),
        (lambda items: {"m.mlmodelc": None}, "its Core ML model is compiled; export with"),
        (
            lambda items: {**items, "model.mlpackage/Manifest.json": b"{}"},
            "model.mlpackage.Manifest.json: names no root model",
        ),
        (without_metadata, "its Core ML model has no identifier in metadata.json"),
    ],
)
def test_of_several_models_the_one_is_named_that_is_broken(edit, text, tmp_path):
    path = with_second(tmp_path / "x.pte", edit)
    with pytest.raises(ModelFormatError, match=rf"x\.pte/forward/1: {text}"):
        mlpass.prune(path, tmp_path / "out.pte", Percentile(0.5))
    assert [*tmp_path.iterdir()] == [path]
    mlpass.prune(path / "forward/0", tmp_path / "out.pte", Percentile(0.5))  # the other is whole


def test_a_function_that_is_not_there_is_told_of_whatever_is_asked(tmp_path):
    data = METHODS.read_bytes()
    wrong = data.replace(b'"functionName": "prefill"', b'"functionName": "prefilx"')
    path = tmp_path / "x.pte"
    path.write_bytes(wrong)
    assert wrong != data
    for name in (path, path / "forward/0", path / "prefill/0"):
        with pytest.raises(
            ModelFormatError,
            match="delegate prefill/0 calls the function 'prefilx', and its model has 'forw",
        ):
            mlpass.inspect(name)


def test_two_methods_of_one_name_would_hide_a_model(tmp_path):
    path = called(tmp_path / "x.pte", METHODS, b"forward", b"forward")
    with pytest.raises(ModelFormatError, match="has two methods of one name, that of 'forward/0'"):
        mlpass.prune(path, tmp_path / "out.pte", Percentile(0.5))


@pytest.mark.parametrize("name", [b"", b"/", b"for/./", b"a//b"])
def test_a_method_may_have_a_name_that_a_path_cannot_have(name, tmp_path):
    path = called(tmp_path / "x.pte", DELEGATES, name)
    mlpass.prune(path, tmp_path / "out.pte", Percentile(0.5))
    for model in Pte(tmp_path / "out.pte").models.values():
        (layer,) = mlpass.inspect(f"{tmp_path}/out.pte/{model}").layers
        assert layer.sparsity == 0.5


def test_what_cannot_be_read_is_shown_in_part(tmp_path):
    def edit(items):
        return {**items, "model.mlpackage/Manifest.json": bytes(9000)}

    path = with_second(tmp_path / "x.pte", edit)
    with pytest.raises(ModelFormatError, match="copy or convert the model again") as caught:
        mlpass.inspect(path)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("size", [30, 300])
def test_what_was_not_copied_whole_says_so(size, tmp_path):
    path = tmp_path / "x.pte"
    path.write_bytes((FOLDER / "inline.pte").read_bytes()[:size])
    with pytest.raises(ModelFormatError, match=r"x\.pte: .* was not copied whole"):
        mlpass.inspect(path)


@pytest.mark.parametrize("output", ["out.pte", "out.mlpackage"])
def test_what_a_manifest_lists_is_told_by_the_name_of_the_program(output, tmp_path):
    """Not by that of the folder that the package was unpacked to, which is gone by then."""

    def edit(items):
        name = "model.mlpackage/Manifest.json"
        return {**items, name: bytes(items[name]).replace(b"CoreML/weights", b"CoreML/weighty")}

    path = with_second(tmp_path / "x.pte", edit)
    text = rf"^{path}/forward/1: model.mlpackage/Manifest.json: lists 'com.apple.CoreML/weighty'"
    with pytest.raises(ModelFormatError, match=text):
        mlpass.prune(path / "forward/1", tmp_path / output, Percentile(0.5))
    assert [*tmp_path.iterdir()] == [path]
