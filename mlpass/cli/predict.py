"""`mlpass predict`."""

from __future__ import annotations

import argparse

from mlpass.cli.options import MODEL_HELP, Subparsers, add_output, add_running
from mlpass.errors import visible

_PREDICT_HELP = """\
Run a model on one set of inputs and write its outputs.

  mlpass predict model.mlpackage --inputs x.npz -o y.npz

X.npz holds one array an input, under the input's name (numpy.savez("x.npz", image=array)); Y.npz
gets one an output. A classifier's probabilities become two arrays, NAME and NAME.labels. A model
with state starts from zeros; where all arrays have one axis more, the first, it counts steps on one
state, and so it does in the outputs.
"""


def add_predict(commands: Subparsers) -> None:
    """Adds the command."""
    predict = commands.add_parser(
        "predict",
        help="run a model, anywhere",
        description=_PREDICT_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    predict.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    predict.add_argument("--inputs", required=True, metavar="X.npz", help="one array an input")
    add_output(predict, "Y.npz", "the file to write")
    add_running(predict)
    predict.add_argument(
        "--function-name", metavar="NAME", help="of a model with several functions, the one to run"
    )
    predict.set_defaults(run=_predict, parser=predict)


def _predict(options: argparse.Namespace) -> str:
    from pathlib import Path

    from mlpass.examine.predict import predict_to_file

    written = predict_to_file(
        options.model,
        Path(options.inputs),
        Path(options.output),
        backend=options.backend,
        function_name=options.function_name,
        force=options.force,
    )
    shapes = ", ".join(f"{name} {shape}" for name, shape in written.items())
    return visible(f"{options.output}: {shapes}")
