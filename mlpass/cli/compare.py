"""`mlpass compare`."""

from __future__ import annotations

import argparse

from mlpass.cli.flags import number
from mlpass.cli.options import Subparsers, add_model, add_running, add_samples, shown

_COMPARE_HELP = """\
Run two models on the same samples and tell how far OTHER is from MODEL, output by output: the
signal-to-noise ratio in dB, the largest and mean absolute difference, and how often the largest
value (or a classifier's label) is the same.

  mlpass compare model.mlpackage pruned.mlpackage --sample-data samples.npz

--locate tells where they part: for each op the error that it adds of its own, and the error that
reaches it, with the weights, attributes and types that differ there. MODEL may then be an .npz of
values by name, as another framework makes them for the one sample.
"""


def add_compare(commands: Subparsers) -> None:
    """Adds the command."""
    compare = commands.add_parser(
        "compare",
        help="how far a model's outputs are from another's",
        description=_COMPARE_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_model(compare)
    compare.add_argument("other", metavar="OTHER", help="the model to compare with it")
    add_samples(compare, required=True, functions=True)
    compare.add_argument(
        "--locate", action="store_true", help="tell which ops the difference comes from"
    )
    compare.add_argument(
        "--threshold",
        type=number,
        metavar="DB",
        help="with --locate: name the first op that is reached by less (default: 20 dB)",
    )
    add_running(compare)
    compare.set_defaults(run=_compare, parser=compare)


def _compare(options: argparse.Namespace) -> str:
    from mlpass.examine.compare import compare
    from mlpass.examine.locate import locate

    if options.threshold is not None and not options.locate:
        options.parser.error("--threshold: needs --locate")
    if options.locate:
        given = {} if options.threshold is None else {"threshold": options.threshold}
        location = locate(
            options.model,
            options.other,
            options.sample_data,
            **given,
            backend=options.backend,
        )
        return shown(location, options)
    comparison = compare(options.model, options.other, options.sample_data, backend=options.backend)
    return shown(comparison, options)
