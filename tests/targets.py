"""Files and folders that take the place of a target, and systems that cannot rename as ours do."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from mlpass import files, renaming

ONLY_NEW, SWAP = renaming._ONLY_NEW, renaming._SWAP
Whole = Callable[..., AbstractContextManager[Path]]
WHOLE = pytest.mark.parametrize("whole", [files.whole_file, files.whole_folder])


def fill(path: Path, text: str) -> Path:
    """Writes `text` to a file at `path`, or into a folder there."""
    (path / "file" if path.is_dir() else path).write_text(text)
    return path


def folder(path: Path, text: str) -> Path:
    path.mkdir()
    return fill(path, text)


def text(path: Path) -> str:
    return (path / "file" if path.is_dir() else path).read_text()


def refuse(number: int, *kinds: int) -> Callable[[Path, Path, int], None]:
    """Returns a rename that fails with an error number where it is of one of these kinds."""
    rename = renaming._rename

    def refusing(first: Path, second: Path, how: int) -> None:
        if how in kinds:
            raise OSError(number, os.strerror(number), str(second))
        rename(first, second, how)

    return refusing


def old_system(number: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Has the file system know nothing but a plain rename; None leaves it as it is."""
    if number is not None:
        monkeypatch.setattr(renaming, "_rename", refuse(number, ONLY_NEW, SWAP))
