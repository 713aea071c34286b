"""What a killed run left goes with the next; what is promised to be done is done at the exit."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from mlpass import files, leftovers
from mlpass.leftovers import locked_if_dead, make_locked, surely
from tests.targets import WHOLE, Whole, fill, folder, old_system, text

# Holds a file or a folder that is being made, until it is killed.
MAKER = """
import sys
from pathlib import Path
import tempfile
from mlpass.files import temporary_folder, whole_file, whole_folder
kind, target = sys.argv[1:]
tempfile.tempdir = target
with {
    "file": lambda: whole_file(Path(target), force=True),
    "folder": lambda: whole_folder(Path(target), force=True),
    "temporary": temporary_folder,
}[kind]() as building:
    (building / "file" if building.is_dir() else building).write_text("half")
    print("making", flush=True)
    sys.stdin.readline()
"""


def maker(kind: str, target: Path) -> subprocess.Popen[str]:
    """Returns a process that is making something for a target."""
    process = subprocess.Popen(
        [sys.executable, "-c", MAKER, kind, str(target)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "making\n"
    return process


def kill(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_the_next_run_removes_what_a_killed_one_left_and_no_other(
    kind: str, tmp_path: Path
) -> None:
    target = fill(tmp_path / "out.x", "old")
    others = [folder(tmp_path / name, "theirs") for name in (".out.x.partial", ".out.x.1.partial")]
    others.append(fill(tmp_path / ".out.y.0123456789ab.partial", "theirs"))
    living, dead = maker(kind, target), maker(kind, target)
    kill(dead)
    partials = set(tmp_path.glob(".out.x.????????????.partial"))
    assert len(partials) == 2
    with pytest.raises(FileExistsError):  # refused, and tidied up all the same
        files.check_free(target, force=False)
    (left,) = partials & set(tmp_path.iterdir())
    assert text(left) == "half"
    assert text(target) == "old"
    kill(living)
    whole = files.whole_file if kind == "file" else files.whole_folder
    with whole(target, force=True) as building:
        fill(building, "new")
    assert text(target) == "new"
    assert sorted(tmp_path.iterdir()) == sorted([target, *others])


def test_a_temporary_folder_of_a_killed_run_goes_with_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    others = [folder(tmp_path / name, "theirs") for name in ("mlpass-mine", "mlpass-0123456789abc")]
    others.append(fill(tmp_path / "0123456789ab", "theirs"))
    living, dead = maker("temporary", tmp_path), maker("temporary", tmp_path)
    kill(dead)
    assert len(os.listdir(tmp_path)) == 5
    with files.temporary_folder() as ours:
        (kept,) = set(tmp_path.iterdir()) - {ours, *others}
        assert text(kept) == "half"
        with files.temporary_folder() as nested:
            assert ours.exists()
            assert nested != ours
        kill(living)
    with files.temporary_folder():
        assert not kept.exists()
    assert sorted(tmp_path.iterdir()) == sorted(others)


def test_a_target_of_the_longest_name_is_found_too(tmp_path: Path) -> None:
    target = tmp_path / ("n" * 251 + ".npz")
    kill(maker("file", target))
    assert len(os.listdir(tmp_path)) == 1
    files.check_free(target, force=False)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("whole", [files.whole_folder])
def test_what_a_killed_run_had_put_aside_goes_back(whole: Whole, tmp_path: Path) -> None:
    """A file system that cannot swap: killed between the two steps, or after them."""
    target = tmp_path / "out"
    folder(tmp_path / ".out.0123456789ab.old", "old")
    with pytest.raises(FileExistsError):
        files.check_free(target, force=False)
    assert text(target) == "old"
    folder(tmp_path / ".out.0123456789ab.old", "older")
    with whole(target, force=True) as building:
        fill(building, "new")
    assert text(target) == "new"
    assert os.listdir(tmp_path) == ["out"]


@pytest.mark.parametrize("step", [1, 2, 3])
def test_an_interrupt_between_any_two_steps_leaves_one_whole(
    step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old_system(errno.EINVAL, monkeypatch)
    target, rename, calls = folder(tmp_path / "out", "old"), Path.rename, []

    def interrupted(self: Path, to: Path) -> Path:
        calls.append(to)
        made = rename(self, to)
        if len(calls) == step:
            raise KeyboardInterrupt
        return made

    monkeypatch.setattr(Path, "rename", interrupted)
    with (
        pytest.raises(KeyboardInterrupt),
        files.whole_folder(target, force=True) as building,
    ):
        fill(building, "new")
    assert text(target) == ("old" if step == 1 else "new")
    assert os.listdir(tmp_path) == ["out"]


def test_what_cannot_go_back_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    aside = folder(tmp_path / ".out.0123456789ab.old", "old")

    def refuse(*_: object) -> None:
        raise OSError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(files, "rename_new", refuse)
    files.check_free(tmp_path / "out", force=False)
    assert text(aside) == "old"


@WHOLE
def test_where_there_are_no_locks_nobody_is_taken_for_dead(
    whole: Whole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    target = tmp_path / "out"
    with whole(target, force=False) as building:
        fill(building, "ours")
        with whole(target, force=False) as other:
            fill(other, "theirs")
        assert building.exists()
        files.discard(target)
    assert text(target) == "ours"
    assert os.listdir(tmp_path) == ["out"]


def test_what_is_taken_before_it_is_locked_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, flock, made = tmp_path / "new", fcntl.flock, []

    def make(path: Path) -> None:
        path.mkdir()
        made.append(path)
        if len(made) == 1:
            path.rmdir()

    def late(descriptor: int, how: int) -> None:
        if len(made) == 2:
            path.rmdir()
        flock(descriptor, how)

    monkeypatch.setattr(leftovers.fcntl, "flock", late)
    descriptor = make_locked(path, make)
    assert len(made) == 3
    monkeypatch.undo()
    with locked_if_dead(path) as dead:
        assert not dead
    os.close(descriptor)
    with locked_if_dead(path) as dead:
        assert dead
        with locked_if_dead(path) as mine_too:
            assert not mine_too


def test_a_link_is_nobodys(tmp_path: Path) -> None:
    link = tmp_path / ".out.0123456789ab.partial"
    link.symlink_to(folder(tmp_path / "elsewhere", "theirs"))
    files.check_free(tmp_path / "out", force=False)
    assert sorted(os.listdir(tmp_path)) == [link.name, "elsewhere"]


def test_what_is_cut_short_is_done_once_more() -> None:
    calls: list[int] = []

    def work() -> None:
        calls.append(len(calls))
        if len(calls) == 1:
            raise KeyboardInterrupt

    end = surely(work)
    with pytest.raises(KeyboardInterrupt):
        end()
    end()
    end()
    assert calls == [0, 1]


EXITING = """
import os, sys
from pathlib import Path
from mlpass import files, leftovers
from mlpass.leftovers import surely
def remove(path):
    raise KeyboardInterrupt
os.chdir(sys.argv[1])
def fail():
    raise PermissionError
surely(fail)
kept = surely(lambda: print("done", os.getpid() == process, flush=True))
process = os.getpid()
leftovers._remove, real = remove, leftovers._remove
child = os.fork()
if child == 0:
    kept()
    sys.exit()
os.waitpid(child, 0)
try:
    with files.whole_folder(Path("out"), force=False):
        with files.temporary_folder():
            raise ValueError
except KeyboardInterrupt:
    assert len(os.listdir()) == 2, os.listdir()
leftovers._remove = real
"""


def test_at_the_exit_all_is_done_that_was_not_and_by_its_own_process_alone(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", EXITING, str(tmp_path)],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "done True\n"
    assert os.listdir(tmp_path) == []
