"""`mlpass sweep`."""

from __future__ import annotations

import argparse

from mlpass.cli.calibration import add_methods, add_runtime, methods_of
from mlpass.cli.flags import given_flags
from mlpass.cli.options import (
    Subparsers,
    add_joint,
    add_judging,
    add_model,
    add_output,
    add_processor,
    add_raising,
    add_resume,
    add_samples,
    load_function,
    print_text,
    shown,
)
from mlpass.cli.storages import add_storages, storage_of
from mlpass.errors import ConfigError, TargetError, visible

_SWEEP_HELP = """\
Try many ways to prune a model, and show what each does to its size, its outputs, its layers and, on
macOS, its speed.

  mlpass sweep model.mlpackage --sample-data samples.npz -o report.html

Without more it races the whole space, from half the size to 0.15 of it: int8, int4, palettes, zeros
and both, without data; those of most promise solved on the samples; and sizes that are divided
among the weights. A few dozen real inputs are enough. What the model's op set has no form for is
left out: --minimum-deployment-target iOS18 opens all. Of 8 or more samples a quarter is kept back
to judge by; with --test-data that judges, and all are solved on. The table marks what is worse than
zeros, or than int8 without samples at no fewer bytes. report.html is one file to open, send and
keep; a name that ends in .json gets only the figures.

  --method sparsegpt                     all forms by this method; may be given several times
  --quantize int8                        twenty patterns of zeros, each in this storage
  --configs grid.yaml                    your own configs:

      - {target_sparsity: 0.5}
      - {n_m_ratio: [2, 4], method: admm, iterations: 30}
      - {target_sparsity: 0.5, palettize: 4, group_size: 8}
      - name: careful
        global_config: {target_sparsity: 0.75}
        op_type_configs: {linear: null}
        method: admm

  --evaluate accuracy.py:top1            your own measure: a function that is given the path of a
                                         package and returns a number, the higher the better

A config that fails is a row with its reason; where all do, the exit status is 1.

If a sweep dies, the same command with --resume goes on with the configs that are left.
"""


def add_sweep(commands: Subparsers) -> None:
    """Adds the command."""
    sweep = commands.add_parser(
        "sweep",
        help="try many configs, write a report with pictures",
        description=_SWEEP_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_model(sweep)
    add_samples(sweep, functions=True)
    add_judging(sweep)
    add_output(sweep, "REPORT", "the .html or .json to write", required=False)
    sweep.add_argument("--configs", metavar="GRID.yaml", help="a list of configs")
    sweep.add_argument("--weight", metavar="NAME", help="whose pattern to show (default: largest)")
    sweep.add_argument(
        "--jobs", type=_count, metavar="N", help="processes (default: one a core; 1 for none)"
    )
    add_runtime(sweep, "backend", "function_name")
    add_raising(sweep)
    add_joint(sweep)
    add_processor(sweep, "what it is for: forms that this takes badly are told, and weighed")
    add_resume(sweep)
    add_methods(sweep, several=True)
    add_storages(sweep)
    sweep.set_defaults(run=_sweep, parser=sweep)


def _sweep(options: argparse.Namespace) -> str:
    from mlpass.study.sweep import sweep

    if options.resume and options.output is None:
        options.parser.error("--resume: needs the -o of the sweep that died")
    if (options.method or given_flags(options, "method")) and options.sample_data is None:
        options.parser.error("--method: needs --sample-data")
    try:
        methods = methods_of(options)
    except ConfigError as error:
        options.parser.error(str(error))
    report = sweep(
        options.model,
        options.sample_data,
        options.configs,
        method=methods or None,
        storage=storage_of(options),
        evaluate=load_function("--evaluate", options.evaluate),
        test_data=options.test_data,
        output=options.output,
        resume=options.resume,
        force=options.force,
        jobs=options.jobs,
        **given_flags(options, "calibration"),
        minimum_deployment_target=options.minimum_deployment_target,
        joint_compression=options.joint_compression,
        processor=options.processor,
        weight=options.weight,
        command=options.command,
    )
    written = (
        "" if options.output is None or options.json else f"\n{visible(options.output)}: written"
    )
    if report.failed is not None:
        print_text(shown(report, options) + written, options.out)
        raise TargetError(
            f"not one of {len(report.trials)} configs could be tried: {report.failed}"
        )
    return shown(report, options) + written


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more. Got {text!r}.")
    return int(text)
