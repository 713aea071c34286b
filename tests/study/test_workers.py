"""Worker processes: what happens where they cannot begin, or die."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

from mlpass import ExecutionError
from mlpass.study.workers import open_executor, run_all

SCRIPT = """
import mlpass
model = {model!r}
mlpass.sweep(model, None, [mlpass.NM(n, 8) for n in range(1, 6)])
"""


def test_a_script_without_a_guard_is_told_so(model, tmp_path):
    path = tmp_path / "script.py"
    path.write_text(SCRIPT.format(model=model))
    environment = {**os.environ, "MLPASS_THREADS": "2"}
    environment["PYTHONPATH"] = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, str(path)], capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert "a worker process died" in last
    assert "put the call under `if __name__ == '__main__':`" in last
    assert "this process is a worker that has just begun" in done.stderr


def test_a_worker_that_dies_is_an_error():
    with (
        ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as executor,
        pytest.raises(ExecutionError, match="a worker process died"),
    ):
        list(run_all(executor, [(os._exit, (1,))]))


def test_few_jobs_run_here(monkeypatch):
    monkeypatch.setenv("MLPASS_THREADS", "4")
    with open_executor(None, 3, None) as executor:
        assert executor is None
    with open_executor(None, 9, None) as executor:
        assert isinstance(executor, ProcessPoolExecutor)
    monkeypatch.setenv("MLPASS_THREADS", "1")
    with open_executor(None, 9, None) as executor:
        assert executor is None
        assert list(run_all(executor, [(int, ("7",)), (abs, (-2,))])) == [(0, 7), (1, 2)]


def test_other_errors_of_a_job_are_its_own():
    with (
        ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as executor,
        pytest.raises(AttributeError, match="nothing"),
    ):
        list(run_all(executor, [(getattr, (3, "nothing"))]))
