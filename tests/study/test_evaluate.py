"""A user's own measure that fails in any way: a failed row of a sweep, or one line."""

from __future__ import annotations

import signal
import subprocess
import sys

import numpy as np
import pytest

import mlpass
from mlpass.cli import main
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
