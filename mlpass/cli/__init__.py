"""The `mlpass` command: a thin layer over the Python functions of the same names.

Only the standard library is imported here; a command imports what it needs once it runs.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shlex
import sys
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn, TextIO

from mlpass.cli.check import add_check
from mlpass.cli.choose import add_choose
from mlpass.cli.compare import add_compare
from mlpass.cli.explain import add_explain
from mlpass.cli.finetune import add_finetune
from mlpass.cli.inspect import add_inspect
from mlpass.cli.options import print_text
from mlpass.cli.predict import add_predict
from mlpass.cli.prune import add_prune
from mlpass.cli.signals import end_in_any_case, ended_by_signals, signals_given_back
from mlpass.cli.sweep import add_sweep
from mlpass.cli.tune import add_tune
from mlpass.errors import (
    MlpassError,
    OutputExistsError,
    SampleWarning,
    Terminated,
    close_matches,
    cut,
    told,
    visible,
)
from mlpass.ledger import close_all
from mlpass.version import __version__

_CHOICE = re.compile(r"invalid choice: '(.*)' \(choose from (.*)\)")  # argparse's words


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit status: 0 done, 1 failed, 2 wrong usage."""
    with signals_given_back():
        return _main(arguments)


def run() -> NoReturn:
    """Runs the command line as a process of its own."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # closed: the next file that is opened would take its place
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115
    status = _main(None)
    if status > 128:  # a signal
        end_in_any_case(status)
    sys.exit(status)


def _main(arguments: Sequence[str] | None) -> int:
    try:
        with ended_by_signals(), warnings_told():
            options = make_parser().parse_args(arguments)
            given = sys.argv[1:] if arguments is None else arguments
            options.command = shlex.join(["mlpass", *given])
            options.out = sys.stdout
            with contextlib.redirect_stdout(sys.stderr):  # what others print is not the result
                text = options.run(options)
            print_text(text, options.out)
    except OutputExistsError as error:
        return _fail(str(error).replace("pass force=True", "pass --force"), error)
    except MlpassError as error:
        return _fail(str(error), error)
    except BrokenPipeError:
        return 1
    except OSError as error:
        names = [str(name) for name in (error.filename, error.filename2) if name is not None]
        return _fail(": ".join([*(names or _here()), error.strerror or told(error)]), error)
    except MemoryError as error:
        text = f": {error}" if str(error) else ""
        return _fail(f"out of memory{text}", error)
    except ImportError as error:  # its last words are the reason, what is before is advice
        while isinstance(error.__cause__, ImportError):
            error = error.__cause__
        return _fail(f"cannot import {error.name or 'what it needs'}: {error}", error)
    except KeyboardInterrupt as error:
        return _fail("interrupted", error, status=130)
    except Terminated as error:
        return _fail("terminated", error, status=int(str(error.code)))
    return 0


class _Parser(argparse.ArgumentParser):
    """Tells of wrong usage in a line that can be read, whatever the words were."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        before = ""
        for word in args or ():
            if "\0" in word:  # no file can be called so
                self.error(f"{word!r}: holds a NUL character")
            option = word.removesuffix("=") if word else before
            if option != word and (not word or option in self._option_string_actions):
                what = f"what {option} is given" if option.startswith("-") else "an argument"
                self.error(f"{what} is empty; is a variable in the command not set?")
            before = word
        found, rest = super().parse_known_args(args, namespace)
        if rest:  # told here, and not by the parser of all commands, which has other options
            known = self._option_string_actions
            flags = (word.partition("=")[0] for word in rest if word.startswith("--"))
            near = next(filter(None, (close_matches(f, known) for f in flags)), "")
            self.error(f"unrecognized arguments: {' '.join(rest)}{near}")
        return found, rest

    def error(self, message: str) -> NoReturn:
        choice = _CHOICE.search(message)
        if choice is not None:
            message += close_matches(choice[1], re.findall(r"[\w-]+", choice[2]))
        text = cut(visible(" ".join(message.split())))
        more = " See" if text.endswith((".", "?")) else "; see"
        self.exit(2, f"{self.prog}: error: {text}{more} '{self.prog} --help'\n")


@contextlib.contextmanager
def warnings_told() -> Iterator[None]:
    """Tells of odd samples in a line, once, and not where in the code it was noticed."""
    seen: set[str] = set()
    shown = warnings.showwarning

    def tell(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if not issubclass(category, SampleWarning):
            shown(message, category, filename, lineno, file, line)
        elif str(message) not in seen:
            seen.add(str(message))
            print(f"mlpass: warning: {visible(str(message))}", file=sys.stderr, flush=True)

    with warnings.catch_warnings():
        warnings.simplefilter("always", SampleWarning)
        warnings.showwarning = tell
        yield


def make_parser() -> argparse.ArgumentParser:
    """Returns what reads the command line."""
    parser = _Parser(
        prog="mlpass",
        description="Prune Core ML models after conversion.",
        epilog="'mlpass COMMAND --help' tells more about a command.",
    )
    parser.add_argument("--version", action="version", version=f"mlpass {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for add in (
        add_prune,
        add_tune,
        add_finetune,
        add_sweep,
        add_choose,
        add_inspect,
        add_explain,
        add_predict,
        add_compare,
        add_check,
    ):
        add(commands)
    return parser


def _here() -> list[str]:
    """Returns what an error that names nothing means: the current directory, where that is gone."""
    try:
        os.getcwd()
    except OSError:
        return ["the current directory"]
    return []


def _fail(message: str, error: BaseException, status: int = 1) -> int:
    """Prints one line, with what was noted on the way about what is left, and returns `status`."""
    close_all(error)
    line = visible("; ".join([cut(message), *vars(error).get("__notes__", ())]))
    with contextlib.suppress(OSError):  # there is nobody left to tell
        print(f"mlpass: error: {' '.join(line.split())}", file=sys.stderr, flush=True)
    return status
