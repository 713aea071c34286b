"""The options that say how weights are solved for on samples."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from typing import Any

from mlpass.cli.declared import declared, declared_by
from mlpass.cli.flags import Parser, add_flags, given_flags
from mlpass.cli.options import add_resume, add_samples
from mlpass.errors import ConfigError, told
from mlpass.options import Option, flag_of
from mlpass.registries import DEFAULT_METHOD, METHODS, MODES, STORAGES, taken_names


def add_calibration(parser: argparse.ArgumentParser) -> None:
    """Adds them all, as `mlpass prune` has them."""
    group = parser.add_argument_group("calibration", "solving for weights on samples")
    add_samples(parser, group, functions=True)
    add_methods(parser)
    add_flags(group, "calibration", {"": _calibration_options()})
    add_resume(group)
    group.add_argument(
        "--scheduler",
        metavar="ADDRESS",
        help="of a dask cluster, tcp://host:8786: its workers divide the samples among them",
    )


@contextmanager
def workers_of(options: argparse.Namespace) -> Iterator[Executor | None]:
    """Opens the workers that samples are divided among; None where that is not asked for.

    Raises:
        ConfigError: dask is not installed, or no scheduler answers.
    """
    if options.scheduler is None:
        yield None
        return
    if options.sample_data is None:
        options.parser.error("--scheduler: needs --sample-data")
    try:
        from distributed import Client
    except ImportError:
        raise ConfigError("--scheduler: needs dask: pip install distributed") from None
    try:
        client = Client(options.scheduler)  # type: ignore[no-untyped-call]
    except (OSError, ValueError, TimeoutError) as error:
        raise ConfigError(f"--scheduler: no dask scheduler answers: {told(error)}") from None
    with client:
        yield client.get_executor()  # type: ignore[no-untyped-call]


def add_methods(parser: argparse.ArgumentParser, *, several: bool = False) -> None:
    """Adds `--method`, and a flag for each option that a method has."""
    group = parser.add_argument_group(
        "method",
        "how weights are scored, and what is kept updated. An option whose name a mode or\n"
        "the command has as well begins with --method-",
    )
    methods = declared(METHODS)
    group.add_argument("--method", action="append" if several else "store", choices=tuple(methods))
    owners = {name: each.options for name, each in methods.items()}
    add_flags(group, "method", owners, _taken())


def add_runtime(parser: Parser, *names: str) -> None:
    """Adds those of the options that say what a model runs on."""
    options = [option for option in _calibration_options() if option.name in names]
    add_flags(parser, "calibration", {"": options})


def methods_of(options: argparse.Namespace) -> list[object]:
    """Returns the methods that the options describe; none where they say nothing of it.

    Each gets those options that it takes.

    Raises:
        ConfigError: no method takes an option, or its value is out of range.
    """
    given = given_flags(options, "method")
    named = [options.method] if isinstance(options.method, str) else options.method
    names = named or ([DEFAULT_METHOD] if given else [])
    takes = {
        name: {option.name for option in each.options} for name, each in declared(METHODS).items()
    }
    if spare := [key for key in given if not any(key in takes[name] for name in names)]:
        flags = " and ".join(flag_of("method", key, _taken()) for key in spare)
        raise ConfigError(f"--method {', '.join(names)}: does not take {flags}")
    return [
        METHODS.build(name, {key: each for key, each in given.items() if key in takes[name]})
        for name in names
    ]


def calibration_of(options: argparse.Namespace) -> dict[str, Any]:
    """Returns the arguments of `prune` that the options describe.

    Wrong usage ends the program with status 2.
    """
    from mlpass.calibrate.plain import plain_arguments

    error = options.parser.error
    given = given_flags(options, "calibration")
    try:
        method = next(iter(methods_of(options)), None)
        arguments = plain_arguments(given)
    except ConfigError as wrong:
        error(str(wrong))
    needing = [flag_of("", name) for name in given]
    needing += ["--resume"] if options.resume else []
    needing += ["--method"] if options.method not in (None, "magnitude") else []
    if options.sample_data is None and needing:
        error(f"{', '.join(needing)}: needs --sample-data")
    if options.sample_data is not None:
        arguments["sample_data"] = options.sample_data
    return {**arguments, "method": method, "resume": options.resume}


def _calibration_options() -> tuple[Option, ...]:
    return declared_by("mlpass.calibrate.calibration", "Calibration")


def _taken() -> set[str]:
    """Returns the names that a method's option cannot have alone: it then goes with "method"."""
    others = [*declared(MODES).values(), *declared(STORAGES).values()]
    return {*taken_names(), *(option.name for each in others for option in each.options)}
