"""The `mlpass` command: a thin layer over the Python functions of the same names.

Only the standard library is imported here; a command imports what it needs once it runs.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from mlpass import __version__
from mlpass.errors import ConfigError, MlpassError, OutputExistsError

_PRUNE_HELP = """\
Prune the weights of a Core ML package, without data, and write a new package.

  mlpass prune model.mlpackage -o pruned.mlpackage --target-sparsity 0.75
  mlpass prune model.mlpackage -o pruned.mlpackage --n-m-ratio 2:4
  mlpass prune model.mlpackage -o pruned.mlpackage --config prune.yaml

One of --target-sparsity, --n-m-ratio, --threshold and --config says what becomes zero:

  --target-sparsity F                    the fraction F of each weight, smallest first
    ... --scope global|row               of all weights together, or of each output row
    ... --block-size B [--dim 0|1]       whole blocks of B neighbouring channels
    ... --granularity per_kernel         whole spatial kernels of convolutions
    ... --granularity per_channel        whole output channels
  --n-m-ratio N:M [--dim 0|1]            N ZEROS in every M neighbouring channels
  --threshold F                          every element of magnitude F or less
    ... --minimum-sparsity-percentile P  weights that would have fewer zeros are skipped

Only weights are touched (of conv, conv_transpose, linear, matmul, einsum, gather, lstm, gru and
rnn). What is skipped is listed with its reason. A weight is stored sparse where that is smaller.
"""

_PREDICT_HELP = """\
Run a model on one set of inputs and write its outputs.

  mlpass predict model.mlpackage --inputs x.npz -o y.npz

