"""What several commands have in common."""

from __future__ import annotations

import argparse
from typing import Any, TextIO

from mlpass.errors import ENDS, visible
from mlpass.options import PROCESSORS

Subparsers = Any  # argparse gives its own type no public name

MODEL_HELP = "an .mlpackage; or an ExecuTorch .pte, or a delegate in it: model.pte/forward/0"
_SAMPLE_HELP = """\
an .npz whose arrays have a leading sample axis, or a folder of .npz files, one a sample; a
sub-folder of .npz files is a sequence: steps, in the order of their names, on one state. For a
model that keeps a state, arrays with one axis more are sequences, too: (samples, steps, ...)"""
_FUNCTION_HELP = """;
for several functions FUNCTION=PATH, once for each, or a folder with a sub-folder function=NAME for
each; the steps of one sequence may be for several: 0-function=prefill.npz, 1-function=decode.npz"""

_SAMPLE_EXAMPLES = """\
How samples.npz is made in Python, of a few dozen real inputs, under the name that the model has for
its input. Of images, scaled as in training (for an ImageType input, which is 0 to 255, not at all):

  import numpy as np, PIL.Image
  pixels = [PIL.Image.open(path).convert("RGB").resize((224, 224)) for path in paths]
  np.savez("samples.npz", image=np.stack(pixels).transpose(0, 3, 1, 2)[:, None] / 255)

Of texts, as ids of the model's own tokenizer, all of one length:

  import numpy as np
  tokens = [tokenizer(text)["input_ids"][:64] for text in texts]
  np.savez("samples.npz", tokens=np.array(tokens, np.int32)[:, None])

The first axis counts samples, the second is the model's own batch: (N, 1, 3, 224, 224), (N, 1, 64).
"""


def add_model(parser: argparse.ArgumentParser, *, several: bool = False) -> None:
    """Adds the model that a command reads, or those in a row, and the form of what it prints."""
    parser.add_argument("model", metavar="MODEL", help=MODEL_HELP, nargs="+" if several else None)
    parser.add_argument("--json", action="store_true", help="print one JSON document instead")


def add_samples(
    parser: argparse.ArgumentParser,
    group: Any = None,
    *,
    required: bool = False,
    functions: bool = False,
) -> None:
    """Adds the samples that a command runs models on, to a group of it, and how they are made.

    Args:
        parser: of the command.
        group: of it; None for the parser itself.
        required: whether there must be some.
        functions: whether they may be given for several functions.
    """
    (group or parser).add_argument(
        "--sample-data",
        required=required,
        metavar="PATH",
        help=_SAMPLE_HELP + (_FUNCTION_HELP if functions else ""),
        action=_ByFunction if functions else "store",
    )
    parser.epilog = _SAMPLE_EXAMPLES


class _ByFunction(argparse.Action):
    """Samples at a path; or given several times, as FUNCTION=PATH, those of each function."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: object,
        option_string: str | None = None,
    ) -> None:
        """Notes the path, or that of another function."""
        import os

        known, value = getattr(namespace, self.dest), str(values)
        function, equals, path = value.partition("=")
        named = bool(equals) and "/" not in function and not os.path.exists(value)
        if known is not None and not (named and isinstance(known, dict) and function not in known):
            parser.error(f"{option_string}: give it once, or once for each function, FUNCTION=PATH")
        setattr(namespace, self.dest, {**(known or {}), function: path} if named else value)


def add_output(
    parser: argparse.ArgumentParser,
    metavar: str = "OUT",
    what: str = "the .mlpackage or .pte to write",
    *,
    required: bool = True,
    several: bool = False,
) -> None:
    """Adds where a command writes, for each model, and whether it may replace what is there."""
    action = "append" if several else "store"
    parser.add_argument(
        "-o", "--output", required=required, metavar=metavar, help=what, action=action
    )
    parser.add_argument("--force", action="store_true", help=f"replace {metavar} where it exists")


def add_resume(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Adds, to a parser or a group of it, that a run which died is gone on with."""
    parser.add_argument(
        "--resume", action="store_true", help="go on with what a run that died had finished"
    )


