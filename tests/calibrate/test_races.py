"""Two processes at one output, and what is left of one that dies: one whole result or none."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import mlpass
from mlpass import OutputBusyError, OutputExistsError, Percentile
from mlpass.calibrate import layers
from mlpass.errors import CalibrationError
from mlpass.ledger import journal_path
from tests.calibrate.layers import samples
from tests.program.packages import FIXTURES, tree

MLPASS = [sys.executable, "-W", "ignore", "-m", "mlpass"]
# Runs `mlpass`, and waits for a line each time before it solves for a layer or tries a config.
SLOW = """
import sys
from mlpass import cli
from mlpass.calibrate import layers
from mlpass.study import sweep
def waiting(function):
    def wait(*given, **options):
        print("waiting", file=sys.stderr, flush=True)
        sys.stdin.readline()
        return function(*given, **options)
    return wait
layers.solve = waiting(layers.solve)
sweep.run_trial = waiting(sweep.run_trial)
sys.exit(cli.main(sys.argv[1:]))
"""


class Slow:
    """A command in a process of its own that goes on step by step."""

    def __init__(self, words: list[str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", SLOW, *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "MLPASS_THREADS": "1"},
        )

    def wait(self) -> None:
        """Waits until it waits."""
        assert self.process.stderr is not None
        line = self.process.stderr.readline()
        assert line == "waiting\n", line + self.process.stderr.read()

    def step(self) -> None:
        """Lets it go on, and waits until it waits again."""
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        self.wait()

    def finish(self, number: int | None = None) -> tuple[int, str]:
        """Lets it go on to its end, or ends it; returns its status and its last words."""
        if number is not None:
            self.process.send_signal(number)
        _, err = self.process.communicate("go\n" * 99 if number is None else "")
        return self.process.returncode, err.replace("waiting\n", "")


@pytest.fixture
def stacked(tmp_path: Path) -> Path:
    path = tmp_path / "samples.npz"
    np.savez(path, x=np.stack([sample["x"] for sample in samples(8)]))
    return path


@pytest.fixture
def words(mlp: Path, stacked: Path, tmp_path: Path) -> Callable[..., list[str]]:
    """Makes the command line of a calibrated run or of a sweep."""
    (tmp_path / "grid.yaml").write_text("".join(f"- target_sparsity: 0.{n}\n" for n in (5, 6, 7)))

    def make(command: str, output: Path, *more: str, sparsity: float = 0.5) -> list[str]:
        how = ["--target-sparsity", str(sparsity)]
        if command == "sweep":
            how = ["--configs", str(tmp_path / "grid.yaml"), "--jobs", "1"]
        data = ["--sample-data", str(stacked)]
        return [command, str(mlp), "-o", str(output), *data, *how, *more]

    return make


def run(words: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*MLPASS, *words], capture_output=True, text=True, check=False)


def hidden(tmp_path: Path) -> list[str]:
    return sorted(name for name in os.listdir(tmp_path) if name.startswith("."))


def test_a_second_calibrated_run_at_one_output_is_refused(words, mlp, stacked, tmp_path):
    out, alone = tmp_path / "out.mlpackage", tmp_path / "alone.mlpackage"
    assert run(words("prune", alone)).returncode == 0
    first = Slow(words("prune", out))
    first.wait()
    first.step()
    for more in (["--force"], [], ["--resume"], ["--force", "--resume"]):
        second = run(words("prune", out, *more, sparsity=0.75))
        assert second.returncode == 1
        assert second.stdout == ""
        assert second.stderr.count("\n") == 1
        assert "another run is writing the same output; wait until it is done" in second.stderr
    with pytest.raises(OutputBusyError, match="out.mlpackage.resume is in use"):
        mlpass.prune(mlp, out, Percentile(0.75), sample_data=str(stacked), force=True)
    assert hidden(tmp_path) != []
    status, err = first.finish()
    assert (status, err) == (0, "")
    assert tree(out) == tree(alone)
    assert hidden(tmp_path) == []
    again = run(words("prune", out, "--force", sparsity=0.75))
    assert again.returncode == 0, again.stderr
    assert all(abs(layer.sparsity - 0.75) < 0.01 for layer in mlpass.inspect(out).layers)


@pytest.mark.slow
def test_a_second_sweep_at_one_output_is_refused(words, tmp_path):
    out = tmp_path / "report.json"
    first = Slow(words("sweep", out))
    first.wait()
    first.step()
    for more in (["--force"], [], ["--resume"]):
        second = run(words("sweep", out, *more))
        assert second.returncode == 1
        assert second.stderr.count("\n") == 1
        assert "report.json.resume is in use: another run is writing the same" in second.stderr
    assert first.finish()[0] == 0
    assert len(json.loads(out.read_text())["trials"]) == 3
    assert hidden(tmp_path) == []


@pytest.mark.slow_but_every(2)
@pytest.mark.parametrize("command", ["prune", "sweep"])
def test_what_came_meanwhile_is_kept_and_so_is_what_was_finished(words, command, tmp_path):
    out = tmp_path / ("out.mlpackage" if command == "prune" else "out.json")
    alone = out.with_name(f"alone{out.suffix}")
    assert run(words(command, alone)).returncode == 0
    slow = Slow(words(command, out))
    slow.wait()
    if command == "prune":  # a whole other result; what needs no data has no journal
        mlpass.prune(FIXTURES / "digits_ios15.mlpackage", out, Percentile(0.5))
        theirs = tree(out)
    else:
        out.write_text("theirs")
    status, err = slow.finish()
    assert status == 1
    assert f"{out}: already exists; pass --force" in err
    assert "; what was finished is kept in " in err
    assert f"{journal_path(out)}: go on with resume (--resume), or delete that folder" in err
    if command == "prune":
        assert tree(out) == theirs
    else:
        assert out.read_text() == "theirs"
    assert hidden(tmp_path) == [journal_path(out).name]
    assert run(words(command, out, "--force", "--resume")).returncode == 0
    if command == "prune":
        assert tree(out) == tree(alone)
    assert hidden(tmp_path) == []


def test_a_prediction_keeps_what_came_meanwhile(tmp_path, monkeypatch):
    from mlpass.examine import predict

    with np.load(FIXTURES / "digits_ios15.npz") as truth:
        (image,) = (truth[name] for name in truth.files if name.startswith("input:"))
    inputs, out = tmp_path / "x.npz", tmp_path / "y.npz"
    np.savez(inputs, image=image)
    as_arrays = predict.as_arrays

    def late(outputs):
        out.write_text("theirs")
        return as_arrays(outputs)

    monkeypatch.setattr(predict, "as_arrays", late)
    with pytest.raises(
        OutputExistsError,
        match=r"y\.npz: already exists; pass force=True to replace it, or name another file",
    ):
        predict.predict_to_file(FIXTURES / "digits_ios15.mlpackage", inputs, out)
    assert out.read_text() == "theirs"
    assert hidden(tmp_path) == []


@pytest.mark.slow_but_every(4)
@pytest.mark.parametrize("command", ["prune", "sweep"])
@pytest.mark.parametrize(
    ("number", "status", "last"),
    [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "term")],
)
def test_a_run_that_is_ended_tells_what_it_leaves(words, command, number, status, last, tmp_path):
    out = tmp_path / ("out.mlpackage" if command == "prune" else "out.json")
    before = sorted(os.listdir(tmp_path))
    slow = Slow(words(command, out))
    slow.wait()
    assert slow.finish(number)[0] == status  # before anything was finished
    assert sorted(os.listdir(tmp_path)) == before

    slow = Slow(words(command, out))
    slow.wait()
    slow.step()
    code, err = slow.finish(number)
    err = err[err.index("mlpass: error: ") :]  # after the progress bar
    assert code == status
    assert err.startswith(f"mlpass: error: {last}")
    assert err.count("\n") == 1
    assert f"what was finished is kept in {journal_path(out)}" in err
    assert hidden(tmp_path) == [journal_path(out).name]
    if command == "prune":  # a run that starts anew does not leave it
        assert run(words(command, out, sparsity=0.75)).returncode == 0
    else:
        assert run(words(command, out, "--resume")).returncode == 0
    assert hidden(tmp_path) == []


def test_a_killed_run_holds_nobody_up(words, tmp_path):
    out, alone = tmp_path / "out.mlpackage", tmp_path / "alone.mlpackage"
    assert run(words("prune", alone)).returncode == 0
    slow = Slow(words("prune", out))
    slow.wait()
    slow.step()
    assert slow.finish(signal.SIGKILL)[0] == -signal.SIGKILL
    other = run(words("prune", out, "--resume", sparsity=0.75))
    assert other.returncode == 1
    assert "belongs to a run with another model, config, method or samples" in other.stderr
    resumed = run(words("prune", out, "--resume"))
    assert resumed.returncode == 0, resumed.stderr
    assert tree(out) == tree(alone)
    assert not journal_path(out).exists()


def _interrupted(mlp, out, monkeypatch):
    """Leaves one finished layer of a run at 50%."""
    with monkeypatch.context() as patched:
        calls = []
        solve = layers.solve

        def dying(*given, **options):
            if calls:
                raise KeyboardInterrupt
            calls.append(1)
            return solve(*given, **options)

        patched.setattr(layers, "solve", dying)
        with pytest.raises(KeyboardInterrupt):
            mlpass.prune(mlp, out, Percentile(0.5), sample_data=samples())


def test_a_model_with_other_weights_and_the_same_looks_is_another_run(mlp, tmp_path, monkeypatch):
    out = tmp_path / "out.mlpackage"
    _interrupted(mlp, out, monkeypatch)
    weights = next(mlp.rglob("weight.bin"))
    status, content = weights.stat(), bytearray(weights.read_bytes())
    content[-3] ^= 1
    weights.write_bytes(content)
    os.utime(weights, ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(CalibrationError, match="belongs to a run with another model"):
        mlpass.prune(mlp, out, Percentile(0.5), sample_data=samples(), resume=True)


def test_a_copy_of_the_model_is_the_same_run(mlp, tmp_path, monkeypatch):
    out, copy = tmp_path / "out.mlpackage", tmp_path / "copy.mlpackage"
    _interrupted(mlp, out, monkeypatch)
    shutil.copytree(mlp, copy)
    for file in copy.rglob("*"):
        os.utime(file, (1, 1))
    mlpass.prune(copy, out, Percentile(0.5), sample_data=samples(), resume=True)


@pytest.mark.filterwarnings("ignore")
def test_an_open_model_that_was_edited_is_another_run(mlp, tmp_path, monkeypatch):
    from coremltools.models import MLModel

    out = tmp_path / "out.mlpackage"
    model = MLModel(str(mlp), skip_model_load=True)
    _interrupted(model, out, monkeypatch)
    edited = MLModel(str(mlp), skip_model_load=True)
    edited.short_description = "edited since it was loaded"
    with pytest.raises(CalibrationError, match="belongs to a run with another model"):
        mlpass.prune(edited, out, Percentile(0.5), sample_data=samples(), resume=True)
    mlpass.prune(model, out, Percentile(0.5), sample_data=samples(), resume=True)


ROUNDS = 20


@pytest.mark.slow
@pytest.mark.parametrize("force", [[], ["--force"]], ids=["", "force"])
def test_races_of_two_runs_at_one_output(force, mlp, tmp_path):
    """Data-free runs, which are independent, at 20 moments; imported once, forked for each."""
    racer = (
        "import os, sys, time\nfrom mlpass import cli\n"
        "import mlpass.pruning.prune\n"
        "words = sys.argv[1:]\n"
        "print('ready', flush=True)\n"
        "for line in sys.stdin:\n"
        "    child = os.fork()\n"
        "    if child == 0:\n"
        "        time.sleep(float(line.split()[0]))\n"
        "        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)\n"
        "        os._exit(cli.main([*words, '-o', line.split()[1]]))\n"
        "    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)\n"
    )
    sparsities, whole, racers = ("0.5", "0.75"), [], []
    for sparsity in sparsities:
        alone = tmp_path / f"alone{sparsity}.mlpackage"
        how = ["prune", str(mlp), "--target-sparsity", sparsity]
        assert run([*how, "-o", str(alone)]).returncode == 0
        whole.append(tree(alone))
        racers.append(
            subprocess.Popen(
                [sys.executable, "-W", "ignore", "-c", racer, *how, *force],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    assert all(each.stdout.readline() == "ready\n" for each in racers)
    generator = random.Random("races")
    for number in range(ROUNDS):
        out = tmp_path / f"{number}.mlpackage"
        for each in racers:
            each.stdin.write(f"{generator.uniform(0, 0.02)} {out}\n")
            each.stdin.flush()
        statuses = [int(each.stdout.readline()) for each in racers]
        assert sorted(statuses) == ([0, 0] if force else [0, 1])
        assert tree(out) in ([whole[statuses.index(0)]] if not force else whole)
    for each in racers:
        _, err = each.communicate()
        assert each.returncode == 0
        assert all(
            "already exists; pass --force to replace it" in line for line in err.splitlines()
        )
    assert hidden(tmp_path) == []
