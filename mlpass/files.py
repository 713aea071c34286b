"""A whole file or folder, or none: made beside its target, and renamed once it is done.

Without `force` the rename replaces nothing, so that what came into being meanwhile is kept. With it
the old one is whole until that moment. What a killed run left beside a target goes with the next.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import count, islice
from pathlib import Path

from mlpass.errors import MlpassError, ModelFormatError, OutputExistsError, add_note
from mlpass.leftovers import discard, locked_if_dead, make_locked, surely
from mlpass.renaming import rename_new, replace_folder

_LONGEST_NAME = 255  # bytes
_MOST_FOLDERS = 64  # of a package that are looked at
_TEMPORARY = re.compile(r"mlpass-[0-9a-f]{12}")


@contextlib.contextmanager
def whole_file(target: Path, *, force: bool, keep: bool = False) -> Iterator[Path]:
    """Yields the path of an empty file to fill, put at `target` once the caller is done.

    Raises:
        OutputExistsError: something is there, then or at the end, and `force` is False.
        OSError: it cannot be written; or a folder is there.
    """
    check_file(target, force=force or keep)
    with _made(target, _make_file) as building:
        yield building
        _place([(building, target)], "file", os.replace, force=force, keep=keep)


@contextlib.contextmanager
def whole_folders(
    targets: Sequence[Path], *, force: bool, keep: bool = False
) -> Iterator[list[Path]]:
    """Yields empty folders to fill, each of which is put at its target once the caller is done.

    Where one may not take its place, none does.

    Args:
        targets: of the folders.
        force: whether to replace what is there.
        keep: whether a folder that may not take its place is kept beside it, by another name, and
            the others take theirs; what is there already is then no reason not to begin.

    Raises:
        OutputExistsError: something is there, then or at the end, and `force` is False.
        OSError: one cannot be written.
    """
    for each in targets:
        check_free(each, force=force or keep)
    with contextlib.ExitStack() as made:
        built = [made.enter_context(_made(each, Path.mkdir)) for each in targets]
        yield built
        pairs = [*zip(built, targets, strict=True)]
        _place(pairs, "target", replace_folder, force=force, keep=keep)


@contextlib.contextmanager
def whole_folder(target: Path, *, force: bool, keep: bool = False) -> Iterator[Path]:
    """Yields an empty folder to fill, put at `target` once the caller is done: `whole_folders`."""
    with whole_folders([target], force=force, keep=keep) as (building,):
        yield building


@contextlib.contextmanager
def temporary_folder() -> Iterator[Path]:
    """Yields an empty folder for what is needed until the caller is done; it is gone then.

    What killed runs left of theirs is removed before.

    Raises:
        OSError: it cannot be made.
    """
    with naming_temporary():
        place = Path(tempfile.gettempdir())
    folder = place / f"mlpass-{uuid.uuid4().hex[:12]}"
    for dead in _dead(place, _TEMPORARY):
        discard(dead)
    end = surely(partial(discard, folder))
    try:
        with naming_temporary(folder):
            lock = make_locked(folder, partial(Path.mkdir, mode=0o700))
            try:
                yield folder
            finally:
                os.close(lock)
    finally:
        end()


@contextlib.contextmanager
def naming_temporary(folder: Path | None = None) -> Iterator[None]:
    """Makes the OSError of a temporary folder that is full, or not to be had, name the cure.

    Args:
        folder: what is written to, within that; where an error names nothing, it is meant, too.
    """
    try:
        yield
    except OSError as error:
        names = [Path(os.fsdecode(name)) for name in (error.filename,) if name is not None]
        ours = all(folder is not None and name.is_relative_to(folder) for name in names)
        if ours and error.errno in (errno.ENOSPC, errno.EDQUOT):
            error.filename, error.filename2 = tempfile.gettempdir(), None
            add_note(error, "set TMPDIR to a folder with more room")
        elif ours and not names and error.errno == errno.ENOENT:  # none was found
            add_note(error, "set TMPDIR to a folder that can be written to")
        raise


def check_file(target: Path, *, force: bool) -> None:
    """Raises what `whole_file` would, before the work is done."""
    check_free(target, force=force, what="file")
    if target.is_dir() and not target.is_symlink():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(target))


def check_free(target: Path, *, force: bool, what: str = "target") -> None:
    """Raises OutputExistsError where something is at `target`, and `force` is False.

    A device or a pipe is never replaced. What dead runs left beside it is removed before.

    Raises:
        IsADirectoryError: it has no name of its own, as "." and "/", so nothing can take its place.
    """
    if target.name in ("", os.pardir):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(target))
    remove_dead(target)
    there = os.path.lexists(target)
    if there and not (target.is_file() or target.is_dir() or target.is_symlink()):
        raise OutputExistsError(f"{target}: is a device, a pipe or a socket; name another {what}")
    if there and not force:
        raise OutputExistsError(
            f"{target}: already exists; pass force=True to replace it, or name another {what}"
        )


def check_regular(path: Path, error: type[MlpassError]) -> None:
    """Raises `error` where there is something else than a file: a folder, a pipe, a device.

    Raises:
        OSError: there is nothing, or nothing that can be looked at.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise error(f"{path}: is not a regular file")


