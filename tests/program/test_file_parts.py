"""Parts of a file, held against slices of its bytes."""

from __future__ import annotations

import os

import pytest

from mlpass.errors import ModelFormatError
from mlpass.program.file_parts import FilePart


@pytest.mark.parametrize(
    "where", [slice(None), slice(2, 5), slice(-3, None), slice(5, 2), slice(4, 99), slice(99, None)]
)
def test_a_part_is_sliced_as_bytes_are(where, tmp_path):
    path = tmp_path / "ten"
    path.write_bytes(b"0123456789")
    whole = FilePart.whole(path)
    assert bytes(whole[where]) == b"0123456789"[where]
    assert len(whole[where]) == len(b"0123456789"[where])
    assert bytes(whole[1:9][where]) == b"12345678"[where]


def test_it_stays_what_it_was_opened_as_unless_it_is_cut(tmp_path):
    path = tmp_path / "ten"
    path.write_bytes(b"0123456789")
    whole = FilePart.whole(path)
    (tmp_path / "other").write_bytes(b"other")
    os.replace(tmp_path / "other", path)
    assert bytes(whole) == b"0123456789"
    whole = FilePart.whole(path)
    os.truncate(path, 2)
    with pytest.raises(ModelFormatError, match="ten: became shorter while it was read"):
        bytes(whole)
