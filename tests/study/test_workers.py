"""Worker processes: what happens where they cannot begin, or die."""

from __future__ import annotations

import multiprocessing
import multiprocessing.synchronize
import os
import signal
import subprocess
import sys
import tempfile
import time
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


@pytest.mark.parametrize("error", [FileNotFoundError(), OSError("no such call"), ImportError()])
def test_where_there_can_be_no_processes_jobs_run_here(error, monkeypatch):
    """Without /dev/shm there are no locks for them."""

    def refuse(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setenv("MLPASS_THREADS", "4")
    monkeypatch.setattr(multiprocessing.synchronize.SemLock, "__init__", refuse)
    with open_executor(None, 9, None) as executor:
        assert list(run_all(executor, [(int, ("7",))])) == [(0, 7)]


def test_other_errors_of_a_job_are_its_own():
    with (
        ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as executor,
        pytest.raises(AttributeError, match="nothing"),
    ):
        list(run_all(executor, [(getattr, (3, "nothing"))]))


def asleep(path: str) -> str:
    """Says where it is, and then does not end."""
    Path(path, str(os.getpid())).write_text(tempfile.mkdtemp())
    time.sleep(600)
    return path


def alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def gone(processes: list[int]) -> bool:
    """Waits until there are no such processes."""
    deadline = time.monotonic() + 60
    while any(map(alive, processes)) and time.monotonic() < deadline:
        time.sleep(0.01)
    return not any(map(alive, processes))


def test_workers_end_with_an_exception_whatever_they_do(tmp_path, monkeypatch):
    monkeypatch.setenv("MLPASS_THREADS", "2")
    marks, folder = tmp_path / "marks", tmp_path / "folder"
    marks.mkdir(), folder.mkdir()
    with (  # noqa: PT012
        pytest.raises(KeyboardInterrupt),
        open_executor(None, 9, None, folder=folder) as executor,
    ):
        for _ in range(9):
            executor.submit(asleep, str(marks))
        while len(list(marks.iterdir())) < 2:
            time.sleep(0.01)
        for mark in marks.iterdir():
            os.kill(int(mark.name), signal.SIGINT)  # as a terminal sends to all
        time.sleep(0.1)
        assert all(alive(int(mark.name)) for mark in marks.iterdir())
        raise KeyboardInterrupt
    assert len(list(marks.iterdir())) == 2  # nothing else has begun
    assert gone([int(mark.name) for mark in marks.iterdir()])
    for mark in marks.iterdir():  # what they made goes with the folder
        deadline = time.monotonic() + 60
        while not mark.read_text() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert Path(mark.read_text()).parent == folder


ORPHANS = """
import sys
from pathlib import Path
from mlpass.study.workers import open_executor
from tests.study.test_workers import asleep
with open_executor(None, 9, None) as executor:
    for _ in range(2):
        executor.submit(asleep, sys.argv[1])
    sys.stdin.readline()
"""


def test_workers_end_with_who_started_them(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", ORPHANS, str(tmp_path)],
        stdin=subprocess.PIPE,
        env={**os.environ, "MLPASS_THREADS": "2", "TMPDIR": str(tmp_path)},
        cwd=Path(__file__).parents[2],
    )
    while len(list(tmp_path.glob("[0-9]*"))) < 2:
        time.sleep(0.01)
    workers = [int(mark.name) for mark in tmp_path.glob("[0-9]*")]
    process.kill()
    process.communicate()
    assert gone(workers)
