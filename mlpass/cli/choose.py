"""`mlpass choose`."""

from __future__ import annotations

import argparse
from dataclasses import replace

from mlpass.cli.calibration import add_runtime
from mlpass.cli.flags import given_flags, number
from mlpass.cli.options import (
    Subparsers,
    add_joint,
    add_judging,
    add_model,
    add_output,
    add_processor,
    add_raising,
    add_samples,
    load_function,
    print_text,
    shown,
)
from mlpass.errors import TargetError

_CHOOSE_HELP = """\
Say what the model must be; get a pruned model that is so, or the reason why it cannot be had.

  mlpass choose model.mlpackage --sample-data samples.npz --max-size 0.4x -o out.mlpackage
  mlpass choose model.mlpackage --sample-data samples.npz --min-snr 25 -o out.mlpackage
  mlpass choose model.mlpackage --sample-data samples.npz --max-size 3MB --min-accuracy 0.70 \\
      --evaluate accuracy.py:top1 -o out.mlpackage

It climbs from zeros by magnitude (seconds) to storages without zeros (int8, palettes, int4; the
best of them on samples), SparseGPT, ADMM, a form for each weight within the size, and fine-tuning
(the torch extra), and tells what each step gave, and which are worse than zeros, or than int8
without samples at no fewer bytes. It solves on three quarters of the samples and judges by the
quarter that it keeps back, where there are 8 or more; with --test-data it solves on all, and judges
by that. With a size and a quality it stops at the first
step that holds both.
With a size alone it climbs to the end and picks the best outputs; with a quality alone, the
smallest model. --up-to sparsegpt ends the climb earlier. Where nothing holds the target, nothing is
written, and the exit status is 1.

Of a model in an ExecuTorch .pte, sizes are those of the .pte, with all that it holds besides, where
OUT is a .pte, and of the model's package by itself where OUT is an .mlpackage.
"""


def add_choose(commands: Subparsers) -> None:
    """Adds the command."""
    choose = commands.add_parser(
        "choose",
        help="find the pruned model that holds a size or a quality",
        description=_CHOOSE_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_model(choose)
    add_samples(choose, required=True, functions=True)
    add_output(choose)
    choose.add_argument(
        "--max-size", metavar="SIZE", help="of all that is written: bytes, 3.5MB, or 0.4x of MODEL"
    )
    choose.add_argument("--min-snr", type=number, metavar="DB", help="of the worst output")
    choose.add_argument(
        "--min-accuracy", type=number, metavar="F", help="that --evaluate must give at least"
    )
    add_judging(choose)
    choose.add_argument(
        "--up-to",
        choices=("data-free", "storages", "sparsegpt", "admm", "budget", "fine-tuning"),
        default="fine-tuning",
        help="the last step to try (default: fine-tuning)",
    )
    choose.add_argument(
        "--finetune-steps", type=int, default=200, metavar="N", help="batches (default: 200)"
    )
    add_runtime(choose, "backend", "function_name")
    add_raising(choose)
    add_joint(choose)
    add_processor(choose, "what it is for: forms that this takes badly are told, and weighed")
    choose.set_defaults(run=_choose, parser=choose)


def _choose(options: argparse.Namespace) -> str:
    from mlpass.study.choose import choose

    if options.max_size is None and options.min_snr is None and options.min_accuracy is None:
        options.parser.error("say what it must be: --max-size, --min-snr or --min-accuracy")
    if options.min_accuracy is not None and options.evaluate is None:
        options.parser.error("--min-accuracy: needs --evaluate, which measures it")
    choice = choose(
        options.model,
        options.output,
        sample_data=options.sample_data,
        max_size=options.max_size,
        min_snr=options.min_snr,
        min_accuracy=options.min_accuracy,
        evaluate=load_function("--evaluate", options.evaluate),
        test_data=options.test_data,
        up_to=options.up_to,
        finetune_steps=options.finetune_steps,
        **given_flags(options, "calibration"),
        minimum_deployment_target=options.minimum_deployment_target,
        joint_compression=options.joint_compression,
        processor=options.processor,
        force=options.force,
    )
    if choice.picked is None:
        told = choice if options.json else replace(choice, reason="")  # that is the error's text
        print_text(shown(told, options), options.out)
        raise TargetError(": ".join(filter(None, [choice.reason, choice.failed])))
    return shown(choice, options)
