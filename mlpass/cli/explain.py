"""`mlpass explain`."""

from __future__ import annotations

import argparse

from mlpass.cli.options import Subparsers, add_model, add_processor, shown

_EXPLAIN_HELP = """\
Tell what each weight is stored as and in how many bits, the least that the very same values would
take, and what looks wrong, with the command that mends it:

  floats beside a mask where quantization was meant; masks that cost more than they save; weights
  that cannot be made smaller, and why; forms that need iOS18; what the Neural Engine, the CPU and
  the GPU make of it

  mlpass explain model.mlpackage
  mlpass explain model.mlpackage --for ane
  mlpass prune model.mlpackage -o smaller.mlpackage --lossless     what it often ends with
"""


def add_explain(commands: Subparsers) -> None:
    """Adds the command."""
    explain = commands.add_parser(
        "explain",
        help="how each weight is stored, what that costs, what looks wrong, with the cure",
        description=_EXPLAIN_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_model(explain)
    add_processor(
        explain,
        "the processor that facts are shown of: the Neural Engine, CPU or GPU; without it all",
    )
    explain.set_defaults(run=_explain, parser=explain)


def _explain(options: argparse.Namespace) -> str:
    from mlpass.examine.explain import explain

    return shown(explain(options.model, processor=options.processor), options)
