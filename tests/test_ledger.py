"""A ledger belongs to one living run, and tells where it is when that dies."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mlpass import ledger
from mlpass.errors import OutputBusyError
from mlpass.ledger import Ledger, close_all

HOLDER = """
import sys
from pathlib import Path
from mlpass.ledger import Ledger
ledger = Ledger(Path(sys.argv[1]), "*.npz")
(ledger.folder / "0.npz").write_text("finished")
print("held", flush=True)
sys.stdin.readline()
"""


def _holder(folder: Path) -> subprocess.Popen[str]:
    """Returns a process that has claimed a folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def _end(process: subprocess.Popen[str], number: int) -> None:
    process.send_signal(number)
    process.communicate()
    assert process.returncode == -number


def test_a_folder_is_of_one_process_and_its_lock_goes_with_that(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    for _ in range(3):
        holder = _holder(folder)
        with pytest.raises(OutputBusyError, match="is in use: another run is writing the same out"):
            Ledger(folder, "*.npz")
        assert (folder / "0.npz").read_text() == "finished"
        _end(holder, signal.SIGKILL)
        mine = Ledger(folder, "*.npz")
        assert (folder / "0.npz").is_file()
        mine.free()


def test_a_folder_is_of_one_run_of_a_process(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    first = Ledger(folder, "*.npz")
    with pytest.raises(OutputBusyError, match="folder is in use"):
        Ledger(folder, "*.npz")
    first.close(None)
    assert os.listdir(tmp_path) == []
    second = Ledger(folder, "*.npz")
    del second  # as where an interrupt comes before it can be closed
    assert os.listdir(tmp_path) == []
    Ledger(folder, "*.npz").close(None)
    assert os.listdir(tmp_path) == []


def test_what_can_be_gone_on_with_is_kept_and_told(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    error = KeyboardInterrupt()
    Ledger(folder, "*.npz").close(error)
    assert not folder.exists()
    assert not vars(error)

    mine = Ledger(folder, "*.npz")
    (folder / "0.npz").touch()
    mine.close(error)
    (note,) = vars(error)["__notes__"]
    assert f"kept in {folder}: go on with resume (--resume), or delete that folder" in note
    assert (folder / "0.npz").is_file()

    mine = Ledger(folder, "*.npz")
    (folder / "deep").mkdir()
    mine.clear()
    assert os.listdir(folder) == ["lock"]
    with pytest.raises(OutputBusyError):
        Ledger(folder, "*.npz")
    mine.close(None)
    assert os.listdir(tmp_path) == []


def test_an_interrupt_while_it_is_deleted_tells_what_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        monkeypatch.undo()
        raise KeyboardInterrupt

    mine = Ledger(tmp_path / "folder", "*.npz")
    (mine.folder / "0.npz").touch()
    monkeypatch.setattr(ledger, "discard", interrupted)
    with pytest.raises(KeyboardInterrupt) as cut:
        mine.close(None)
    assert "what was finished is kept in" in vars(cut.value)["__notes__"][0]
    Ledger(mine.folder, "*.npz").free()  # it was let go of


def test_what_an_interrupt_left_open_is_closed_and_told_in_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = Ledger(tmp_path / "folder", "*.npz")
    (mine.folder / "0.npz").touch()
    other = Ledger(tmp_path / "other", "*.npz")
    other.free()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "0.npz").touch()  # another run's by now
    error = KeyboardInterrupt()
    close_all(error)
    (note,) = vars(error)["__notes__"]
    assert f"kept in {mine.folder}:" in note
    Ledger(mine.folder, "*.npz").free()
    later = KeyboardInterrupt()
    close_all(later)
    assert not vars(later)


def test_a_folder_that_its_run_deletes_meanwhile_is_claimed_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lock on a file that has lost its name does not claim that name."""
    folder, flock = tmp_path / "folder", fcntl.flock
    first = Ledger(folder, "*.npz")
    calls = []

    def late(descriptor: int, how: int) -> None:
        calls.append(descriptor)
        if len(calls) == 1:  # the lock file is open: now the first run is done
            with monkeypatch.context() as its_own:
                its_own.setattr(ledger.fcntl, "flock", flock)
                first.close(None)
        if len(calls) == 2:
            os.unlink(folder / "lock")
        flock(descriptor, how)

    monkeypatch.setattr(ledger.fcntl, "flock", late)
    mine = Ledger(folder, "*.npz")
    assert len(calls) == 3
    monkeypatch.undo()
    with pytest.raises(OutputBusyError):
        Ledger(folder, "*.npz")
    mine.close(None)


def test_a_folder_that_goes_before_it_is_opened_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, lstat, calls = tmp_path / "folder", os.lstat, []

    def late(path: Path) -> os.stat_result:
        if Path(path) == folder and not calls:
            calls.append(path)
            folder.rmdir()
        return lstat(path)

    monkeypatch.setattr(ledger.os, "lstat", late)
    Ledger(folder, "*.npz").close(None)
    assert calls


@pytest.mark.parametrize("kind", ["file", "link", "dangling link"])
def test_what_is_no_folder_of_its_own(kind: str, tmp_path: Path) -> None:
    """A link would lead to another place, such as into the model that is pruned."""
    folder, elsewhere = tmp_path / "folder", tmp_path / "elsewhere"
    elsewhere.mkdir()
    if kind == "file":
        folder.touch()
    else:
        folder.symlink_to(elsewhere if kind == "link" else tmp_path / "nothing")
    with pytest.raises(OutputBusyError, match="folder: is not a folder of mlpass's own; delete it"):
        Ledger(folder, "*.npz")
    assert sorted(os.listdir(tmp_path)) == ["elsewhere", "folder"]
    assert os.listdir(elsewhere) == []


def test_a_link_in_the_place_of_the_lock_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic links") as caught:
        Ledger(tmp_path / "folder", "*.npz")
    assert caught.value.errno == errno.ELOOP
    assert os.listdir(tmp_path) == ["folder"]


def test_a_file_system_without_locks_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(ledger.fcntl, "flock", refuse)
    with pytest.raises(OSError, match="No locks available"):
        Ledger(tmp_path / "folder", "*.npz")


def test_a_folder_that_cannot_be_renamed_is_deleted_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(Path, "rename", refuse)
    Ledger(tmp_path / "folder", "*.npz").close(None)
    assert os.listdir(tmp_path) == []


RACER = """
import sys
from pathlib import Path
from mlpass.errors import OutputBusyError
from mlpass.ledger import Ledger
folder, name, rounds = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
had = 0
for _ in range(rounds):
    try:
        ledger = Ledger(folder, "*.npz")
    except OutputBusyError:
        continue
    had += 1
    ledger.clear()
    (folder / "owner").write_text(name)
    for number in range(3):
        (folder / f"{number}.npz").write_text(name)
    assert (folder / "owner").read_text() == name
    assert {path.read_text() for path in folder.glob("*.npz")} == {name}
    ledger.close(None)
print(had)
"""


def test_processes_that_claim_and_delete_one_folder_never_meet_in_it(tmp_path: Path) -> None:
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACER, str(tmp_path / "folder"), str(number), "1500"],
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(3)
    ]
    for racer in racers:
        out, _ = racer.communicate()
        assert racer.returncode == 0
        assert int(out) > 0
    assert os.listdir(tmp_path) == []
