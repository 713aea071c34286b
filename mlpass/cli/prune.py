"""`mlpass prune`."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from mlpass.cli.calibration import add_calibration, calibration_of, workers_of
from mlpass.cli.declared import declared_by
from mlpass.cli.flags import add_flags, given_flags, number
from mlpass.cli.modes import add_modes, config_of
from mlpass.cli.options import Subparsers, add_joint, add_model, add_output, add_raising, shown
from mlpass.options import flag_of

if TYPE_CHECKING:
    from mlpass.plan.regions import Regions

_PRUNE_HELP = """\
Prune the weights of a Core ML package and write a new package.

  mlpass prune model.mlpackage -o pruned.mlpackage --target-sparsity 0.75
  mlpass prune model.mlpackage -o pruned.mlpackage --n-m-ratio 2:4
  mlpass prune model.mlpackage -o pruned.mlpackage --config prune.yaml

One of --target-sparsity, --n-m-ratio, --threshold and --config says what becomes zero, and
--quantize, --palettize or --lossless how values are kept; either will do alone:

  --target-sparsity F                    the fraction F of each weight, smallest first
    ... --scope global|row               of all weights together, or of each output row
    ... --block-size B [--dim 0|1]       whole blocks of B neighbouring channels
    ... --granularity per_kernel         whole spatial kernels of convolutions
    ... --granularity per_channel        whole output channels
  --n-m-ratio N:M [--dim 0|1]            N ZEROS in every M neighbouring channels
  --threshold F                          every element of magnitude F or less
    ... --minimum-sparsity-percentile P  weights that would have fewer zeros are skipped
  --quantize int8|int4                   integers, with a scale for each row
    ... --quantize-block-size B          ... or for every B input channels of it
  --palettize 4 [--group-size G]         indices into a table, one for every G rows
    ... --outliers F                     the fraction F that this harms most stays as it is, apart
  --lossless                             the smallest form of the very same values

With --sample-data the model is run on the samples, layer by layer, and each weight is solved for on
the activations that the layers pruned before it produce:

  mlpass prune model.mlpackage -o pruned.mlpackage --target-sparsity 0.5 --sample-data samples.npz
    ... --method sparsegpt               the default; magnitude, wanda and admm (slower, best)
    ... --method admm --iterations 30    a method's own options
    ... --allocate error                 layers that bear it lose more, at the same total
    ... --scheduler tcp://host:8786      samples divided among the workers of a dask cluster

With --tune (torch extra) what was solved for is trained, one stretch of the program after another,
to give what MODEL has at the end of each; 'mlpass tune' does that alone. Its options begin with
--tune- here:

  mlpass prune model.mlpackage -o pruned.mlpackage --n-m-ratio 2:4 --sample-data samples.npz --tune
    ... --tune-epochs 8 --tune-learning-rate 1e-3

With a budget each weight gets the mode and the storage that cost the outputs least, all together no
more than it; neither mode nor storage need be given, and --config may name weights to be fixed, or
(null) left as they are:

  mlpass prune model.mlpackage -o small.mlpackage --max-size 0.25x --sample-data samples.npz
  mlpass prune model.mlpackage -o small.mlpackage --bits 3.0 --sample-data samples.npz

From 8 samples on some are kept back, and judge the division beside one form for all weights: the
better of the two is written. Large constants of few values, such as an attention mask, are stored
exactly in fewer bytes.

iOS16 and 17 have int8 and uint8 by row, and one table a weight (--group-size 0, not 3 bits), all
without zeros; iOS18 has all forms. --minimum-deployment-target iOS18 raises an older package first.

Sparse weights get more zeros, or a storage for what they keep. Weights that are quantized or
palettized already are skipped; --joint-compression prunes them, too: scales and tables stay, and
zeros are kept in a mask beside the codes (iOS18). With a storage they are rounded to it anew:

  mlpass prune compressed.mlpackage -o out.mlpackage --target-sparsity 0.5 --joint-compression
    ... --sample-data samples.npz        solved for, towards what the compressed weights give
    ... --quantize int4                  whatever they were stored as

Of an ExecuTorch .pte all Core ML models are pruned, or the one that is named. Samples and budgets
are for one: where there are several, name it. What is written is a .pte with
everything else as it was, or the package alone:

  mlpass prune model.pte -o pruned.pte --target-sparsity 0.5 --sample-data samples.npz
  mlpass prune model.pte/forward/0 -o out.mlpackage --target-sparsity 0.5

Packages that run one after another, as those of a large language model do, are given together, with
an OUT for each. What one makes is what the next takes, by name, and samples are for the first:

  mlpass prune a.mlpackage b.mlpackage -o a2.mlpackage -o b2.mlpackage --bits 4 --sample-data talks

If such a run dies, the same command with --resume goes on from its last finished layer.

Otherwise only weights are touched (of conv, conv_transpose, linear, matmul, einsum, gather, lstm,
gru and rnn). What is skipped is listed with its reason. A weight is stored sparse where that is
smaller.
"""


def add_prune(commands: Subparsers) -> None:
    """Adds the command."""
    prune = commands.add_parser(
        "prune",
        help="prune a model's weights, write a new package",
        description=_PRUNE_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_model(prune, several=True)
    add_output(prune, several=True)
    add_modes(prune)
    group = prune.add_argument_group("a budget for all weights")
    group.add_argument(
        "--max-size",
        metavar="SIZE",
        help="of the weight files: bytes, 3.5MB, or 0.25x of what they take",
    )
    group.add_argument(
        "--bits", type=number, metavar="F", help="the same, as stored bits of each element"
    )
    add_calibration(prune)
    add_raising(prune)
    add_joint(prune)
    group = prune.add_argument_group("tuning", "region by region, as 'mlpass tune' does it")
    group.add_argument(
        "--tune", action="store_true", help="then tune it towards MODEL (torch extra)"
    )
    regions = declared_by("mlpass.plan.regions", "Regions")
    add_flags(group, "tune", {"": regions}, {option.name for option in regions})
    prune.set_defaults(run=_prune, parser=prune)


def _prune(options: argparse.Namespace) -> str:
    from mlpass.pruning.prune import prune

    tune = _tune_of(options)
    within = options.max_size is not None or options.bits is not None
    config = config_of(options, budget=within)
    calibration = calibration_of(options)
    if len(options.model) != len(options.output):
        options.parser.error(
            f"-o: name an OUT for each MODEL. Got {len(options.output)} for {len(options.model)}."
        )
    alone = len(options.model) == 1
    with workers_of(options) as executor:
        report = prune(
            options.model[0] if alone else options.model,
            options.output[0] if alone else options.output,
            config,
            minimum_deployment_target=options.minimum_deployment_target,
            joint_compression=options.joint_compression,
            budget=options.max_size,
            bits=options.bits,
            tune=tune,
            force=options.force,
            executor=executor,
            **calibration,
        )
    return shown(report, options)


def _tune_of(options: argparse.Namespace) -> Regions | None:
    """Returns how regions are tuned, None where they are not; wrong usage ends with status 2."""
    from mlpass.plan.regions import Regions

    given = given_flags(options, "tune")
    if given and not options.tune:
        flags = ", ".join(flag_of("tune", name, given) for name in given)
        options.parser.error(f"{flags}: needs --tune")
    return Regions(**given) if options.tune else None
