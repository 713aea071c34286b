"""A finished directory takes the place of its target, in one step or in two."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from mlpass.program import atomic


def _directory(path: Path, text: str) -> Path:
    path.mkdir()
    (path / "file").write_text(text)
    return path


def _text(path: Path) -> str:
    return (path / "file").read_text()


def _refuse(number: int) -> Callable[[Path, Path], None]:
    """Returns a swap that fails with an error number."""

    def swap(first: Path, second: Path) -> None:
        raise OSError(number, os.strerror(number), str(second))

    return swap


def test_a_building_is_new_hidden_and_beside_its_target(tmp_path: Path) -> None:
    target = tmp_path / "out.mlpackage"
    first, second = atomic.make_building(target), atomic.make_building(target)

    assert first != second
    for building in (first, second):
        assert building.is_dir()
        assert building.parent == tmp_path
        assert building.name.startswith(".out.mlpackage.")
        assert building.suffix == ".partial"


def test_a_target_in_no_directory_is_named(tmp_path: Path) -> None:
    target = tmp_path / "nowhere" / "out.mlpackage"
    with pytest.raises(FileNotFoundError) as caught:
        atomic.make_building(target)
    assert caught.value.filename == str(target)


def test_a_free_place_is_taken(tmp_path: Path) -> None:
    new, target = _directory(tmp_path / "new", "new"), tmp_path / "target"
    atomic.replace_directory(new, target)

    assert _text(target) == "new"
    assert os.listdir(tmp_path) == ["target"]


@pytest.mark.parametrize("number", [None, errno.ENOSYS, errno.EINVAL, errno.ENOTSUP])
def test_an_old_directory_is_swapped_out(
    number: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if number is not None:  # a file system that cannot swap: in two steps
        monkeypatch.setattr(atomic, "_exchange", _refuse(number))
    new, target = _directory(tmp_path / "new", "new"), _directory(tmp_path / "target", "old")
    atomic.replace_directory(new, target)

    assert (_text(target), _text(new)) == ("new", "old")
    assert sorted(os.listdir(tmp_path)) == ["new", "target"]


def test_any_other_failure_leaves_both_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(atomic, "_exchange", _refuse(errno.EACCES))
    new, target = _directory(tmp_path / "new", "new"), _directory(tmp_path / "target", "old")
    with pytest.raises(PermissionError):
        atomic.replace_directory(new, target)

    assert (_text(target), _text(new)) == ("old", "new")


def test_a_failing_second_step_is_taken_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new, target = _directory(tmp_path / "new", "new"), _directory(tmp_path / "target", "old")
    rename = Path.rename

    def fail_for_new(self: Path, other: Path) -> Path:
        if self == new:
            raise OSError(errno.EIO, "Input/output error")
        return rename(self, other)

    monkeypatch.setattr(atomic, "_exchange", _refuse(errno.EINVAL))
    monkeypatch.setattr(Path, "rename", fail_for_new)
    with pytest.raises(OSError, match="Input/output error"):
        atomic.replace_directory(new, target)

    assert (_text(target), _text(new)) == ("old", "new")
    assert sorted(os.listdir(tmp_path)) == ["new", "target"]


def test_no_swap_on_this_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(atomic.ctypes, "CDLL", lambda *_, **__: object())
    monkeypatch.setattr(atomic.sys, "platform", "linux")
    with pytest.raises(OSError, match="no call here swaps two paths") as caught:
        atomic._exchange(tmp_path, tmp_path)
    assert caught.value.errno == errno.ENOSYS


def test_a_failing_swap_says_why(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        atomic._exchange(_directory(tmp_path / "new", "new"), tmp_path / "nowhere")
    assert caught.value.filename == str(tmp_path / "nowhere")


def test_what_was_swapped_out_is_discarded_whatever_it_is(tmp_path: Path) -> None:
    elsewhere = _directory(tmp_path / "elsewhere", "kept")
    (tmp_path / "file").write_text("old")
    (tmp_path / "link").symlink_to(elsewhere)
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    _directory(tmp_path / "directory", "old")

    for name in ("file", "link", "dangling", "directory", "never there"):
        atomic.discard(tmp_path / name)
    assert os.listdir(tmp_path) == ["elsewhere"]
    assert _text(elsewhere) == "kept"
