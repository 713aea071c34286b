"""`mlpass finetune`."""

from __future__ import annotations

import argparse

from mlpass.cli.calibration import add_runtime
from mlpass.cli.declared import declared_by
from mlpass.cli.flags import add_flags, given_flags
from mlpass.cli.modes import add_modes, config_of, given_modes
from mlpass.cli.options import (
    Subparsers,
    add_dense,
    add_model,
    add_output,
    add_raising,
    add_samples,
    shown,
)
from mlpass.options import flag_of

_FINETUNE_HELP = """\
Prune a Core ML package while it trains: it learns, from sample inputs without labels, to give what
the dense model gives. Or polish one that is compressed already. Needs the torch extra.

  mlpass finetune model.mlpackage -o out.mlpackage --sample-data x.npz \\
    --steps 500 --target-sparsity 0.75
  mlpass finetune compressed.mlpackage -o out.mlpackage --sample-data x.npz \\
    --steps 500 --dense model.mlpackage

The options of 'mlpass prune' say what becomes zero: the sparsity rises over the first half of the
steps, and what is pruned may come back until then. --quantize or --palettize rounds what was
trained as it is written.

Without any of them, and with --dense, MODEL keeps its forms and bytes: masks and codes stay, kept
values, scales, tables, biases and gains train. Samples that are held out choose the step to keep,
so it comes out no worse on them.
"""

# Of the options of a polish, those that training with a rising sparsity has as well.
_SHARED = frozenset({"steps", "batch_size", "learning_rate", "seed"})


def add_finetune(commands: Subparsers) -> None:
    """Adds the command."""
    finetune = commands.add_parser(
        "finetune",
        help="prune a model while it learns to give what the dense one gives",
        description=_FINETUNE_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_model(finetune)
    add_output(finetune)
    add_samples(finetune, required=True, functions=True)
    add_dense(finetune)
    add_modes(finetune)
    add_flags(finetune, "polish", {"": declared_by("mlpass.plan.polish", "Polish")})
    add_raising(finetune)
    add_runtime(finetune, "device")
    finetune.set_defaults(run=_finetune, parser=finetune)


def _finetune(options: argparse.Namespace) -> str:
    from mlpass.finetune import Polish, finetune, polish

    given = given_flags(options, "polish")
    if "steps" not in given:
        options.parser.error("--steps: say how many batches to train on")
    places = {**given_flags(options, "calibration"), "force": options.force}
    model, output, samples, dense = (
        options.model,
        options.output,
        options.sample_data,
        options.dense,
    )
    target = options.minimum_deployment_target
    if dense is not None and not given_modes(options) and not given_flags(options, "storage"):
        if target is not None:
            options.parser.error(
                "--minimum-deployment-target: a polish keeps the forms of MODEL; raise it by "
                "'mlpass prune' where it is compressed"
            )
        return shown(polish(model, output, dense, samples, Polish(**given), **places), options)
    config = config_of(options)
    if spare := sorted(given.keys() - _SHARED):
        flags = ", ".join(flag_of("polish", name) for name in spare)
        options.parser.error(f"{flags}: for a polish, so not with options that say what to prune")
    places["minimum_deployment_target"] = target
    report = finetune(model, output, config, samples, dense=dense, **given, **places)
    return shown(report, options)
