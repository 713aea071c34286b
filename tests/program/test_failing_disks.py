"""Disks that fail: read-only, full, or at any one write; nothing is lost, in one line."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import resource
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from mlpass.cli import main
from mlpass.program.blobs import BlobWriter
from tests.program.commands import MLPASS, one_line, prune
from tests.program.packages import (
    FIXTURES,
    copy_fixture,
    tree,
)


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    """A directory with a package in it that this process can read and not write."""
    # What the run imports late may be closed to the user below, so it is imported here.
    assert prune(FIXTURES / "digits_ios15.mlpackage", tmp_path / "warm-up.mlpackage") == 0
    directory = Path(tempfile.mkdtemp())
    package = copy_fixture("digits_ios15", directory)
    for path in package.rglob("*"):
        path.chmod(0o755)
    directory.chmod(0o555)
    root = os.geteuid() == 0
    if root:  # permissions do not bind root: become nobody
        os.seteuid(65534)
    try:
        yield directory
    finally:
        if root:
            os.seteuid(0)
        directory.chmod(0o755)
        shutil.rmtree(directory)


def test_a_read_only_directory(read_only: Path, capsys: pytest.CaptureFixture[str]) -> None:
    package, output = read_only / "digits_ios15.mlpackage", read_only / "out.mlpackage"
    capsys.readouterr()

    assert prune(package, output) == 1
    one_line(capsys, f"{output}: Permission denied")
    assert os.listdir(read_only) == [package.name]


def test_a_read_only_directory_keeps_the_old_package(
    read_only: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    package = read_only / "digits_ios15.mlpackage"
    before = tree(package)
    capsys.readouterr()

    assert prune(package, package, "--n-m-ratio", "2:4", "--force") == 1
    one_line(capsys, f"{package}: Permission denied")
    assert tree(package) == before
    assert os.listdir(read_only) == [package.name]


def test_a_directory_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    package, output = copy_fixture("digits_ios15", tmp_path), tmp_path / "none" / "out.mlpackage"

    assert prune(package, output) == 1
    one_line(capsys, f"{output}: No such file or directory")
    assert os.listdir(tmp_path) == [package.name]


@contextlib.contextmanager
def _small_disk(place: Path, nbytes: int) -> Iterator[None]:
    """Mounts a file system of `nbytes` at `place`."""
    command = ["mount", "-t", "tmpfs", "-o", f"size={nbytes}", "tmpfs", str(place)]
    try:
        mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("no file system can be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", str(place)], check=True)


@pytest.mark.parametrize("nbytes", [4096, 1 << 16, 1 << 18, 1 << 19])
def test_a_full_disk(nbytes: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Full while the weights are written, while they are copied, or at the model message."""
    package, disk = copy_fixture("digits_ios15", tmp_path), tmp_path / "disk"
    disk.mkdir()
    before = tree(package)
    with _small_disk(disk, nbytes):
        output = disk / "out.mlpackage"
        assert prune(package, output, "--n-m-ratio", "1:16", "--weight-threshold", "1000") == 1
        one_line(capsys, f"{output}: No space left on device")
        assert os.listdir(disk) == []
    assert tree(package) == before


def test_a_full_disk_keeps_the_old_package(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    package, disk = copy_fixture("digits_ios15", tmp_path), tmp_path / "disk"
    disk.mkdir()
    with _small_disk(disk, 1 << 18):
        output = disk / "out.mlpackage"
        output.mkdir()
        (output / "old").write_text("old")
        before = tree(disk)
        assert prune(package, output, "--target-sparsity", "0.1", "--force") == 1
        one_line(capsys, f"{output}: No space left on device")
        assert tree(disk) == before


def test_a_disk_that_is_full_while_a_finished_layer_is_noted_names_the_output(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    package, disk = FIXTURES / "digits_classifier.mlpackage", tmp_path / "disk"
    disk.mkdir()
    with np.load(FIXTURES / "digits_classifier.npz") as arrays:
        inputs = {key[6:]: arrays[key][None] for key in arrays.files if key.startswith("input:")}
    np.savez(tmp_path / "samples.npz", **inputs)
    with _small_disk(disk, 40960):
        output = disk / "out.mlpackage"
        given = "--target-sparsity", "0.5", "--sample-data", str(tmp_path / "samples.npz")
        assert prune(package, output, *given) == 1
        assert f"error: {output}: No space left on device" in capsys.readouterr().err


def test_a_limit_on_the_size_of_files(tmp_path: Path) -> None:
    package, output = copy_fixture("digits_ios15", tmp_path), tmp_path / "out.mlpackage"
    before = tree(package)
    ended = subprocess.run(
        [*MLPASS, "prune", package, "-o", output, "--threshold", "0.001"],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 17, 1 << 17)),
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )

    assert ended.returncode == 1
    assert ended.stderr == f"mlpass: error: {output}: File too large\n"
    assert tree(package) == before
    assert os.listdir(tmp_path) == [package.name]


def test_a_failing_write_at_any_point(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The n-th write to a weight file fails, for every n of the run."""
    package, output = copy_fixture("branches", tmp_path), tmp_path / "out.mlpackage"
    before = tree(tmp_path)
    write = BlobWriter._write
    left = 0

    def fail_in_time(self: BlobWriter, data: bytes | memoryview) -> None:
        nonlocal left
        if left == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        left -= 1
        write(self, data)

    monkeypatch.setattr(BlobWriter, "_write", fail_in_time)
    for n in range(1000):
        left = n
        if prune(package, output) == 0:
            break
        one_line(capsys, f"{output}: No space left on device")
        assert tree(tmp_path) == before
    assert n > 10
    assert json.loads((output / "Manifest.json").read_text())


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="the system has no /proc/self/mem")
def test_a_file_whose_reading_fails_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Python's own error of a read has no name; reading this file fails at its first byte."""
    model, broken = FIXTURES / "tiny_lm.mlpackage", "/proc/self/mem"
    package = copy_fixture("tiny_lm", tmp_path)
    (package / "Manifest.json").unlink()
    (package / "Manifest.json").symlink_to(broken)
    for named, given in (
        (broken, ["compare", str(model), str(model), "--sample-data", broken]),
        (broken, ["prune", str(model), "-o", str(tmp_path / "out"), "--config", broken]),
        (package / "Manifest.json", ["inspect", str(package)]),
    ):
        capsys.readouterr()
        assert main(given) == 1
        one_line(capsys, f"{named}: Input/output error")