def check_apart(target: Path, source: Path, what: str) -> None:
    """Checks that writing `target` neither changes nor removes the folder `source`.

    Folders are compared by what they are, so that links and spelling do not matter. `target` may be
    `source` itself: it takes its place as a whole.

    Raises:
        ModelFormatError: `target` is within `source`, or holds it.
    """
    place = Path(os.path.realpath(target.parent))  # a link at `target` is replaced, not followed
    within = [source]
    if (source / "Manifest.json").is_file():  # a package: its folders may be mounted elsewhere, too
        within = [Path(each) for each, _, _ in islice(os.walk(source), _MOST_FOLDERS)]
    if any(_is_folder(each, other) for each in (place, *place.parents) for other in within):
        raise ModelFormatError(f"{target}: is within {what}; name another target")
    parents = Path(os.path.realpath(source)).parents
    if not target.is_symlink() and any(_is_folder(target, each) for each in parents):
        raise ModelFormatError(f"{target}: holds {what}; name another target")


@contextlib.contextmanager
def naming(target: Path, hidden: Path | None = None) -> Iterator[None]:
    """Makes an OSError name `target` where it names nothing, or something at or below `hidden`."""
    try:
        yield
    except OSError as error:
        if error.errno is None:  # it has words of its own
            raise
        names = [name for name in (error.filename, error.filename2) if name is not None]
        paths = [Path(os.fsdecode(name)) for name in names]
        if not names or (hidden and any(path.is_relative_to(hidden) for path in paths)):
            error.filename, error.filename2 = str(target), None  # the name that the caller knows
        raise


def hidden_path(target: Path, ending: str) -> Path:
    """Returns the path beside `target` of a hidden file or folder, whose name has that ending."""
    room = _LONGEST_NAME - len(f"..{ending}")
    name = target.name
    if len(os.fsencode(name)) > room:
        name = os.fsencode(name)[:room].decode(errors="ignore")
    return target.with_name(f".{name}.{ending}")


def partial_path(target: Path) -> Path:
    """Returns a path beside a target that nothing has; `remove_dead` knows it."""
    return hidden_path(target, f"{uuid.uuid4().hex[:12]}.partial")


def remove_dead(target: Path) -> None:
    """Removes what is beside a target of runs that were killed; what they replaced goes back."""
    lead = partial_path(target).name[: -len("0123456789ab.partial")]
    pattern = re.compile(re.escape(lead) + r"[0-9a-f]{12}\.(partial|old)")
    for path in _dead(target.parent, pattern):
        if path.suffix == ".old" and not os.path.lexists(target):
            with contextlib.suppress(OSError):
                rename_new(path, target)
        else:
            discard(path)


def _dead(folder: Path, pattern: re.Pattern[str]) -> Iterator[Path]:
    """Yields what killed runs made in a folder; nobody else takes it meanwhile."""
    names = []
    with contextlib.suppress(OSError):  # then there is nothing, or it cannot be seen
        names = [name for name in os.listdir(folder) if pattern.fullmatch(name)]
    for name in names:
        with locked_if_dead(folder / name) as dead:
            if dead:
                yield folder / name


@contextlib.contextmanager
def _made(target: Path, make: Callable[[Path], object]) -> Iterator[Path]:
    """Yields what `make` made beside `target`, to fill; in the end what is left there goes."""
    building = partial_path(target)
    end = surely(partial(discard, building))
    try:
        with naming(target, building):
            lock = make_locked(building, make)
            try:
                yield building
            finally:
                os.close(lock)
    finally:
        end()


def _place(
    pairs: Sequence[tuple[Path, Path]],
    what: str,
    replace: Callable[[Path, Path], object],
    *,
    force: bool,
    keep: bool,
) -> None:
    """Puts what was built at its targets, all or none; with `keep` beside those that are taken.

    Args:
        pairs: what was built, and its target.
        what: it is, for the message.
        replace: puts one in the place of another, which, of folders, then has its own.
        force: whether to replace what is there.
        keep: see `whole_folders`.
    """
    placed, refused = list[tuple[Path, Path]](), list[str]()
    try:
        for building, target in pairs:
            try:
                while not _placed(building, target, replace if force else None):
                    if keep:
                        _keep_beside(building, target)
                    check_free(target, force=force, what=what)
            except OutputExistsError as error:
                if not keep:
                    raise
                refused.append(str(error))
            else:
                placed.append((building, target))
    except BaseException:
        for building, target in reversed(placed):
            back = replace if os.path.lexists(building) else rename_new
            back(target, building)
        raise
    if refused:
        raise OutputExistsError("; ".join(refused))


def _make_file(path: Path) -> None:
    path.touch(exist_ok=False)


def _keep_beside(building: Path, target: Path) -> None:
    """Renames `building` to the first free name like the target's, and raises with that."""
    room = _LONGEST_NAME - len(os.fsencode(f"-12345{target.suffix}"))
    stem = os.fsencode(target.stem)[:room].decode(errors="ignore")
    for number in count(1):
        beside = target.with_name(f"{stem}-{number}{target.suffix}")
        try:
            rename_new(building, beside)
        except FileExistsError:
            continue
        raise OutputExistsError(
            f"{target}: came into being meanwhile, and is kept; the result is {beside}, whole: "
            "rename it, or pass force=True to replace what is there"
        )


def _placed(building: Path, target: Path, replace: Callable[[Path, Path], object] | None) -> bool:
    """Returns whether `building` could be put at `target`: it depends on what is there just now."""
    try:
        rename_new(building, target)
    except FileExistsError:
        if replace is None:
            return False
    else:
        return True
    check_free(target, force=True)
    try:
        replace(building, target)
    except FileNotFoundError:
        if not os.path.lexists(building):
            raise
        return False  # the old one has gone meanwhile
    return True


def _is_folder(path: Path, folder: Path) -> bool:
    return os.path.isdir(path) and os.path.exists(folder) and os.path.samefile(path, folder)
