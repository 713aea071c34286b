"""The options that say what becomes zero, which `prune` and `finetune` have in common."""

from __future__ import annotations

import argparse
from typing import Any

from mlpass.errors import ConfigError

_CONFIG_HELP = """\
YAML with global_config, op_type_configs, op_name_configs (null leaves a weight alone; names may be
globs); coremltools' own files are read as they are"""


def add_modes(parser: argparse.ArgumentParser) -> None:
    """Adds them."""
    parser.add_argument("--target-sparsity", type=float, metavar="F", help="0 to 1")
    parser.add_argument("--threshold", type=float, metavar="F", help="0 or more")
    parser.add_argument("--n-m-ratio", type=_ratio, metavar="N:M", help="N zeros in every M")
    parser.add_argument("--block-size", type=int, metavar="B", help="2 or more")
    parser.add_argument(
        "--dim", type=int, choices=(0, 1), help="0: along output channels, 1: input channels"
    )
    parser.add_argument("--granularity", choices=("per_scalar", "per_kernel", "per_channel"))
    parser.add_argument("--scope", choices=("weight", "row", "global"))
    parser.add_argument("--minimum-sparsity-percentile", type=float, metavar="P", help="0 to 1")
    parser.add_argument(
        "--mode",
        type=str.lower,
        choices=("threshold", "percentile", "nm", "block", "kernel", "channel"),
        help="the mode by its name, where the options above leave it open",
    )
    parser.add_argument("--config", metavar="FILE.yaml", help=_CONFIG_HELP)
    parser.add_argument(
        "--weight-threshold",
        type=int,
        metavar="N",
        help="skip weights of N elements or fewer (default: 2048)",
    )


def config_of(options: argparse.Namespace) -> Any:
    """Returns the config that the options describe; wrong usage ends the program with status 2."""
    from dataclasses import replace

    from mlpass.plan.config import Config, as_config, mode_from_options

    given = given_modes(options)
    given.pop("config", None)
    if options.config is not None and given:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        options.parser.error(f"--config says it all: {flags} cannot go with it")
    if options.config is not None:
        config = as_config(options.config)
    elif not given:
        options.parser.error(
            "say what to prune: --target-sparsity, --n-m-ratio, --threshold or --config"
        )
    else:
        try:
            config = Config(global_config=mode_from_options(given))
        except ConfigError as error:
            options.parser.error(str(error))
    if options.weight_threshold is not None:
        try:
            config = replace(config, weight_threshold=options.weight_threshold)
        except ConfigError as error:
            options.parser.error(str(error))
    return config


def given_modes(options: argparse.Namespace) -> dict[str, Any]:
    """Returns the options that were given of those that say what becomes zero."""
    names = (
        "target_sparsity threshold n_m_ratio block_size dim granularity scope "
        "minimum_sparsity_percentile mode config"
    )
    given = {name: getattr(options, name) for name in names.split()}
    return {name: value for name, value in given.items() if value is not None}


def _ratio(text: str) -> tuple[int, int]:
    n, colon, m = text.partition(":")
    if not (colon and n.isdecimal() and m.isdecimal()):
        raise argparse.ArgumentTypeError(f"must be N:M, such as 2:4. Got {text!r}.")
    return int(n), int(m)
