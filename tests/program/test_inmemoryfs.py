"""A folder as one piece of data; tests/plugin/test_executorch.py holds it against ExecuTorch's."""

from __future__ import annotations

import json
from io import BytesIO

import pytest

from mlpass.errors import ModelFormatError
from mlpass.program.inmemoryfs import Image, digest


def node(name, children=None, offset=0, size=0):
    """Returns an entry of the text at the end: a folder where it has children."""
    return {
        "name": name,
        "kind": 0 if children is None else 1,
        "children": children or {},
        "dataRegion": {"offset": offset, "size": size},
    }


def packed(*nodes, data=b"abcdef"):
    return data + json.dumps({"nodes": nodes}).encode()[::-1]


def test_a_folder_comes_out_as_it_went_in(tmp_path):
    items = {"a.txt": b"one", "inner/deep/b.bin": b"", "inner/deep": None, "inner": None}
    (tmp_path / "c").write_bytes(b"three")
    image = Image("model", {**items, "ü.txt": tmp_path / "c"})
    file = BytesIO()
    image.write(file)
    assert len(file.getvalue()) == image.nbytes
    found = Image.read(file.getvalue())
    assert found.name == "model" and list(found.items) == list(image.items)
    assert digest(found.items) == digest(image.items) != digest(items)
    (tmp_path / "unpacked").mkdir()
    found.unpack(tmp_path / "unpacked")
    assert (tmp_path / "unpacked/ü.txt").read_bytes() == b"three"
    assert (tmp_path / "unpacked/inner/deep/b.bin").read_bytes() == b""


DEEP = [node("x"), *(node("x" * 200, {("x" * 200 if n else "x"): n}) for n in range(8))]


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "is not a folder as ExecuTorch packs it"),
        (b"no text", "is not a folder as ExecuTorch packs it"),
        (b"}" * 9 + b"[" * 99_999, "is not a folder as ExecuTorch packs it"),
        (packed("a"), "is not a folder as ExecuTorch packs it"),
        (packed({"name": "a"}), "is not a folder as ExecuTorch packs it"),
        (packed(node("a", {"b": -1})), "is not a folder as ExecuTorch packs it"),
        (packed(node("a", {"b": True})), "is not a folder as ExecuTorch packs it"),
        (packed({**node("a", {}), "children": 1}), "is not a folder as ExecuTorch packs it"),
        (packed(), "is an empty folder, or none"),
        (packed(node("a")), "is an empty folder, or none"),
        (packed(node("b"), node("a", {})), "'b' is in no folder of it"),
        (packed(node("a", {"a": 0})), "'a' is not in one folder"),  # in itself
        (packed(node("a", {"b": 1}), node("b", {"a": 0}), node("r", {})), "in no folder of it"),
        (packed(node("b"), node("a", {"b": 0, "c": 0})), "'c' is not in one folder"),
        (packed(node("b"), node("a", {"c": 0})), "'c' is not in one folder"),
        (packed(node("b"), node("a", {"b": 7})), "'b' is not in one folder"),
        *(
            (packed(node(name), node("a", {name: 0})), "is not a plain name of a file")
            for name in ("..", ".", "", "/etc", "a/b", "a\0", "\ud800")
        ),
        (packed(*DEEP), "is too long a path"),
        (packed(node("b", None, 0, 10**9), node("a", {"b": 0})), "the data of 'b' is not within"),
        (packed(node("b", None, 10**9, 1), node("a", {"b": 0})), "the data of 'b' is not within"),
        (
            packed(
                *(node(name, None, 0, 200) for name in "bcd"), node("a", {"b": 0, "c": 1, "d": 2})
            ),
            "the data of 'c' is not within",  # each is, but they are more than there is
        ),
    ],
)
def test_what_is_not_a_folder_is_said_to_be_none(data, text):
    with pytest.raises(ModelFormatError, match=text):
        Image.read(data)
