"""Bytes of packages corrupted by the thousand: each gives a valid package, or one line."""

from __future__ import annotations

import contextlib
import io
import os
import random
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import mlpass
from mlpass import cli
from mlpass.examine.inspect import inspect
from tests.program.packages import (
    FIXTURES,
    MODEL,
    copy_fixture,
    file_values,
    read_spec,
    time_limit,
    tree,
)

pytestmark = pytest.mark.slow

NAMES = ("digits_ios15", "branches", "multifunction_lm", "digits_pipeline")
CASES = 500  # for each
LIMIT = 10.0  # seconds
MODES = (
    "--target-sparsity 0.5",
    "--target-sparsity 0.75 --scope global",
    "--target-sparsity 0.5 --block-size 2",
    "--target-sparsity 0.5 --granularity per_channel",
    "--target-sparsity 0.5 --granularity per_kernel",
    "--n-m-ratio 2:4",
    "--n-m-ratio 1:4 --dim 0",
    "--threshold 0.01 --minimum-sparsity-percentile 0",
)
# Where the interpreter itself may look when it imports a module late, and --help for options.
LIBRARIES = tuple(
    os.path.realpath(path)
    for path in (sys.prefix, sys.base_prefix, os.path.dirname(mlpass.__file__))
)

Corrupt = Callable[[random.Random, bytearray, list[range]], None]


def flip(generator: random.Random, data: bytearray, targets: list[range]) -> None:
    """Changes one to eight bytes."""
    for _ in range(generator.randint(1, 8)):
        position = generator.choice(generator.choice(targets))
        data[position] ^= generator.randint(1, 255)


def truncate(generator: random.Random, data: bytearray, targets: list[range]) -> None:
    """Cuts the end off."""
    del data[generator.choice(generator.choice(targets)) :]


def duplicate(generator: random.Random, data: bytearray, targets: list[range]) -> None:
    """Inserts a copy of one range somewhere."""
    start = generator.choice(generator.choice(targets))
    piece = data[start : start + generator.randint(1, 256)]
    position = generator.choice(generator.choice(targets))
    data[position:position] = piece


CORRUPTIONS: tuple[tuple[Corrupt, int], ...] = ((flip, 8), (truncate, 1), (duplicate, 1))


class Guard:
    """Notes every path that is opened or changed outside of a directory, while it is entered."""

    def __init__(self) -> None:
        self.root: str | None = None
        self.outside: list[str] = []
        sys.addaudithook(self._audit)  # it stays for good, and does nothing while root is None

    @contextlib.contextmanager
    def watch(self, root: Path) -> Iterator[list[str]]:
        self.root, self.outside = os.path.realpath(root), []
        try:
            yield self.outside
        finally:
            self.root = None

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.root is None or not (event == "open" or event.startswith(("os.", "shutil."))):
            return
        for argument in arguments[:1] if event == "open" else arguments:
            if isinstance(argument, str | bytes | os.PathLike):
                path = os.path.realpath(os.fsdecode(argument))
                if not self._allowed(event, path):
                    self.outside.append(f"{event}: {path}")

    def _allowed(self, event: str, path: str) -> bool:
        code = event in ("os.listdir", "os.scandir") or path.endswith((".py", ".pyc", ".so"))
        return (code and path.startswith(LIBRARIES)) or f"{path}/".startswith(f"{self.root}/")


@pytest.fixture(scope="module")
def guard(tmp_path_factory: pytest.TempPathFactory) -> Guard:
    output = tmp_path_factory.mktemp("warm-up") / "out.mlpackage"
    source = FIXTURES / "branches.mlpackage"
    for _ in range(2):  # done, and refused: so that most is imported
        cli.main(["prune", str(source), "-o", str(output), *MODES[0].split()])
    return Guard()


def test_the_guard_notices_what_is_outside(guard: Guard, tmp_path: Path) -> None:
    (tmp_path / "within").mkdir()
    with guard.watch(tmp_path / "within") as outside:
        (tmp_path / "within" / "file").write_text("fine")
        (tmp_path / "within" / ".." / "file").write_text("out")
        os.close(os.open(tmp_path / "file", os.O_RDONLY))
        (tmp_path / "file").rename(tmp_path / "within" / "moved")

    assert outside == [
        f"open: {tmp_path / 'file'}",
        f"open: {tmp_path / 'file'}",
        f"os.rename: {tmp_path / 'file'}",
    ]


@pytest.fixture(autouse=True)
def _own_signals() -> Iterator[None]:
    """The command line takes SIGTERM over; give it back."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def _targets(package: Path) -> list[tuple[Path, list[range]]]:
    """Returns the files of a package with what is worth to corrupt in each: not the weights."""
    spec = read_spec(package)
    offsets: dict[str, set[int]] = {}
    for value in file_values(spec):
        name = value.blobFileValue.fileName.removeprefix("@model_path/")
        offsets.setdefault(name, set()).add(value.blobFileValue.offset)
    model, manifest = package / MODEL, package / "Manifest.json"
    whole = [(path, [range(path.stat().st_size)]) for path in (model, model, manifest)]
    return whole + [
        (model.parent / name, [range(64), *(range(start, start + 64) for start in sorted(found))])
        for name, found in offsets.items()
    ]


def prune_broken(package: Path, output: Path, mode: str, where: str, guard: Guard) -> int:
    """Prunes a package that may be broken, asserts that all is well, and returns the exit status.

    An output is removed again.
    """
    before = tree(package)
    command = ["prune", str(package), "-o", str(output), "--weight-threshold", "64", *mode.split()]
    stdout, stderr = io.StringIO(), io.StringIO()
    with (
        time_limit(LIMIT),
        contextlib.redirect_stdout(stdout),
        contextlib.redirect_stderr(stderr),
        guard.watch(package.parent) as outside,
    ):
        try:
            status = cli.main(command)
        except Exception as error:
            raise AssertionError(where) from error
    assert not outside, where
    assert tree(package) == before, where
    if status == 0:
        assert stderr.getvalue() == "", where
        with time_limit(LIMIT):
            inspect(output)
        shutil.rmtree(output)
    else:
        assert status == 1, where
        assert stderr.getvalue().startswith("mlpass: error: "), where
        assert stderr.getvalue().count("\n") == 1, where
    assert os.listdir(package.parent) == [package.name], where
    return status


@pytest.mark.parametrize("name", NAMES)
def test_corrupted_packages_end_in_a_result_or_one_line(
    name: str, tmp_path: Path, guard: Guard
) -> None:
    package, output = copy_fixture(name, tmp_path), tmp_path / "out.mlpackage"
    files = _targets(package)
    generator = random.Random(f"fuzz {name}")
    corruptions, odds = zip(*CORRUPTIONS, strict=True)
    refused = 0
    for case in range(CASES):
        path, targets = generator.choice(files)
        (corrupt,) = generator.choices(corruptions, odds)
        original = path.read_bytes()
        data = bytearray(original)
        corrupt(generator, data, targets)
        path.write_bytes(data)
        mode = MODES[case % len(MODES)]
        where = f"case {case}: {corrupt.__name__} in {path.name}, {mode}"

        refused += prune_broken(package, output, mode, where, guard)
        path.write_bytes(original)
    assert 0 < refused < CASES
