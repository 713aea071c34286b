"""Weight files, against coremltools' own reader and writer."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from coremltools.libmilstoragepython import _BlobStorageReader, _BlobStorageWriter

from mlpass.errors import ModelFormatError
from mlpass.program.blobs import BlobFile, BlobWriter, GrownBlobs
from mlpass.program.dtypes import BY_NAME, DType, pack_elements, unpack_elements
from mlpass.program.ir import Constant


class Peer(NamedTuple):
    """How coremltools calls an element type, and the numpy type it takes and gives."""

    word: str
    numpy: str


# Every type that coremltools can store. It takes fp16 as the uint16 of the same bits.
PEERS = {
    "fp16": Peer("fp16", "uint16"),
    "fp32": Peer("float", "float32"),
    "int4": Peer("int4", "int8"),
    "int8": Peer("int8", "int8"),
    "int16": Peer("int16", "int16"),
    "int32": Peer("int32", "int32"),
    "uint1": Peer("uint1", "uint8"),
    "uint2": Peer("uint2", "uint8"),
    "uint3": Peer("uint3", "uint8"),
    "uint4": Peer("uint4", "uint8"),
    "uint6": Peer("uint6", "uint8"),
    "uint8": Peer("uint8", "uint8"),
    "uint16": Peer("uint16", "uint16"),
    "uint32": Peer("uint32", "uint32"),
}
ALONE = {
    "bf16",
    "fp8e4m3fn",
    "fp8e5m2",
}  # blobs of these exist, coremltools neither reads nor writes
COUNTS = (1, 7, 8, 9, 64, 1000)


def values_of(dtype: DType, count: int) -> np.ndarray[Any, Any]:
    """Returns `count` elements of a type, spread over all its values."""
    generator = np.random.default_rng(count)
    if dtype.name in ("fp16", "fp32"):
        return generator.standard_normal(count).astype(dtype.numpy)
    lowest = -(1 << (dtype.bits - 1)) if dtype.signed else 0
    return generator.integers(lowest, lowest + (1 << dtype.bits), count).astype(dtype.numpy)


def test_the_table_of_peers_is_complete() -> None:
    storable = {name for name, dtype in BY_NAME.items() if dtype.blob is not None}
    known = {name.split("_")[1] for name in dir(_BlobStorageReader) if name.startswith("read_")}

    assert set(PEERS) | ALONE == storable
    assert {peer.word for peer in PEERS.values()} == known


@pytest.mark.parametrize("name", PEERS)
def test_coremltools_reads_what_is_written(name: str, tmp_path: Path) -> None:
    dtype, peer = BY_NAME[name], PEERS[name]
    written = [values_of(dtype, count) for count in COUNTS]
    writer = BlobWriter(tmp_path / "weight.bin")
    offsets = [writer.write(pack_elements(v, dtype), dtype, v.size) for v in written]
    writer.close()

    reader = _BlobStorageReader(str(tmp_path / "weight.bin"))
    for values, offset in zip(written, offsets, strict=True):
        got = np.asarray(getattr(reader, f"read_{peer.word}_data")(offset))
        np.testing.assert_array_equal(got.view(peer.numpy), values.view(peer.numpy))


@pytest.mark.parametrize("name", PEERS)
def test_what_coremltools_writes_is_read(name: str, tmp_path: Path) -> None:
    dtype, peer = BY_NAME[name], PEERS[name]
    path = tmp_path / "weight.bin"
    written = [values_of(dtype, count) for count in COUNTS]
    writer = _BlobStorageWriter(str(path))
    write = getattr(writer, f"write_{peer.word}_data")
    offsets = [write(values.view(peer.numpy)) for values in written]
    del writer, write

    blobs = BlobFile(path)
    assert blobs.count == len(written)
    for values, offset in zip(written, offsets, strict=True):
        raw = blobs.read(offset, dtype, values.size)
        chunks = b"".join(bytes(chunk) for chunk in blobs.chunks(offset, dtype, values.size))
        blobs.check(offset, dtype, values.size)
        assert chunks == raw.tobytes()
        np.testing.assert_array_equal(unpack_elements(raw, dtype, values.size), values)
    blobs.close()


def test_files_are_the_same_bytes_as_those_of_coremltools(tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours.bin", tmp_path / "theirs.bin"
    writer, peer_writer = BlobWriter(ours), _BlobStorageWriter(str(theirs))
    for name, peer in PEERS.items():
        for count in COUNTS:
            values = values_of(BY_NAME[name], count)
            offset = writer.write(pack_elements(values, BY_NAME[name]), BY_NAME[name], count)
            write = getattr(peer_writer, f"write_{peer.word}_data")
            assert write(values.view(peer.numpy)) == offset
    writer.close()
    del peer_writer, write

    assert ours.read_bytes() == theirs.read_bytes()


@pytest.mark.parametrize("name", sorted(ALONE))
def test_types_without_array_form_are_copied_bit_by_bit(name: str, tmp_path: Path) -> None:
    dtype, count = BY_NAME[name], 5
    raw = np.arange(dtype.nbytes(count), dtype=np.uint8)
    first, second = tmp_path / "first.bin", tmp_path / "second.bin"
    writer = BlobWriter(first)
    offset = writer.write(raw, dtype, count)
    writer.close()
    source, writer = BlobFile(first), BlobWriter(second)
    new_offset = writer.copy(source, offset, dtype, count)
    writer.close()
    source.close()
    copied = BlobFile(second)

    np.testing.assert_array_equal(copied.read(new_offset, dtype, count), raw)
    with pytest.raises(ModelFormatError, match=f"^{name} values cannot be read as an array$"):
        unpack_elements(raw, dtype, count)
    copied.close()


@pytest.mark.parametrize("name", PEERS)
def test_packing_is_undone_by_unpacking(name: str) -> None:
    dtype = BY_NAME[name]
    for count in (0, *COUNTS):
        values = values_of(dtype, count)
        raw = pack_elements(values, dtype)
        assert raw.size == dtype.nbytes(count)
        np.testing.assert_array_equal(unpack_elements(raw, dtype, count), values)


def test_an_empty_blob_and_an_empty_file_are_whole(tmp_path: Path) -> None:
    empty, one = tmp_path / "empty.bin", tmp_path / "one.bin"
    BlobWriter(empty).close()
    writer = BlobWriter(one)
    offset = writer.write(np.empty(0, np.uint8), BY_NAME["fp16"], 0)
    writer.close()
    blobs = BlobFile(one)

    assert empty.read_bytes() == struct.pack("<II56x", 0, 2)
    assert blobs.read(offset, BY_NAME["fp16"], 0).size == 0
    assert list(blobs.chunks(offset, BY_NAME["fp16"], 0)) == []
    blobs.close()


def test_a_blob_larger_than_a_chunk_is_copied_whole(tmp_path: Path) -> None:
    values = values_of(BY_NAME["fp32"], 700_001)  # two chunks and a bit
    writer = BlobWriter(tmp_path / "first.bin")
    offset = writer.write(pack_elements(values, BY_NAME["fp32"]), BY_NAME["fp32"], values.size)
    writer.close()
    source, writer = BlobFile(tmp_path / "first.bin"), BlobWriter(tmp_path / "second.bin")
    writer.copy(source, offset, BY_NAME["fp32"], values.size)
    writer.close()
    source.close()

    assert (tmp_path / "second.bin").read_bytes() == (tmp_path / "first.bin").read_bytes()


def test_bool_has_no_blobs(tmp_path: Path) -> None:
    writer = BlobWriter(tmp_path / "weight.bin")
    with pytest.raises(ValueError, match=r"^a weight file cannot hold bool$"):
        writer.write(np.zeros(1, np.uint8), BY_NAME["bool"], 1)
    writer.close()


def test_a_file_that_exists_is_not_overwritten(tmp_path: Path) -> None:
    BlobWriter(tmp_path / "weight.bin").close()
    with pytest.raises(FileExistsError):
        BlobWriter(tmp_path / "weight.bin")


# A file of one blob of 100 fp16: its header is at 64, its data from 128 to 328.
HEADER, END = 64, 328


def _patch(offset: int, pattern: str, value: int) -> Callable[[bytearray], None]:
    return lambda data: struct.pack_into(pattern, data, offset, value)


class Broken(NamedTuple):
    change: Callable[[bytearray], Any]
    message: str
    offset: int = HEADER
    dtype: str = "fp16"
    count: int = 100


BROKEN = {
    "not a multiple of 64": Broken(
        lambda _: None, "the blob at 65: the offset is not a multiple of 64", 65
    ),
    "offset past the end": Broken(
        lambda _: None, "the blob header at 6400 ends at 6464, past the end of the file", 6400
    ),
    "offset near 2**64": Broken(
        lambda _: None, "past the end of the file (328 bytes): is it truncated?", (1 << 64) - 64
    ),
    "wrong sentinel": Broken(
        _patch(64, "<I", 0xDEADBEEE), "no blob starts there (wrong sentinel 0xdeadbeee)"
    ),
    "another element type": Broken(
        _patch(68, "<I", 4), "holds elements of code 4, the program says fp16"
    ),
    "fewer bytes": Broken(
        _patch(72, "<Q", 198), "holds 198 bytes, the program says 100 elements of fp16 (200 bytes)"
    ),
    "size near 2**64": Broken(_patch(72, "<Q", (1 << 64) - 1), "holds 18446744073709551615 bytes"),
    "size that wraps around": Broken(
        _patch(72, "<Q", 1 << 63),
        "ends at 9223372036854775936, past the end of the file",
        count=1 << 62,
    ),
    "data past the end": Broken(_patch(80, "<Q", 192), "ends at 392, past the end of the file"),
    "data near 2**64": Broken(
        _patch(80, "<Q", (1 << 64) - 64), "ends at 18446744073709551752, past the end of the file"
    ),
    "cut in the data": Broken(
        lambda data: data.__delitem__(slice(END - 1, None)),
        "the blob at 64: ends at 328, past the end of the file (327 bytes): is it truncated?",
    ),
    "cut in the blob header": Broken(
        lambda data: data.__delitem__(slice(100, None)),
        "the blob header at 64 ends at 128, past the end of the file (100 bytes): is it truncated?",
    ),
}


def _one_blob(path: Path, change: Callable[[bytearray], Any]) -> None:
    writer = BlobWriter(path)
    writer.write(np.zeros(200, np.uint8), BY_NAME["fp16"], 100)
    writer.close()
    data = bytearray(path.read_bytes())
    change(data)
    path.write_bytes(data)


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_blob_is_refused(case: str, tmp_path: Path) -> None:
    change, message, offset, name, count = BROKEN[case]
    path = tmp_path / "weight.bin"
    _one_blob(path, change)
    blobs = BlobFile(path)
    arguments = offset, BY_NAME[name], count

    for call in (blobs.check, blobs.read, lambda *a: list(blobs.chunks(*a))):
        with pytest.raises(ModelFormatError) as caught:
            call(*arguments)
        assert message in str(caught.value)
        assert str(caught.value).startswith(f"{path}: ")
    blobs.close()


BROKEN_FILES = {
    "empty": (lambda data: data.clear(), "its header ends at 64, past the end of the file (0 b"),
    "cut in its header": (lambda data: data.__delitem__(slice(63, None)), "its header ends at 64"),
    "older version": (_patch(4, "<I", 1), "weight file version 1 is not 2"),
    "something else": (_patch(0, "<Q", 2**64 - 1), "weight file version 4294967295 is not 2"),
}


@pytest.mark.parametrize("case", BROKEN_FILES)
def test_a_file_that_is_no_weight_file_is_refused(case: str, tmp_path: Path) -> None:
    change, message = BROKEN_FILES[case]
    path = tmp_path / "weight.bin"
    _one_blob(path, change)

    with pytest.raises(ModelFormatError) as caught:
        BlobFile(path)
    assert message in str(caught.value)


def test_a_file_that_shrinks_while_it_is_read_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "weight.bin"
    _one_blob(path, lambda _: None)
    blobs = BlobFile(path)
    with path.open("r+b") as file:
        file.truncate(200)

    with pytest.raises(ModelFormatError, match="the blob at 64 is cut short: it shrank while read"):
        blobs.read(HEADER, BY_NAME["fp16"], 100)
    blobs.close()


def test_a_failing_read_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "weight.bin"
    _one_blob(path, lambda _: None)
    blobs = BlobFile(path)

    def fail(*_: object) -> int:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("mlpass.program.blobs.os.preadv", fail)
    with pytest.raises(OSError, match="Input/output error") as caught:
        blobs.read(HEADER, BY_NAME["fp16"], 100)
    assert caught.value.filename == str(path)
    blobs.close()


def test_blobs_that_are_not_in_their_file_yet_are_read_and_copied_with_the_others(
    tmp_path: Path,
) -> None:
    floats, codes = np.arange(5, dtype=np.float32), np.arange(9, dtype=np.uint8)
    writer = BlobWriter(tmp_path / "old.bin")
    place = writer.write(pack_elements(floats, BY_NAME["fp32"]), BY_NAME["fp32"], 5)
    writer.close()
    added = Constant.packed(pack_elements(codes, BY_NAME["uint4"]), "uint4", (9,))
    file = BlobFile(tmp_path / "old.bin")
    grown = GrownBlobs(file, {1 << 48: added})
    for offset, dtype, count in ((place, BY_NAME["fp32"], 5), (1 << 48, BY_NAME["uint4"], 9)):
        grown.check(offset, dtype, count)
        assert grown.read(offset, dtype, count).size == dtype.nbytes(count)
        whole, byte = grown.read(offset, dtype, count), dtype.nbytes(2)
        assert np.array_equal(grown.read(offset, dtype, count, 0, 2), whole[:byte])
        assert np.array_equal(grown.read(offset, dtype, count, 2), whole[byte:])
        assert np.array_equal(grown.read(offset, dtype, count, 2, 4), whole[byte : 2 * byte])
    with pytest.raises(ModelFormatError, match="past the end of the file"):
        grown.check((1 << 48) + 64, BY_NAME["uint4"], 9)
    writer = BlobWriter(tmp_path / "new.bin")
    places = [
        writer.copy(grown, place, BY_NAME["fp32"], 5),
        writer.copy(grown, 1 << 48, BY_NAME["uint4"], 9),
    ]
    writer.close()
    file.close()
    reader = _BlobStorageReader(str(tmp_path / "new.bin"))
    assert np.array_equal(reader.read_float_data(places[0]), floats)
    assert np.array_equal(reader.read_uint4_data(places[1]), codes)
