"""`mlpass check`."""

from __future__ import annotations

import argparse

from mlpass.cli.options import Subparsers, add_model, add_processor, add_running, add_samples, shown
from mlpass.errors import MlpassError

_CHECK_HELP = """\
Tell what will go wrong with a model before it is shipped, each with the op that it comes from, the
cure, and where that is known from:

  with --sample-data, values that fp16 cannot hold, sums on the way that it cannot, values that it
  makes 0 where the outputs tell, and values that are not numbers; always, fp32 that the Neural
  Engine does not run, arrays of too many axes, files past known limits, weights that nothing reads
  or that are stored twice, and an estimate of relative latency, by published peaks

  mlpass check model.mlpackage --sample-data samples.npz
  mlpass check model.mlpackage --sample-data samples.npz --for ane --strict
"""


def add_check(commands: Subparsers) -> None:
    """Adds the command."""
    check = commands.add_parser(
        "check",
        help="what will go wrong with a model, with the op and the cure",
        description=_CHECK_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_model(check)
    add_samples(check, functions=True)
    add_processor(
        check, "leave out what is about other processors than the Neural Engine, CPU or GPU"
    )
    check.add_argument(
        "--strict", action="store_true", help="end with status 1 where an error or warning is found"
    )
    add_running(check)
    check.set_defaults(run=_check, parser=check)


def _check(options: argparse.Namespace) -> str:
    from mlpass.cli.options import print_text
    from mlpass.examine.check import check

    found = check(
        options.model,
        options.sample_data,
        processor=options.processor,
        backend=options.backend,
    )
    text = shown(found, options)
    bad = found.count("error") + found.count("warning")
    if options.strict and bad:
        print_text(text, options.out)
        raise MlpassError(f"strict: {bad} errors and warnings were found")
    return text
