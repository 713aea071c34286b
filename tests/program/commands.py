"""The command line, in this process and in one of its own."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from mlpass import cli

MLPASS = (sys.executable, "-m", "mlpass")


def prune(package: Path, output: Path, *options: str) -> int:
    """Runs `mlpass prune` in this process and returns its exit status."""
    options = options or ("--target-sparsity", "0.5")
    return cli.main(["prune", str(package), "-o", str(output), *options])


def one_line(capsys: pytest.CaptureFixture[str], message: str) -> None:
    """Asserts that all that was printed is one line of error that holds `message`."""
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("mlpass: error: ")
    assert message in err
    assert err.endswith("\n")
    assert err.count("\n") == 1
