"""What fails on the way leaves a target, and what is beside it, as they were."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from mlpass import files, leftovers, renaming
from tests.targets import ONLY_NEW, SWAP, WHOLE, Whole, fill, folder, old_system, refuse, text


@WHOLE
@pytest.mark.parametrize("failure", [ValueError("theirs"), KeyboardInterrupt(), SystemExit(143)])
def test_a_caller_that_fails_leaves_nothing(
    whole: Whole, failure: BaseException, tmp_path: Path
) -> None:
    with (  # noqa: PT012
        pytest.raises(type(failure)),
        whole(tmp_path / "target", force=True) as building,
    ):
        fill(building, "half")
        raise failure
    assert os.listdir(tmp_path) == []


def test_any_other_failure_leaves_both_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(renaming, "_rename", refuse(errno.EACCES, SWAP))
    target = folder(tmp_path / "target", "old")
    with (
        pytest.raises(PermissionError),
        files.whole_folder(target, force=True) as building,
    ):
        fill(building, "new")
    assert text(target) == "old"
    assert os.listdir(tmp_path) == ["target"]

    monkeypatch.setattr(renaming, "_rename", refuse(errno.EACCES, ONLY_NEW))
    with (
        pytest.raises(PermissionError),
        files.whole_folder(tmp_path / "free", force=False) as building,
    ):
        fill(building, "new")
    assert os.listdir(tmp_path) == ["target"]

    old_system(errno.EINVAL, monkeypatch)
    rename = Path.rename

    def failing(self: Path, other: Path) -> Path:
        if other.name == "free":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return rename(self, other)

    monkeypatch.setattr(Path, "rename", failing)
    with (
        pytest.raises(OSError, match="Input/output error"),
        files.whole_folder(tmp_path / "free", force=False) as building,
    ):
        fill(building, "new")
    assert os.listdir(tmp_path) == ["target"]


@pytest.mark.parametrize("failure", [OSError(errno.EIO, "Input/output error"), KeyboardInterrupt()])
def test_a_failing_second_step_is_taken_back(
    failure: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = folder(tmp_path / "target", "old")
    rename = renaming.rename_new

    def failing(first: Path, second: Path) -> None:
        if first.suffix == ".partial" and not second.exists():
            raise failure
        rename(first, second)

    old_system(errno.EINVAL, monkeypatch)
    monkeypatch.setattr(renaming, "rename_new", failing)
    with pytest.raises(type(failure)), files.whole_folder(target, force=True) as building:
        fill(building, "new")

    assert text(target) == "old"
    assert os.listdir(tmp_path) == ["target"]


def test_a_building_that_is_gone_is_told(tmp_path: Path) -> None:
    target = folder(tmp_path / "target", "old")
    with (
        pytest.raises(FileNotFoundError),
        files.whole_folder(target, force=True) as building,
    ):
        building.rmdir()
    assert text(target) == "old"


def test_no_such_rename_on_this_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(renaming.ctypes, "CDLL", lambda *_, **__: object())
    monkeypatch.setattr(renaming.sys, "platform", "linux")
    with pytest.raises(OSError, match="no call here renames so") as caught:
        renaming._rename(tmp_path, tmp_path, SWAP)
    assert caught.value.errno == errno.ENOSYS


def test_a_failing_rename_says_why(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        renaming._rename(folder(tmp_path / "new", "new"), tmp_path / "nowhere", SWAP)
    assert caught.value.filename == str(tmp_path / "nowhere")


def test_what_was_swapped_out_is_discarded_whatever_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = folder(tmp_path / "elsewhere", "kept")
    fill(tmp_path / "file", "old")
    (tmp_path / "link").symlink_to(elsewhere)
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    folder(tmp_path / "directory", "old")

    for name in ("file", "link", "dangling", "directory", "never there"):
        leftovers.discard(tmp_path / name)
    assert os.listdir(tmp_path) == ["elsewhere"]
    assert text(elsewhere) == "kept"

    folder(tmp_path / "directory", "old")
    rmtree, calls = leftovers.shutil.rmtree, []

    def interrupted(*given: object, **named: object) -> None:
        calls.append(given)
        if len(calls) == 1:
            raise KeyboardInterrupt
        rmtree(*given, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(leftovers.shutil, "rmtree", interrupted)
    with pytest.raises(KeyboardInterrupt):
        leftovers.discard(tmp_path / "directory")
    assert os.listdir(tmp_path) == ["elsewhere"]
