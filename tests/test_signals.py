"""Ctrl-C and SIGTERM at any moment: one whole result or none, one line, and nothing is left."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from mlpass.cli import signals
from mlpass.cli.signals import ended_by_signals, signals_given_back
from mlpass.errors import ExecutionError, Terminated, add_note
from tests.conftest import FIXTURES
from tests.program.packages import tree
from tests.runtime.chains import chunks, talks

MODEL = FIXTURES / "tiny_lm.mlpackage"
MOMENTS = 10  # for each command, where there was nothing and where there was

# Imports once, then runs the command in a fork for each line, so that the signal falls into it.
SERVER = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
import mlpass.pruning.prune, mlpass.study.choose
if {"finetune", "choose", "--tune"} & {*sys.argv}:
    import mlpass.finetune
from mlpass import cli
print("ready", flush=True)
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        sys.argv[1:], err = line.split()[1:], line.split()[0]
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(os.open(err, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
        cli.run()
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Commands:
    """Runs one command line again and again, and sends it a signal where that is asked for."""

    def __init__(self, words: list[str], temporary: Path, err: Path) -> None:
        self._line, self._err = " ".join([str(err), *words]), err
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", SERVER, *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "TMPDIR": str(temporary), "MLPASS_THREADS": "2"},
        )
        assert self._read() == "ready\n"

    def __enter__(self) -> Commands:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def run(self, number: int | None = None, after: float = 0) -> tuple[int, str, float]:
        """Returns the status and the last words of a run, and how long it took."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{self._line}\n")
        self._process.stdin.flush()
        child, began = int(self._read()), time.monotonic()
        if number is not None:
            time.sleep(after)
            with contextlib.suppress(ProcessLookupError):  # it is done
                os.kill(child, number)
        return int(self._read()), self._err.read_text(), time.monotonic() - began

    def _read(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()


@pytest.fixture
def words(tmp_path: Path) -> Callable[[str, list[Path]], list[str]]:
    """Makes the command line of each kind of run."""
    with np.load(MODEL.with_suffix(".npz")) as truth:
        tokens = truth["input:tokens"]
    data = tmp_path / "samples.npz"
    np.savez(data, tokens=np.stack([tokens, np.roll(tokens, 17, axis=1)]))
    grid = tmp_path / "grid.yaml"
    grid.write_text("".join(f"- target_sparsity: 0.{number}\n" for number in (3, 4, 5, 6, 7)))
    half, samples = ["--target-sparsity", "0.5"], ["--sample-data", str(data)]
    tuning = ["--tune", "--tune-epochs", "1", "--tune-batch-size", "1"]
    lines = {
        "prune": ["prune", MODEL, *half, *samples],
        "sweep": ["sweep", MODEL, "--configs", grid, "--jobs", "2", *samples],
        "choose": ["choose", MODEL, "--max-size", "0.7x", "--up-to", "sparsegpt", *samples],
        "finetune": ["finetune", MODEL, *half, "--steps", "4", "--batch-size", "2", *samples],
        "tuned": ["prune", MODEL, *half, *samples, *tuning, "--method", "magnitude"],
        "pte": ["prune", FIXTURES / "executorch/delegates.pte", *half, "--weight-threshold", "9"],
    }

    def make(command: str, outputs: list[Path]) -> list[str]:
        if command == "row":
            lines[command] = ["prune", *chunks(tmp_path / "chunks"), *half, *_row(tmp_path)]
        given = [word for output in outputs for word in ("-o", output)]
        return [str(word) for word in (*lines[command], *given, "--force")]

    return make


def _row(folder: Path) -> list[str]:
    """Writes samples for packages in a row, and returns the options for it."""
    for number, talk in enumerate(talks(3, 2)):
        for step, inputs in enumerate(talk):
            path = folder / "talks" / str(number) / f"{step}.npz"
            path.parent.mkdir(parents=True, exist_ok=True)
            np.savez(path, **inputs)
    return ["--sample-data", str(folder / "talks"), "--weight-threshold", "9"]


def content(path: Path) -> object:
    return tree(path) if path.is_dir() else path.read_bytes()


OUTPUTS = {
    "sweep": ["out.json"],
    "pte": ["out.pte"],
    "row": ["a.mlpackage", "b.mlpackage", "c.mlpackage"],
}


@pytest.mark.slow
@pytest.mark.parametrize("old", [False, True], ids=["new", "over an old one"])
@pytest.mark.parametrize("command", ["prune", "sweep", "choose", "finetune", "tuned", "pte", "row"])
def test_a_signal_at_any_moment(command, old, words, tmp_path):
    temporary, place = tmp_path / "temporary", tmp_path / "place"
    temporary.mkdir(), place.mkdir()
    outputs = [place / name for name in OUTPUTS.get(command, ["out.mlpackage"])]
    generator, outcomes = random.Random(f"{command} {old}"), Counter()
    with Commands(words(command, outputs), temporary, tmp_path / "err") as commands:
        status, err, duration = commands.run()
        assert (status, err) == (0, "")
        whole = [content(out) for out in outputs]
        for moment in range(MOMENTS):
            for out in outputs:
                shutil.rmtree(out) if out.is_dir() else out.unlink(missing_ok=True)
                if old:
                    out.write_text("old")
            number = (signal.SIGINT, signal.SIGTERM)[moment % 2]
            status, err, _ = commands.run(number, generator.uniform(0, duration))

            assert status in (0, 130 if number == signal.SIGINT else 143, -number), err
            if status == 0:  # it was done already
                assert err == ""
            elif status > 0:
                word = "interrupted" if number == signal.SIGINT else "terminated"
                assert err.startswith(f"mlpass: error: {word}") and err.count("\n") == 1
            else:  # it had not begun
                assert err == ""
            outcomes["ended" if status > 0 else "done" if status == 0 else "not begun"] += 1
            kept = list(place.glob(".*"))
            assert [f"what was finished is kept in {path}:" in err for path in kept] == [
                True for path in kept
            ]
            assert kept != [] or "what was finished is kept in" not in err
            for path in kept:
                shutil.rmtree(path)
            found = sorted(place.iterdir())
            assert set(found) <= set(outputs)
            assert found == outputs or (status != 0 and not old)
            for out, made in zip(outputs, whole, strict=True):
                if out.exists() and command != "sweep":  # whose report has times in it
                    assert content(out) == made or (status != 0 and content(out) == b"old")
            left = [path for path in temporary.iterdir() if "torchinductor" not in path.name]
            assert left == []  # torch makes an empty folder for its own cache
    assert outcomes["ended"] >= MOMENTS // 4, outcomes


STUCK = """
import signal, sys, threading
from concurrent.futures import ThreadPoolExecutor
from mlpass import cli

cli.signals._GRACE = 0.1
held = threading.Lock()
held.acquire()
ThreadPoolExecutor().submit(held.acquire)
number = signal.Signals[sys.argv.pop()]
cli.print_text = lambda *_: signal.raise_signal(number)
cli.run()
"""


@pytest.mark.parametrize(("name", "status"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_a_thread_that_waits_for_ever_holds_nothing_up(name, status):
    done = subprocess.run(
        [sys.executable, "-c", STUCK, "inspect", str(MODEL), name],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == status, done.stderr
    assert done.stderr.count("\n") == 1


@pytest.fixture
def _own_signals() -> Iterator[None]:
    with signals_given_back():
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # nohup passes them over
            signal.signal(number, signal.default_int_handler)
        yield


@pytest.mark.usefixtures("_own_signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_what_a_signal_raises_is_raised_again_where_it_was_swallowed(number, monkeypatch):
    monkeypatch.setattr(signals, "_SECONDS", 0.05)
    kind = KeyboardInterrupt if number == signal.SIGINT else Terminated
    swallowed = []
    with pytest.raises(kind) as ended, ended_by_signals():  # noqa: PT012
        try:
            os.kill(os.getpid(), number)
            time.sleep(30)
        except kind as error:  # as a module does that takes any exception for a missing extra
            swallowed.append(error)
        time.sleep(30)
    assert len(swallowed) == 1
    assert kind is KeyboardInterrupt or ended.value.code == 128 + number
    os.kill(os.getpid(), number)  # passed over by now


@pytest.mark.usefixtures("_own_signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_what_a_signal_raises_is_found_within_what_was_made_from_it(number):
    """As Python makes a RuntimeError while a class is made, and a net of ours one of that."""
    kind = KeyboardInterrupt if number == signal.SIGINT else Terminated
    with pytest.raises(kind) as ended, ended_by_signals():  # noqa: PT012
        try:
            try:
                os.kill(os.getpid(), number)
                time.sleep(30)
            except kind as error:
                raise RuntimeError("Error calling __set_name__") from error
        except RuntimeError as error:
            wrapped = ExecutionError("an op")
            add_note(wrapped, "what was finished is kept")
            raise wrapped from error
    assert ended.value.__notes__ == ["what was finished is kept"]


@pytest.mark.usefixtures("_own_signals")
def test_an_error_of_another_cause_is_that_error():
    error = ExecutionError("an op")
    with pytest.raises(ExecutionError) as ended, ended_by_signals():
        raise error from ValueError("a value")
    assert ended.value is error


@pytest.mark.usefixtures("_own_signals")
def test_what_is_lost_in_a_finalizer_is_not_shown(monkeypatch, capsys):
    monkeypatch.setattr(signals, "_SECONDS", 0.05)

    class Last:
        def __del__(self):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(30)

    class Other:
        def __del__(self):
            raise ValueError("another's")

    shown = []
    monkeypatch.setattr(sys, "unraisablehook", lambda one: shown.append(one.exc_type))
    with pytest.raises(KeyboardInterrupt), ended_by_signals():  # noqa: PT012
        Other()
        Last()
        time.sleep(30)
    assert shown == [ValueError]


@pytest.mark.usefixtures("_own_signals")
def test_what_is_passed_over_already_stays_so_and_handlers_come_back():
    def mine(*_):
        raise AssertionError

    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as `nohup` does
    signal.signal(signal.SIGTERM, mine)
    with signals_given_back(), ended_by_signals():
        os.kill(os.getpid(), signal.SIGHUP)
        assert signal.getsignal(signal.SIGTERM) is not mine
    assert signal.getsignal(signal.SIGTERM) is mine
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


@pytest.mark.slow_but_every(4)
@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_do_not_matter(closed, tmp_path):
    alone, out = tmp_path / "alone.mlpackage", tmp_path / "out.mlpackage"
    for path, how in ((alone, ""), (out, closed)):
        prune = f"prune {MODEL} -o {path} --target-sparsity 0.5"
        done = subprocess.run(
            f"{sys.executable} -W ignore -m mlpass {prune} {how}",
            shell=True,
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")
    assert tree(out) == tree(alone)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
def test_a_full_standard_output_is_named(tmp_path):
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-m", "mlpass", "inspect", str(MODEL)],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr == "mlpass: error: standard output: No space left on device\n"