def add_dense(parser: argparse.ArgumentParser, *, required: bool = False) -> None:
    """Adds the model that one which trains is to come close to."""
    parser.add_argument(
        "--dense", required=required, metavar="DENSE", help="the .mlpackage to learn from"
    )


def add_judging(parser: argparse.ArgumentParser) -> None:
    """Adds what the results of a study are judged by."""
    parser.add_argument(
        "--test-data",
        metavar="PATH",
        help="samples to judge by, in the place of a quarter kept back",
    )
    parser.add_argument(
        "--evaluate",
        metavar="MODULE:FUNCTION",
        help="a function that is given the path of a package and returns a number; it runs within "
        "the command, so that a crash of it (a signal, a stack that overflows in C) ends the "
        "command, too, without a word",
    )


def add_running(parser: argparse.ArgumentParser) -> None:
    """Adds what a command runs models on."""
    parser.add_argument(
        "--backend",
        default="numpy",
        choices=("numpy", "torch", "coreml"),
        help="what runs the model: numpy (default), torch (the torch extra), coreml (macOS)",
    )


def add_processor(parser: argparse.ArgumentParser, help_text: str) -> None:
    """Adds the processor that what a command says is about."""
    parser.add_argument("--for", dest="processor", choices=PROCESSORS, help=help_text)


def add_raising(parser: argparse.ArgumentParser) -> None:
    """Adds what a model is raised to before anything else is done to it."""
    parser.add_argument(
        "--minimum-deployment-target",
        metavar="TARGET",
        help="iOS16, iOS17, iOS18, macOS15, ...: raise the model to it, without its source",
    )


def add_joint(parser: argparse.ArgumentParser) -> None:
    """Adds whether weights that are compressed already take part."""
    parser.add_argument(
        "--joint-compression",
        action="store_true",
        help="prune the weights that are quantized or palettized already, too",
    )


def load_function(option: str, place: str | None) -> Any:
    """Returns the function at "module:function" or "file.py:function", None for None.

    Modules of the current directory are found, here and in processes that are started from here.

    Raises:
        ConfigError: there is no such function, or its module cannot be imported, or has the name
            of another.
    """
    import os
    import sys
    from importlib import import_module

    from mlpass.errors import ConfigError, told

    if place is None:
        return None
    path, colon, name = place.rpartition(":")
    if not colon:
        raise ConfigError(f"{option}: must be MODULE:FUNCTION or FILE.py:FUNCTION. Got {place!r}.")
    folder, file = os.path.split(path.removesuffix(".py"))
    if path.endswith(".py"):
        if not os.path.isfile(path):
            raise ConfigError(f"{option}: {path}: there is no such file")
        if "." in file:
            raise ConfigError(f"{option}: {path}: Python imports no file with a dot in its name")
    sys.path.insert(0, os.path.abspath(folder))
    try:
        module = import_module(file)
        found = getattr(module, "__file__", None)
        if path.endswith(".py") and not (found and os.path.samefile(found, path)):
            raise ConfigError(f"{option}: {path}: Python has another {file!r}; rename the file")
        function = getattr(module, name)
    except (*ENDS, ConfigError):
        raise
    except BaseException as error:  # whatever a module does as it is imported
        raise ConfigError(f"{option}: {place}: {told(error)}") from error
    if not callable(function):
        raise ConfigError(f"{option}: {place} is not a function")
    return function


def print_text(text: str, out: TextIO) -> None:
    """Prints what the terminal's encoding can show, and the rest, such as odd names, escaped."""
    import os

    text = "\n".join(map(visible, text.split("\n")))
    encoding = out.encoding or "utf-8"
    try:
        print(text.encode(encoding, "backslashreplace").decode(encoding), file=out, flush=True)
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), out.fileno())  # for what is not written
        if error.filename is None:
            error.filename = "standard output"
        raise


def shown(report: Any, options: argparse.Namespace) -> str:
    """Returns a report in the form that was asked for."""
    from mlpass.report.plain import to_json

    return to_json(report.to_dict(), indent=2) if options.json else str(report)
