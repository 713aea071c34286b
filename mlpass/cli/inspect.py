"""`mlpass inspect`."""

from __future__ import annotations

import argparse

from mlpass.cli.options import Subparsers, add_model, shown


def add_inspect(commands: Subparsers) -> None:
    """Adds the command."""
    inspect = commands.add_parser(
        "inspect",
        help="what is in a model, what is sparse, what each weight costs",
        description="List a model's functions and ops, and each weight's type, encoding, sparsity "
        "and stored bytes.",
    )
    add_model(inspect)
    inspect.set_defaults(run=_inspect, parser=inspect)


def _inspect(options: argparse.Namespace) -> str:
    from mlpass.examine.inspect import inspect

    return shown(inspect(options.model), options)
