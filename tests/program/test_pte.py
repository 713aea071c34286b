"""ExecuTorch programs, read and written; tests/plugin/test_executorch.py asks ExecuTorch itself."""

from __future__ import annotations

import os
import random
from dataclasses import replace
from io import BytesIO

import pytest

from mlpass.errors import ModelFormatError
from mlpass.program.flatbuffers import Table
from mlpass.program.hosted import HostedPackage, write_hosts
from mlpass.program.pte import SEGMENT_BASE, Fields, Pte
from mlpass.program.pte_writing import write_pte
from tests.conftest import FIXTURES
from tests.program.packages import time_limit

FOLDER = FIXTURES / "executorch"
CASES = int(os.environ.get("MLPASS_FUZZ_CASES", "100"))
NAMES = ("inline", "delegates", "methods")


def written(pte, images):
    file = BytesIO()
    write_pte(pte, file, images)
    return file.getvalue()


def saved(path, data):
    path.write_bytes(data)
    return Pte(path)


def patched(name, edit):
    """Returns the bytes of a fixture after `edit(bytes, root table)`."""
    data = bytearray((FOLDER / f"{name}.pte").read_bytes())
    edit(data, Table.root(memoryview(bytes(data))))
    return bytes(data)


def put(data, at, value, size=4):
    data[at : at + size] = value.to_bytes(size, "little")


def delegate(root, number=0):
    return root.tables(Fields.plans)[0].tables(Fields.plan_delegates)[number]


@pytest.mark.parametrize("name", NAMES)
def test_unchanged_it_is_the_same_file(name):
    pte = Pte(FOLDER / f"{name}.pte")
    same = {blob: pte.image(blob) for blob in pte.models}
    assert written(pte, {}) == written(pte, same) == (FOLDER / f"{name}.pte").read_bytes()


def test_delegates_have_the_names_of_their_methods():
    found = {name: Pte(FOLDER / f"{name}.pte") for name in NAMES}
    assert [*found["inline"].delegates] == ["forward/0"]
    assert [*found["delegates"].delegates] == ["forward/0", "forward/1"]
    assert [*found["delegates"].models.values()] == ["forward/0", "forward/1"]
    assert [*found["methods"].models.values()] == ["forward/0"]
    functions = {name: each.function for name, each in found["methods"].delegates.items()}
    assert functions == {"forward/0": "forward", "prefill/0": "prefill"}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [0, 40_000])
def test_with_another_model_all_else_is_what_it_was(name, size, tmp_path):
    pte = Pte(FOLDER / f"{name}.pte")
    blob, *others = pte.models
    image = replace(pte.image(blob), items={"one.bin": bytes(size)})
    new = saved(tmp_path / "new.pte", written(pte, {blob: image}))
    assert [*new.delegates] == [*pte.delegates]
    first, *rest = new.models
    assert bytes(new.image(first).items["one.bin"]) == bytes(size)
    for other, old in zip(rest, others, strict=True):
        assert other.at.start % 128 == 0  # as ExecuTorch aligns segments
        assert bytes(new.part(other.at)) == bytes(pte.part(old.at))
    back = saved(tmp_path / "back.pte", written(new, {first: pte.image(blob)}))
    assert [back.image(one).items.keys() for one in back.models] == [
        pte.image(one).items.keys() for one in pte.models
    ]
    if name != "inline":  # there it is padded, to keep what follows aligned
        assert bytes(back.data) == bytes(pte.data)


def cut(data, _):
    del data[-20_000:]


def set_(at, value, size=4):
    return lambda data, _: put(data, at, value, size)


def set_index(data, root):
    put(data, delegate(root).table(Fields.delegate_data).place(Fields.index), 99)


def no_inline(data, root):
    put(data, root.references(Fields.inline).start - 4, 0)


def rename(data, root):
    at = delegate(root).vector(Fields.delegate_id).start
    data[at : at + 4] = b"Edge"


def lose_data(data, root):
    table = delegate(root)
    put(data, table.vtable + 4 + 2 * Fields.delegate_data, 0, 2)


def break_reference(data, _):
    at = data.index(b"CMJR")
    data[at + 4 : at + 5] = b"["


def rename_key(data, _):
    at = data.index(b'"key": "coreml_')
    data[at + 8 : at + 14] = b"absent"


def overrun(data, root):
    put(data, delegate(root).vector(Fields.delegate_id).start - 4, 1 << 30)


def many(data, root):
    put(data, root.references(Fields.plans).start - 4, 1 << 30)