X.npz holds one array an input, under the input's name (numpy.savez("x.npz", image=array)); Y.npz
gets one an output. A classifier's probabilities become two arrays, NAME and NAME.labels. A model
with state starts from zeros.
"""

_COMPARE_HELP = """\
Run two models on the same samples and tell how far OTHER is from MODEL, output by output: the
signal-to-noise ratio in dB, the largest and mean absolute difference, and how often the largest
value (or a classifier's label) is the same.

  mlpass compare model.mlpackage pruned.mlpackage --sample-data samples.npz
"""

_SAMPLE_HELP = """\
an .npz whose arrays have a leading sample axis, or a folder of .npz files, one a sample"""

_CONFIG_HELP = """\
YAML with global_config, op_type_configs, op_name_configs (null leaves a weight alone; names may be
globs); coremltools' own files are read as they are"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit status: 0 done, 1 failed, 2 wrong usage."""
    parser = _parser()
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, _terminate)
    try:
        _print(options.run(options))
        sys.stdout.flush()
    except OutputExistsError as error:
        return _fail(f"{error} (--force)")
    except MlpassError as error:
        return _fail(str(error))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        names = [str(name) for name in (error.filename, error.filename2) if name is not None]
        return _fail(": ".join([*names, error.strerror or str(error)]))
    except MemoryError:
        return _fail("out of memory")
    except KeyboardInterrupt:
        return _fail("interrupted", status=130)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mlpass",
        description="Prune Core ML models after conversion.",
        epilog="'mlpass COMMAND --help' tells more about a command.",
    )
    parser.add_argument("--version", action="version", version=f"mlpass {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    prune = commands.add_parser(
        "prune",
        help="prune a model's weights, write a new package",
        description=_PRUNE_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_model(prune)
    prune.add_argument(
        "-o", "--output", required=True, metavar="OUT", help="the .mlpackage to write"
    )
    prune.add_argument("--target-sparsity", type=float, metavar="F", help="0 to 1")
    prune.add_argument("--threshold", type=float, metavar="F", help="0 or more")
    prune.add_argument("--n-m-ratio", type=_ratio, metavar="N:M", help="N zeros in every M")
    prune.add_argument("--block-size", type=int, metavar="B", help="2 or more")
    prune.add_argument(
        "--dim", type=int, choices=(0, 1), help="0: along output channels, 1: input channels"
    )
    prune.add_argument("--granularity", choices=("per_scalar", "per_kernel", "per_channel"))
    prune.add_argument("--scope", choices=("weight", "row", "global"))
    prune.add_argument("--minimum-sparsity-percentile", type=float, metavar="P", help="0 to 1")
    prune.add_argument(
        "--mode",
        type=str.lower,
        choices=("threshold", "percentile", "nm", "block", "kernel", "channel"),
        help="the mode by its name, where the options above leave it open",
    )
    prune.add_argument("--config", metavar="FILE.yaml", help=_CONFIG_HELP)
    prune.add_argument(
        "--weight-threshold",
        type=int,
        metavar="N",
        help="skip weights of N elements or fewer (default: 2048)",
    )
    prune.add_argument("--force", action="store_true", help="replace OUT where it exists")
    prune.set_defaults(run=_prune, parser=prune)

    inspect = commands.add_parser(
        "inspect",
        help="what is in a model, what is sparse, what each weight costs",
        description="List a model's functions and ops, and each weight's type, encoding, sparsity "
        "and stored bytes.",
    )
    _add_model(inspect)
    inspect.set_defaults(run=_inspect, parser=inspect)

    predict = commands.add_parser(
        "predict",
        help="run a model, anywhere",
        description=_PREDICT_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    predict.add_argument("model", metavar="MODEL", help="an .mlpackage")
    predict.add_argument("--inputs", required=True, metavar="X.npz", help="one array an input")
    predict.add_argument("-o", "--output", required=True, metavar="Y.npz", help="the file to write")
    predict.add_argument("--force", action="store_true", help="replace Y.npz where it exists")
    _add_running(predict)
    predict.set_defaults(run=_predict, parser=predict)

    compare = commands.add_parser(
        "compare",
        help="how far a model's outputs are from another's",
        description=_COMPARE_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_model(compare)
    compare.add_argument("other", metavar="OTHER", help="the .mlpackage to compare with it")
    compare.add_argument("--sample-data", required=True, metavar="PATH", help=_SAMPLE_HELP)
    _add_running(compare)
    compare.set_defaults(run=_compare, parser=compare)
    return parser


def _add_running(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--backend",
        default="numpy",
        choices=("numpy", "torch", "coreml"),
        help="what runs the model: numpy (default), torch (the torch extra), coreml (macOS)",
    )


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="an .mlpackage")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead")


def _prune(options: argparse.Namespace) -> str:
    from mlpass.passes.prune import prune

    config = _config(options)
    return _shown(prune(options.model, options.output, config, force=options.force), options)


def _inspect(options: argparse.Namespace) -> str:
    from mlpass.passes.inspect import inspect

    return _shown(inspect(options.model), options)


def _predict(options: argparse.Namespace) -> str:
    from pathlib import Path

    from mlpass.passes.predict import predict_to_file

    written = predict_to_file(
        options.model,
        Path(options.inputs),
        Path(options.output),
        backend=options.backend,
        force=options.force,
    )
    shapes = ", ".join(f"{name} {shape}" for name, shape in written.items())
    return f"{options.output}: {shapes}"


def _compare(options: argparse.Namespace) -> str:
    from mlpass.passes.compare import compare

    comparison = compare(options.model, options.other, options.sample_data, backend=options.backend)
    return _shown(comparison, options)


def _shown(report: Any, options: argparse.Namespace) -> str:
    return json.dumps(report.to_dict(), indent=2) if options.json else str(report)


def _config(options: argparse.Namespace) -> Any:
    """Returns the config that the options describe; wrong usage ends the program with status 2."""
    from dataclasses import replace

    from mlpass.config import Config, as_config, mode_from_options

    names = (
        "target_sparsity threshold n_m_ratio block_size dim granularity scope "
        "minimum_sparsity_percentile mode"
    )
    given = {name: getattr(options, name) for name in names.split()}
    given = {name: value for name, value in given.items() if value is not None}
    if options.config is not None and given:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        options.parser.error(f"--config says it all: {flags} cannot go with it")
    if options.config is not None:
        config = as_config(options.config)
    elif not given:
        options.parser.error(
            "say what to prune: --target-sparsity, --n-m-ratio, --threshold or --config"
        )
    else:
        try:
            config = Config(global_config=mode_from_options(given))
        except ConfigError as error:
            options.parser.error(str(error))
    if options.weight_threshold is not None:
        try:
            config = replace(config, weight_threshold=options.weight_threshold)
        except ConfigError as error:
            options.parser.error(str(error))
    return config


def _ratio(text: str) -> tuple[int, int]:
    n, colon, m = text.partition(":")
    if not (colon and n.isdecimal() and m.isdecimal()):
        raise argparse.ArgumentTypeError(f"must be N:M, such as 2:4. Got {text!r}.")
    return int(n), int(m)


def _print(text: str) -> None:
    """Prints what the terminal's encoding can show, and the rest, such as odd names, escaped."""
    encoding = sys.stdout.encoding or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding))


def _fail(message: str, status: int = 1) -> int:
    print(f"mlpass: error: {' '.join(message.split())}", file=sys.stderr)
    return status


def _terminate(number: int, frame: object) -> NoReturn:
    """Ends the program by way of its clean-up, so that no half-written file stays."""
    raise SystemExit(128 + number)
