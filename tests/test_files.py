"""A finished file or folder takes the place of its target; without force, only a free one."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mlpass import files
from mlpass.errors import ModelFormatError, OutputExistsError
from tests.targets import WHOLE, Whole, fill, folder, old_system, text

OLD_SYSTEMS = pytest.mark.parametrize(
    "number", [None, errno.ENOSYS, errno.EINVAL, errno.ENOTSUP], ids=str
)


@WHOLE
@OLD_SYSTEMS
def test_a_free_place_is_taken(
    whole: Whole, number: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old_system(number, monkeypatch)
    target = tmp_path / "target"
    for force in (False, True):
        with whole(target, force=force) as building:
            assert building.parent == tmp_path
            assert building.name.startswith(".target.")
            assert building.suffix == ".partial"
            fill(building, f"new {force}")
            assert force == target.exists()
        assert text(target) == f"new {force}"
        assert os.listdir(tmp_path) == ["target"]


@WHOLE
@OLD_SYSTEMS
@pytest.mark.parametrize("late", ["file", "folder", "empty folder", "link", "dangling link"])
def test_what_came_meanwhile_is_kept(
    late: str, whole: Whole, number: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old_system(number, monkeypatch)
    target, elsewhere = tmp_path / "target", folder(tmp_path / "elsewhere", "theirs")
    with (  # noqa: PT012
        pytest.raises(
            OutputExistsError,
            match=r"target: already exists; pass force=True to replace it, or name another",
        ),
        whole(target, force=False) as building,
    ):
        fill(building, "ours")
        if late == "file":
            fill(target, "theirs")
        elif late == "folder":
            folder(target, "theirs")
        elif late == "empty folder":
            target.mkdir()
        else:
            target.symlink_to(elsewhere if late == "link" else tmp_path / "nowhere")
        inode = target.lstat().st_ino

    assert target.lstat().st_ino == inode
    if late in ("file", "folder", "link"):
        assert text(target) == "theirs"
    assert sorted(os.listdir(tmp_path)) == ["elsewhere", "target"]


@WHOLE
@OLD_SYSTEMS
def test_force_takes_the_place_of_what_came_meanwhile_and_is_not_put_off_by_what_went(
    whole: Whole, number: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old_system(number, monkeypatch)
    target = tmp_path / "target"
    with whole(target, force=True) as building:
        fill(building, "ours")
        folder(target, "theirs") if building.is_dir() else fill(target, "theirs")
    assert text(target) == "ours"

    placed, rename = [], files.rename_new

    def vanishing(building: Path, to: Path) -> None:
        placed.append(to)
        if len(placed) == 1:
            files.discard(to)
            raise FileExistsError(errno.EEXIST, "File exists", str(to))
        rename(building, to)

    monkeypatch.setattr(files, "rename_new", vanishing)
    with whole(target, force=True) as building:
        fill(building, "ours again")
    assert text(target) == "ours again"
    assert os.listdir(tmp_path) == ["target"]


def test_a_folder_filled_in_the_moment_it_holds_the_place_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old_system(errno.EINVAL, monkeypatch)
    target, mkdir = tmp_path / "target", Path.mkdir

    def filled(self: Path, *given: object, **named: object) -> None:
        mkdir(self)
        if self == target:
            fill(self, "theirs")

    monkeypatch.setattr(Path, "mkdir", filled)
    with (
        pytest.raises(OutputExistsError, match="target: already exists"),
        files.whole_folder(target, force=False) as building,
    ):
        fill(building, "ours")
    assert text(target) == "theirs"
    assert os.listdir(tmp_path) == ["target"]


def test_a_disk_without_second_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As FAT is: an empty file holds the place, which nobody has taken before."""
    old_system(errno.EINVAL, monkeypatch)

    def link(*_: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(files.os, "link", link)
    target = tmp_path / "target"
    with files.whole_file(target, force=False) as building:
        fill(building, "new")
    assert text(target) == "new"
    with (  # noqa: PT012
        pytest.raises(OutputExistsError, match="other: already exists"),
        files.whole_file(tmp_path / "other", force=False) as building,
    ):
        fill(building, "ours")
        fill(tmp_path / "other", "theirs")
    assert text(tmp_path / "other") == "theirs"
    assert sorted(os.listdir(tmp_path)) == ["other", "target"]


@WHOLE
def test_a_target_that_is_there_is_refused_at_once(whole: Whole, tmp_path: Path) -> None:
    target = fill(tmp_path / "target", "old")
    with pytest.raises(OutputExistsError, match="already exists; pass"), whole(target, force=False):
        pytest.fail("it was not refused")
    assert os.listdir(tmp_path) == ["target"]


@WHOLE
@pytest.mark.parametrize("name", ["", ".", "/", "..", "a/.."])
def test_a_target_without_a_name_of_its_own_is_refused(whole: Whole, name: str) -> None:
    with pytest.raises(IsADirectoryError) as caught, whole(Path(name), force=True):
        pytest.fail("it was not refused")
    assert caught.value.filename == str(Path(name))


@WHOLE
def test_a_pipe_is_not_replaced(whole: Whole, tmp_path: Path) -> None:
    target = tmp_path / "pipe"
    os.mkfifo(target)
    refused = pytest.raises(
        OutputExistsError, match="is a device, a pipe or a socket; name another"
    )
    with refused, whole(target, force=True):
        pytest.fail("it was not refused")
    assert target.is_fifo() and os.listdir(tmp_path) == ["pipe"]


def test_a_file_takes_no_folders_place(tmp_path: Path) -> None:
    target = folder(tmp_path / "target", "kept")
    with (
        pytest.raises(IsADirectoryError) as caught,
        files.whole_file(target, force=True),
    ):
        pytest.fail("it was not refused")
    assert caught.value.filename == str(target)
    (tmp_path / "link").symlink_to(target)  # which is replaced itself
    with files.whole_file(tmp_path / "link", force=True) as building:
        fill(building, "new")
    assert (tmp_path / "link").read_text() == "new"
    assert text(target) == "kept"

    with (  # noqa: PT012
        pytest.raises(IsADirectoryError) as caught,
        files.whole_file(tmp_path / "late", force=True) as building,
    ):
        fill(building, "new")
        folder(tmp_path / "late", "kept")
    assert (caught.value.filename, caught.value.filename2) == (str(tmp_path / "late"), None)
    assert text(tmp_path / "late") == "kept"


@WHOLE
def test_a_target_in_no_directory_is_named(whole: Whole, tmp_path: Path) -> None:
    target = tmp_path / "nowhere" / "out"
    with pytest.raises(FileNotFoundError) as caught, whole(target, force=False) as building:
        building.write_text("")
    assert caught.value.filename == str(target)


@WHOLE
def test_the_longest_name(whole: Whole, tmp_path: Path) -> None:
    for name in ("n" * 255, "n" + "\u00e9" * 127):
        with whole(tmp_path / name, force=False) as building:
            fill(building, "new")
        assert text(tmp_path / name) == "new"
    assert len(os.listdir(tmp_path)) == 2


def test_a_target_apart_from_a_folder(tmp_path: Path) -> None:
    source = tmp_path / "holder" / "source"
    (source / "deep").mkdir(parents=True)
    (tmp_path / "inside").symlink_to(source / "deep")
    (tmp_path / "holder" / "beside").symlink_to(source)
    for place in (
        source / "x",
        source / "deep" / "x",
        source / "deep" / "none" / "none" / "x",
        source / "deep" / ".." / "x",
        tmp_path / "inside" / "x",
        tmp_path / "inside" / ".." / "x",
        tmp_path / "holder" / ".." / "holder" / "source" / "x",
    ):
        with pytest.raises(ModelFormatError, match="x: is within it; name another target"):
            files.check_apart(place, source, "it")
    for place in (tmp_path, tmp_path / "holder"):
        with pytest.raises(ModelFormatError, match="holds it; name another target"):
            files.check_apart(place, source, "it")
    for place in (source, tmp_path / "holder" / "beside", tmp_path / "x", tmp_path / "none" / "x"):
        files.check_apart(place, source, "it")
    files.check_apart(tmp_path / "x", tmp_path / "none" / "nothing", "it")


def test_what_a_target_is_held_against_is_not_walked_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that is not one may be the root of all files, or have a loop of links."""
    for name in ("listdir", "scandir", "walk"):
        monkeypatch.delattr(files.os, name)
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(ModelFormatError, match="is within it"):
        files.check_apart(tmp_path / "x", Path("/"), "it")
    files.check_apart(tmp_path / "loop", tmp_path / "loop", "it")
    files.check_apart(tmp_path / "loop" / "x", tmp_path / "x", "it")


RACER = """
import sys
from pathlib import Path
from mlpass.errors import OutputExistsError
from mlpass.files import whole_file, whole_folder
kind, place, name, rounds = sys.argv[1:]
whole = {"file": whole_file, "folder": whole_folder}[kind]
for round in range(int(rounds)):
    try:
        with whole(Path(place, str(round)), force=False) as building:
            (building / "file" if building.is_dir() else building).write_text(name)
            print("ready", flush=True)
            sys.stdin.readline()
    except OutputExistsError:
        print("lost", flush=True)
    else:
        print("won", flush=True)
"""


ROUNDS = 40


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_of_two_processes_at_one_target_one_wins(kind: str, tmp_path: Path) -> None:
    """Both have seen that the place is free, then both are done in the same moment."""
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACER, kind, str(tmp_path), name, str(ROUNDS)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for name in ("one", "two")
    ]
    for number in range(ROUNDS):
        for racer in racers:
            assert racer.stdout is not None
            assert racer.stdout.readline() == "ready\n"
        for racer in racers:
            assert racer.stdin is not None
            racer.stdin.write("go\n")
            racer.stdin.flush()
        outcomes = {
            name: racer.stdout.readline().strip()  # type: ignore[union-attr]
            for name, racer in zip(("one", "two"), racers, strict=True)
        }
        assert sorted(outcomes.values()) == ["lost", "won"], number
        assert outcomes[text(tmp_path / str(number))] == "won"
    for racer in racers:
        racer.communicate()
        assert racer.returncode == 0
    assert sorted(os.listdir(tmp_path), key=int) == [str(number) for number in range(ROUNDS)]


@OLD_SYSTEMS
def test_a_result_whose_place_was_taken_is_kept_beside_it_where_that_is_asked_for(
    number: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old_system(number, monkeypatch)
    target = tmp_path / "out.mlpackage"
    folder(tmp_path / "out-1.mlpackage", "another's")
    for late in (False, True):
        if not late:
            folder(target, "theirs")
        with (  # noqa: PT012
            pytest.raises(
                OutputExistsError,
                match=rf"out\.mlpackage: came into being meanwhile, and is kept; the result is "
                rf"{tmp_path}/out-{2 + late}\.mlpackage, whole: rename it, or pass force=True",
            ),
            files.whole_folder(target, force=False, keep=True) as building,
        ):
            if late:
                files.discard(target)
                folder(target, "theirs")
            fill(building, f"ours {late}")
    assert text(target) == "theirs"
    assert text(tmp_path / "out-1.mlpackage") == "another's"
    assert text(tmp_path / "out-2.mlpackage") == "ours False"
    assert text(tmp_path / "out-3.mlpackage") == "ours True"
    with files.whole_folder(target, force=True, keep=True) as building:
        fill(building, "forced")
    assert text(target) == "forced"
    assert len(os.listdir(tmp_path)) == 4


def test_a_result_of_the_longest_name_is_kept_beside_it(tmp_path: Path) -> None:
    target = folder(tmp_path / ("\u00e9" * 122 + ".mlpackage"), "theirs")
    with (
        pytest.raises(OutputExistsError, match=r"é-1\.mlpackage, whole"),
        files.whole_folder(target, force=False, keep=True) as building,
    ):
        fill(building, "ours")
    (beside,) = (path for path in tmp_path.iterdir() if path != target)
    assert text(beside) == "ours"


def test_a_full_temporary_folder_is_named_with_the_cure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files.tempfile, "tempdir", str(tmp_path))
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with (  # noqa: PT012
        pytest.raises(OSError, match="No space left") as caught,
        files.whole_file(tmp_path / "out", force=False),
        files.temporary_folder() as temporary,
        files.naming_temporary(),
    ):
        assert temporary.parent == tmp_path
        raise full
    assert caught.value.filename == str(tmp_path)
    assert vars(caught.value)["__notes__"] == ["set TMPDIR to a folder with more room"]
    for number, name in ((errno.ENOSPC, "elsewhere"), (errno.EROFS, None)):
        with pytest.raises(OSError, match=r".") as other, files.temporary_folder():
            raise OSError(number, os.strerror(number), name)
        assert other.value.filename == name
        assert not vars(other.value)
    with pytest.raises(OSError, match="No space left") as inside, files.temporary_folder() as made:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(made / "file"))
    assert inside.value.filename == str(tmp_path)
    assert os.listdir(tmp_path) == []


def test_where_no_temporary_folder_can_be_had_the_cure_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(files.tempfile, "tempdir", None)
    monkeypatch.setattr(files.tempfile, "_candidate_tempdir_list", lambda: ["/nowhere"])
    for opened in (files.temporary_folder, files.tempfile.TemporaryFile):
        with (
            pytest.raises(OSError, match=r"in \['/nowhere'\]") as caught,
            files.naming_temporary(),
            opened(),
        ):
            pass
        notes = {"set TMPDIR to a folder that can be written to"}
        assert {*vars(caught.value)["__notes__"]} == notes
