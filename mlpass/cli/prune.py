"""`mlpass prune`."""

from __future__ import annotations

import argparse
from typing import Any

from mlpass.cli.modes import add_modes, config_of
from mlpass.cli.options import SAMPLE_HELP, Subparsers, add_model, shown
from mlpass.errors import ConfigError

_PRUNE_HELP = """\
Prune the weights of a Core ML package and write a new package.

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

With --sample-data the model is run on the samples, layer by layer, and each weight is solved for on
the activations that the layers pruned before it produce:

  mlpass prune model.mlpackage -o pruned.mlpackage --target-sparsity 0.5 --sample-data samples.npz
    ... --method sparsegpt               the default; magnitude, wanda and admm (slower, best)
    ... --quantize int4 | --palettize 4  in the same solve (iOS18 models)
    ... --allocate error                 layers that bear it lose more, at the same total

If such a run dies, the same command with --resume goes on from its last finished layer.

Only weights are touched (of conv, conv_transpose, linear, matmul, einsum, gather, lstm, gru and
rnn). What is skipped is listed with its reason. A weight is stored sparse where that is smaller.
"""

_METHODS = {"magnitude": "Magnitude", "wanda": "Wanda", "sparsegpt": "SparseGPT", "admm": "ADMM"}


def add_prune(commands: Subparsers) -> None:
    """Adds the command."""
    prune = commands.add_parser(
        "prune",
        help="prune a model's weights, write a new package",
        description=_PRUNE_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_model(prune)
    prune.add_argument(
        "-o", "--output", required=True, metavar="OUT", help="the .mlpackage to write"
    )
    add_modes(prune)
    _add_calibration(prune)
    prune.add_argument("--force", action="store_true", help="replace OUT where it exists")
    prune.set_defaults(run=_prune, parser=prune)


def _add_calibration(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("calibration", "solving for weights on samples")
    group.add_argument("--sample-data", metavar="PATH", help=SAMPLE_HELP)
    group.add_argument("--method", choices=tuple(_METHODS))
    group.add_argument(
        "--refit", action="store_true", help="solve for the kept weights once the mask is known"
    )
    group.add_argument(
        "--dampening",
        type=float,
        metavar="F",
        help="fraction of the mean diagonal that is added to a Gram (default: 0.01)",
    )
    group.add_argument("--quantize", choices=("int8", "int4", "uint8", "uint4"))
    group.add_argument(
        "--quantize-block-size",
        type=int,
        metavar="B",
        help="input channels that share a scale (default: all of a row)",
    )
    group.add_argument("--palettize", type=int, choices=(4,), help="bits of a k-means table")
    group.add_argument(
        "--allocate",
        choices=("uniform", "owl", "error"),
        help="how the target sparsity is divided among layers (default: uniform)",
    )
    group.add_argument(
        "--max-nbytes",
        type=int,
        metavar="N",
        help="with --allocate error: what the pruned weights may take, in place of the target",
    )
    group.add_argument(
        "--propagate",
        choices=("pruned", "dense"),
        help="what a layer meets: the outputs of pruned layers (default), or of dense ones",
    )
    group.add_argument(
        "--fallback",
        choices=("skip", "magnitude"),
        help="what becomes of a weight that no sample reaches (default: skip)",
    )
    group.add_argument(
        "--memory-budget",
        type=int,
        metavar="BYTES",
        help="activations beyond that go to temporary files (default: 2 GiB)",
    )
    group.add_argument("--backend", choices=("numpy", "torch"), help="what runs the model")
    group.add_argument("--device", metavar="NAME", help="torch's: cpu, mps or cuda")
    group.add_argument(
        "--function-name", metavar="NAME", help="the function that the samples are for"
    )
    group.add_argument(
        "--resume", action="store_true", help="go on with what a run that died had finished"
    )


def _prune(options: argparse.Namespace) -> str:
    from mlpass.pruning.prune import prune

    config = config_of(options)
    calibration = _calibration(options)
    report = prune(options.model, options.output, config, force=options.force, **calibration)
    return shown(report, options)


def _calibration(options: argparse.Namespace) -> dict[str, Any]:
    """Returns the arguments of `prune` that the options of the calibration group describe."""
    from mlpass import Quantization

    names = (
        "sample_data palettize allocate max_nbytes propagate fallback memory_budget backend device "
        "function_name"
    )
    given = {name: getattr(options, name) for name in names.split()}
    given = {name: value for name, value in given.items() if value is not None}
    try:
        given["method"] = _method(options)
        if options.quantize is not None:
            given["quantize"] = Quantization(options.quantize, options.quantize_block_size)
    except ConfigError as error:
        options.parser.error(str(error))
    needing = [name for name in given if name not in ("sample_data", "method")]
    needing += ["method"] if options.method not in (None, "magnitude") else []
    if options.sample_data is None and needing:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in needing)
        options.parser.error(f"{flags}: needs --sample-data")
    if options.quantize_block_size is not None and options.quantize is None:
        options.parser.error("--quantize-block-size: needs --quantize")
    return {**given, "resume": options.resume}


def _method(options: argparse.Namespace) -> Any:
    """Returns the method that the options describe, None where they say nothing of it."""
    from importlib import import_module

    if options.method is None and not options.refit and options.dampening is None:
        return None
    kind = getattr(import_module("mlpass"), _METHODS[options.method or "sparsegpt"])
    given = {}
    if options.refit:
        given["refit"] = True
    if options.dampening is not None:
        given["dampening"] = options.dampening
    try:
        return kind(**given)
    except TypeError:
        flags = " and ".join(f"--{name}" for name in given)
        raise ConfigError(f"--method {options.method}: does not take {flags}") from None
