"""`mlpass tune`."""

from __future__ import annotations

import argparse

from mlpass.cli.calibration import add_runtime
from mlpass.cli.declared import declared_by
from mlpass.cli.flags import add_flags, given_flags
from mlpass.cli.options import (
    Subparsers,
    add_dense,
    add_model,
    add_output,
    add_resume,
    add_samples,
    shown,
)

_TUNE_HELP = """\
Tune a compressed Core ML package, one stretch of its program after another, towards what the dense
model has at the end of each. Needs the torch extra.

  mlpass tune compressed.mlpackage -o out.mlpackage --sample-data x.npz --dense model.mlpackage

MODEL keeps its forms and bytes: masks and codes stay; kept values, scales, tables, biases and gains
train. The program is cut where few values cross, as at the end of a block, so that no more than one
region is held at a time. A region that comes no nearer on samples that are held out keeps what it
had. 'mlpass finetune' then polishes all of it, where the memory is there. Of samples for several
functions, as prefill and decode on one state, a region trains on those of all that read it.

If such a run dies, the same command with --resume goes on from its last finished region.
"""


def add_tune(commands: Subparsers) -> None:
    """Adds the command."""
    tune = commands.add_parser(
        "tune",
        help="tune a compressed model region by region towards the dense one",
        description=_TUNE_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_model(tune)
    add_output(tune)
    add_samples(tune, required=True, functions=True)
    add_dense(tune, required=True)
    add_flags(tune, "regions", {"": declared_by("mlpass.plan.regions", "Regions")})
    add_runtime(tune, "memory_budget", "device", "function_name")
    add_resume(tune)
    tune.set_defaults(run=_tune, parser=tune)


def _tune(options: argparse.Namespace) -> str:
    from mlpass.finetune import Regions, tune

    report = tune(
        options.model,
        options.output,
        options.dense,
        options.sample_data,
        Regions(**given_flags(options, "regions")),
        **given_flags(options, "calibration"),
        force=options.force,
        resume=options.resume,
    )
    return shown(report, options)
