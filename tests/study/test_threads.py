"""Pruned and trained packages and reports have the same bytes on any threads, and in any."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.study.bytes_of_runs import METHODS

ROOT = Path(__file__).parents[2]


def run(threads: int, blas: int, where: str = "main") -> list[str]:
    """Returns the digests that another process, with these threads, prints."""
    environment = {
        **os.environ,
        "MLPASS_THREADS": str(threads),
        "OPENBLAS_NUM_THREADS": str(blas),
        "MKL_NUM_THREADS": str(blas),
        "OMP_NUM_THREADS": str(blas),
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
    }
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.study.bytes_of_runs", where],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.splitlines()


@pytest.mark.slow
def test_every_kind_of_run_gives_the_same_bytes():
    wanted = run(1, 1)
    assert len(set(wanted)) == len(METHODS) + 4 + 2
    for threads, blas in ((2, 2), (3, 3), (7, 7), (7, 1)):
        assert run(threads, blas) == wanted
    assert run(3, 2, "others") == 2 * wanted
