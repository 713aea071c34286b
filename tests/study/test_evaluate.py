"""A user's own measure that fails in any way: a failed row of a sweep, or one line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import mlpass
from mlpass.cli import main
from mlpass.cli.options import load_function
from mlpass.errors import ConfigError
from mlpass.study.evaluate import evaluated


class Odd:
    """Not a number, and not even to be shown."""

    def __repr__(self):
        raise ValueError("shy")


class Ending(BaseException):
    """Not an Exception, as what pytest, trio and others end their work with."""


class ShyError(Exception):
    """Raises another exception whatever it is asked for."""

    def __init__(self, error):
        self.error = error

    def __str__(self):
        raise self.error

    __repr__ = __float__ = __str__


def raising(error):
    def evaluate(path):
        raise error

    return evaluate


FAILING = {
    "an error": (raising(ZeroDivisionError("by zero")), "raised ZeroDivisionError: by zero"),
    "an error of two lines": (raising(OSError("a\n\nb")), "raised OSError: a b"),
    "an error of no words": (raising(RecursionError()), "raised RecursionError$"),
    "the end of the program": (lambda path: sys.exit(3), "raised SystemExit: 3"),
    "an end of its own kind": (raising(Ending("over")), "raised Ending: over"),
    "the end of a generator": (raising(GeneratorExit()), "raised GeneratorExit$"),
    "an error that cannot be told": (raising(ShyError(ValueError())), "raised ShyError$"),
    "an error that ends what tells it": (raising(ShyError(SystemExit(4))), "raised ShyError$"),
    "a number that ends what asks for it": (
        lambda path: ShyError(SystemExit(9)),
        ".*Got a value of ",
    ),
    "no argument": (lambda: 1.0, "raised TypeError: .*positional argument"),
    "two arguments": (lambda path, more: 1.0, "raised TypeError: .*missing 1 required"),
    "None": (lambda path: None, "must return a number. Got None"),
    "a text": (lambda path: "good", "must return a number. Got 'good'"),
    "a list": (lambda path: [0.5] * 10_000, r"must return a number. Got \[0.5, 0.5.*\.\.\.\]"),
    "two numbers": (lambda path: np.ones(2), "must return a number. Got array"),
    "a complex number": (lambda path: np.complex64(1 + 2j), "must return a number. .*complex"),
    "more than a float holds": (lambda path: 10**400, "must return a number. .*OverflowError"),
    "more than can be written": (lambda path: 10**5000, "must return a number. .*OverflowError"),
    "something that is not to be shown": (lambda path: Odd(), "must return a number. Got "),
}


@pytest.mark.parametrize("case", FAILING)
def test_what_fails_is_told_in_one_line(case):
    evaluate, message = FAILING[case]
    with pytest.raises(ConfigError, match=f"^evaluate: {message}") as raised:
        evaluated(evaluate, "model.mlpackage")
    assert len(str(raised.value)) < 1000


@pytest.mark.parametrize(
    "given", [1, 0.5, True, np.float32(0.5), np.array(0.5), float("inf"), "0.5"]
)
def test_any_number_will_do(given):
    assert evaluated(lambda path: given, "model.mlpackage") == float(given)


def test_an_interrupt_is_no_failure():
    with pytest.raises(KeyboardInterrupt):
        evaluated(raising(KeyboardInterrupt()), "model.mlpackage")


def test_a_signal_that_ends_the_program_is_no_failure(model, tmp_path):
    (tmp_path / "measure.py").write_text(
        "import os, signal\ndef f(path):\n    os.kill(os.getpid(), signal.SIGTERM)\n    return 1\n"
    )
    command = [sys.executable, "-m", "mlpass", "sweep", str(model)]
    done = subprocess.run(
        [*command, "--evaluate", f"{tmp_path}/measure.py:f"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 128 + signal.SIGTERM
    assert done.stderr == "mlpass: error: terminated\n"


def test_what_fails_on_the_model_itself_ends_a_sweep_before_it_begins(model, samples):
    with pytest.raises(ConfigError, match="evaluate: must return a number. Got None"):
        mlpass.sweep(model, samples, evaluate=lambda path: None)
    with pytest.raises(ConfigError, match="evaluate: must return a number. Got None"):
        mlpass.choose(
            model, "out.mlpackage", sample_data=samples, min_snr=3, evaluate=lambda path: None
        )


def test_what_fails_on_a_pruned_model_is_a_row_that_failed(model):
    def evaluate(path):
        return 1.0 if path == str(model) else sys.exit("no")

    report = mlpass.sweep(model, configs=[mlpass.Percentile(0.5)], evaluate=evaluate)
    (trial,) = report.trials
    assert report.value_before == 1.0
    assert trial.failed == "evaluate: raised SystemExit: no"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def f(path:\n", "SyntaxError: "),
        ("import nothing_like_that\n", "No module named 'nothing_like_that'"),
        ("1 / 0\n", "ZeroDivisionError: division by zero"),
        ("import sys\nsys.exit(0)\n", "SystemExit: 0"),
        ("raise RuntimeError('a\\nb')\n", "RuntimeError: a b"),
        ("\0", "null bytes"),
        ("class E(BaseException): pass\nraise E('a')\n", "E: a"),
        ("class E(Exception):\n    def __str__(self): 1 / 0\nraise E\n", ".py:f: E"),
        ("def g(path): return 1\n", "has no attribute 'f'"),
        ("f = 3\n", "is not a function"),
        ("def f(): return 1\n", "evaluate: raised TypeError: f() takes 0 positional arguments"),
    ],
)
def test_a_file_with_no_measure_is_told_in_one_line(
    text, message, model, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(sys, "path", [*sys.path])
    name = f"measure_{abs(hash(text))}"
    (tmp_path / f"{name}.py").write_text(text)
    assert main(["sweep", str(model), "--evaluate", f"{tmp_path}/{name}.py:f"]) == 1
    printed = capsys.readouterr().err
    assert printed.startswith("mlpass: error: ")
    assert message in printed
    assert printed.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none.py", "none.py: there is no such file"),
        ("my.measure.py", "my.measure.py: Python imports no file with a dot in its name"),
        ("json.py", "json.py: Python has another 'json'; rename the file"),
    ],
)
def test_a_file_that_is_not_imported_is_told(name, message, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    if name != "none.py":
        (tmp_path / name).write_text("def f(path): return 1.0\n")
    with pytest.raises(ConfigError, match=f"^--evaluate: {tmp_path}/{message}$"):
        load_function("--evaluate", f"{tmp_path}/{name}:f")


def test_what_ends_the_process_at_once_ends_the_measure_alone():
    ending = os._exit
    with pytest.raises(ConfigError, match=r"^evaluate: raised SystemExit: os._exit\(7\)$"):
        evaluated(lambda path: os._exit(7), "model.mlpackage")
    assert os._exit is ending


def test_measures_side_by_side_are_kept_alive_to_the_last():
    ending, inside, go = os._exit, threading.Barrier(2), threading.Event()

    def late(path):
        inside.wait()
        go.wait()
        return os._exit(3)

    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(evaluated, late, "model.mlpackage")
        assert evaluated(lambda path: inside.wait() * 0, "model.mlpackage") == 0
        go.set()
        with pytest.raises(ConfigError, match=r"os._exit\(3\)"):
            other.result()
    assert os._exit is ending


FORKS = """
import os, sys
from mlpass.study.evaluate import evaluated

def ends(path):
    child = os.fork()
    if child == 0:
        os._exit(5)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

def comes_back(path):
    child = os.fork()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) if child else 9.0

print(evaluated(ends, ""), evaluated(comes_back, ""), flush=True)
"""


def test_a_child_process_ends_as_it_would_and_comes_back_nowhere():
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORKS], capture_output=True, text=True, check=True
    )
    assert done.stdout == "5.0 1.0\n"


def test_what_a_measure_prints_is_not_among_the_result(model, tmp_path):
    (tmp_path / "measure.py").write_text(
        "import sys\ndef f(path):\n  print('my own words')\n  sys.stdout = None\n  return 1\n"
    )
    command = [sys.executable, "-W", "ignore", "-m", "mlpass", "sweep", str(model), "--json"]
    (tmp_path / "grid.yaml").write_text("- target_sparsity: 0.5\n")
    done = subprocess.run(
        [*command, "--evaluate", f"{tmp_path}/measure.py:f", "--configs", f"{tmp_path}/grid.yaml"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["trials"][0]["value"] == 1.0
    assert "my own words" in done.stderr
