"""Measures that a user might have, importable by worker processes."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import mlpass

CALLS = "MLPASS_TEST_CALLS"  # a file that gets a line a call
LIMIT = "MLPASS_TEST_LIMIT"  # how many of them the process outlives


def share_of_nonzeros(path: str) -> float:
    """Something that a model's package alone tells."""
    return 1 - mlpass.inspect(path).sparsity


def deadly(path: str) -> float:
    """Ends the process, as a crash would, once it was called often enough."""
    calls = Path(os.environ[CALLS])
    with calls.open("a") as file:
        file.write(f"{path}\n")
    if len(calls.read_text().splitlines()) > int(os.environ[LIMIT]):
        os.kill(os.getpid(), signal.SIGKILL)
    return share_of_nonzeros(path)


not_a_function = 3
