"""`mlpass finetune`."""

from __future__ import annotations

import argparse

from mlpass.cli.flags import given_flags
from mlpass.cli.modes import add_modes, config_of, given_modes
from mlpass.cli.options import SAMPLE_HELP, Subparsers, add_model, shown

_FINETUNE_HELP = """\
Prune a Core ML package while it trains: it learns, from sample inputs without labels, to give what
the dense model gives. Needs the torch extra.

  mlpass finetune model.mlpackage -o out.mlpackage --sample-data x.npz \\
    --steps 500 --target-sparsity 0.75
  mlpass finetune pruned.mlpackage -o out.mlpackage --sample-data x.npz \\
    --steps 500 --dense model.mlpackage

The options of 'mlpass prune' say what becomes zero: the sparsity rises over the first half of the
steps, and what is pruned may come back until then. Without any of them, and with --dense, MODEL
keeps the zeros that it has. --quantize or --palettize rounds what was trained as it is written.
"""


def add_finetune(commands: Subparsers) -> None:
    """Adds the command."""
    finetune = commands.add_parser(
        "finetune",
        help="prune a model while it learns to give what the dense one gives",
        description=_FINETUNE_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_model(finetune)
    finetune.add_argument(
        "-o", "--output", required=True, metavar="OUT", help="the .mlpackage to write"
    )
    finetune.add_argument("--sample-data", required=True, metavar="PATH", help=SAMPLE_HELP)
    finetune.add_argument(
        "--steps", type=int, required=True, metavar="N", help="how many batches to train on"
    )
    finetune.add_argument("--dense", metavar="DENSE", help="the .mlpackage to learn from")
    add_modes(finetune)
    finetune.add_argument(
        "--batch-size", type=int, default=8, metavar="N", help="samples a batch (default: 8)"
    )
    finetune.add_argument(
        "--learning-rate", type=float, default=1e-4, metavar="R", help="of Adam (default: 1e-4)"
    )
    finetune.add_argument(
        "--seed", type=int, default=0, help="of the order of the samples (default: 0)"
    )
    finetune.add_argument("--device", help="torch's: cpu (default), mps or cuda")
    finetune.add_argument("--force", action="store_true", help="replace OUT where it exists")
    finetune.set_defaults(run=_finetune, parser=finetune)


def _finetune(options: argparse.Namespace) -> str:
    from mlpass.finetune import finetune

    said = given_modes(options) or given_flags(options, "storage")
    config = None if options.dense is not None and not said else config_of(options)
    report = finetune(
        options.model,
        options.output,
        config,
        options.sample_data,
        steps=options.steps,
        dense=options.dense,
        batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        seed=options.seed,
        device=options.device,
        force=options.force,
    )
    return shown(report, options)