@pytest.mark.parametrize(
    ("name", "edit", "text"),
    [
        ("inline", lambda data, _: data.clear(), "is not an ExecuTorch program that mlpass knows"),
        ("inline", set_(4, 0), "is not an ExecuTorch program that mlpass knows"),
        ("delegates", cut, "before a segment that goes to .*: it was not copied whole"),
        ("delegates", set_(SEGMENT_BASE, 1 << 40, 8), "its segments begin at 1099511627776"),
        ("inline", set_(0, 1 << 31), "is not within its 22736 bytes"),
        ("inline", many, "cannot have 1073741824 elements"),
        ("inline", overrun, "go past its end"),
        ("inline", rename, "has no Core ML delegate, so no model that mlpass reads"),
        ("inline", lose_data, "has a delegate without data"),
        ("inline", no_inline, "has no data of the number 0"),
        ("delegates", set_index, "has no data of the number 99"),
        ("methods", break_reference, "does not name a delegate's model"),
        ("methods", rename_key, "has no data of the name 'absent"),
    ],
)
def test_what_is_broken_is_told_in_one_line(name, edit, text, tmp_path):
    path = tmp_path / "broken.pte"
    with pytest.raises(ModelFormatError, match=rf"^{path}: .*{text}"):
        saved(path, patched(name, edit))


@pytest.mark.parametrize(
    ("name", "place", "most", "text"),
    [
        ("delegates", "pte._MOST_DELEGATES", 2, "has more than 2 delegates"),
        ("delegates", "flatbuffers._LONGEST_TEXT", 8, "a name of 13 bytes is too long for one"),
        ("methods", "pte._LONGEST_KEY", 8, "has no data of the name 'coreml_executorch_"),
    ],
)
def test_more_than_any_program_has(name, place, most, text, monkeypatch):
    monkeypatch.setattr(f"mlpass.program.{place}", most)
    with pytest.raises(ModelFormatError, match=text):
        Pte(FOLDER / f"{name}.pte")


def test_more_tables_than_any_program_has(monkeypatch):
    monkeypatch.setattr("mlpass.program.pte_inline._MOST_TABLES", 2)
    pte = Pte(FOLDER / "inline.pte")
    with pytest.raises(ModelFormatError, match="inline.pte: has more than 2 tables"):
        written(pte, {blob: pte.image(blob) for blob in pte.models})


def overlap(data, root):
    second = root.tables(Fields.segments)[2]
    put(data, second.place(Fields.offset), 64, 8)


def newer(data, root):
    put(data, root.vtable, 4 + 2 * 9, 2)


def unknown_kind(data, root):
    value = root.tables(Fields.plans)[0].tables(2)[0]
    put(data, value.place(0), 99, 1)


@pytest.mark.parametrize(
    ("name", "edit", "text"),
    [
        ("delegates", overlap, "has segments that overlap"),
        ("inline", newer, "was written by a newer ExecuTorch than mlpass knows"),
        ("inline", unknown_kind, "has a value of kind 99, which mlpass does not know"),
    ],
)
def test_what_cannot_be_moved_is_left_alone(name, edit, text, tmp_path):
    pte = saved(tmp_path / "odd.pte", patched(name, edit))
    blob = next(iter(pte.models))
    image = replace(pte.image(blob), items={"a": b""})
    with pytest.raises(ModelFormatError, match=text):
        written(pte, {blob: image})


def test_what_would_not_be_whole_is_not_written(tmp_path, monkeypatch):
    monkeypatch.setattr("mlpass.program.hosted.write_pte", lambda pte, file, _: file.write(b"x"))
    text = "new.pte: was not written, since it would not be whole"
    with HostedPackage(FOLDER / "inline.pte") as one, pytest.raises(ModelFormatError, match=text):
        write_hosts(one.pte, {one.blob: one.path}, tmp_path / "new.pte", force=False)
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize("name", NAMES)
def test_hostile_bytes_end_in_one_line_or_in_a_program(name, tmp_path):
    """Offsets, sizes and counts anywhere, ends cut off: nothing but our own error, and no hang."""
    whole, draw, path = (FOLDER / f"{name}.pte").read_bytes(), random.Random(name), tmp_path / "x"
    places = [*range(2500), *range(len(whole) - 2500, len(whole))]  # those that tell of others
    values = (0, 1, 4, 0xFFFFFFFF, 1 << 31)
    errors = []
    with time_limit(60):
        for _ in range(CASES):
            data = bytearray(whole)
            for _ in range(draw.choice((1, 1, 2, 5))):
                put(data, draw.choice(places) & ~3, draw.choice((*values, draw.randrange(1 << 16))))
            if draw.random() < 0.2:
                del data[draw.randrange(len(data)) :]
            try:
                pte = saved(path, bytes(data))
                for blob in pte.models:
                    other = replace(pte.image(blob), items={"a": bytes(100)})
                    written(pte, {blob: other})
            except ModelFormatError as error:
                errors.append(str(error))
    assert errors
    assert all(error.startswith(f"{path}: ") and "\n" not in error for error in errors)
