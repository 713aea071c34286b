"""The options that say what becomes zero and how values are kept: a config, in flags."""

from __future__ import annotations

import argparse
from typing import Any

from mlpass.cli.declared import declared, declared_by
from mlpass.cli.flags import add_flags, given_flags
from mlpass.cli.storages import add_storages, storage_of
from mlpass.errors import ConfigError
from mlpass.options import flag_of
from mlpass.registries import MODES, taken_names

_CONFIG_HELP = """\
YAML with global_config, op_type_configs, op_name_configs (null leaves a weight alone; names may be
globs); coremltools' own files are read as they are"""


def add_modes(parser: argparse.ArgumentParser) -> None:
    """Adds them."""
    group = parser.add_argument_group("what becomes zero")
    modes = declared(MODES)
    add_flags(group, "mode", {name: each.options for name, each in modes.items()}, taken_names())
    words = [each.words["granularity"] for each in modes.values() if "granularity" in each.words]
    group.add_argument(
        "--granularity", choices=tuple(dict.fromkeys(words)), help="what goes as one"
    )
    group.add_argument(
        "--mode",
        type=str.lower,
        choices=tuple(modes),
        help="the mode by its name, where the options above leave it open",
    )
    group.add_argument("--config", metavar="FILE.yaml", help=_CONFIG_HELP)
    add_flags(group, "config", {"": declared_by("mlpass.plan.config", "Config")})
    add_storages(parser)


def config_of(options: argparse.Namespace, *, budget: bool = False) -> Any:
    """Returns the config that the options describe; wrong usage ends the program with status 2.

    Args:
        options: of the command line.
        budget: whether there is one, so that nothing else need be said.
    """
    from dataclasses import replace

    from mlpass.plan.config import Config, as_config, configured
    from mlpass.plan.mode_options import mode_from_options

    storage, given = storage_of(options), given_modes(options)
    given.pop("config", None)
    if options.config is not None and given:
        flags = ", ".join(flag_of("mode", name, taken_names() - set(_WORDS)) for name in given)
        options.parser.error(f"--config and {flags} do not go together; put it all in the file")
    if options.config is None and not given and storage is None and not budget:
        within = ""
        if hasattr(options, "max_size"):
            within = "; or what all may take: --max-size or --bits"
        options.parser.error(
            "say what to prune: --target-sparsity, --n-m-ratio, --threshold or --config; or how to "
            f"keep what is there: --quantize, --palettize or --lossless{within}"
        )
    config = Config() if storage is None else None
    if options.config is not None:
        config = as_config(options.config)
    try:
        if given:
            config = Config(global_config=mode_from_options(given))
        return replace(configured(config, storage), **given_flags(options, "config"))
    except ConfigError as error:
        options.parser.error(str(error))


_WORDS = ("granularity", "mode", "config")


def given_modes(options: argparse.Namespace) -> dict[str, object]:
    """Returns the options that were given of those that say what becomes zero."""
    words = {name: getattr(options, name) for name in _WORDS}
    given = {name: value for name, value in words.items() if value is not None}
    return given_flags(options, "mode") | given
