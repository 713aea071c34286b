"""What several commands have in common."""

from __future__ import annotations

import argparse
import json
from typing import Any

Subparsers = Any  # argparse gives its own type no public name

SAMPLE_HELP = """\
an .npz whose arrays have a leading sample axis, or a folder of .npz files, one a sample"""


def add_model(parser: argparse.ArgumentParser) -> None:
    """Adds the model that a command reads, and the form of what it prints."""
    parser.add_argument("model", metavar="MODEL", help="an .mlpackage")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead")


def add_running(parser: argparse.ArgumentParser) -> None:
    """Adds what a command runs models on."""
    parser.add_argument(
        "--backend",
        default="numpy",
        choices=("numpy", "torch", "coreml"),
        help="what runs the model: numpy (default), torch (the torch extra), coreml (macOS)",
    )


def shown(report: Any, options: argparse.Namespace) -> str:
    """Returns a report in the form that was asked for."""
    return json.dumps(report.to_dict(), indent=2) if options.json else str(report)
