"""Flags made from declared options, and what a user gave of them."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import MISSING
from typing import Any

from mlpass.cli.declared import UNREAD
from mlpass.errors import ConfigError
from mlpass.options import Option, flag_of

Parser = Any  # a parser or one of its groups; argparse gives the type no public name

_METAVARS = {"float": "F", "int": "N", "str": "NAME"}


def add_flags(
    parser: Parser,
    what: str,
    owners: Mapping[str, Sequence[Option]],
    taken: Collection[str] = (),
) -> None:
    """Adds a flag for each name that options go by; several classes may have one of that name.

    Args:
        parser: that gets them.
        what: they belong to, such as "mode": it goes before a name that is taken.
        owners: the options of each class by its name.
        taken: names that other options have.
    """
    found: dict[str, dict[str, Option]] = {}
    for owner, options in owners.items():
        for option in options:
            found.setdefault(option.name, {})[owner] = option
    for name, by_owner in found.items():
        suffix = "" if len(owners) == 1 else f" ({', '.join(by_owner)})"
        add_flag(parser, flag_of(what, name, taken), f"{what}:{name}", [*by_owner.values()], suffix)


def add_flag(
    parser: Parser, flag: str, dest: str, options: Sequence[Option], suffix: str = ""
) -> None:
    """Adds one flag."""
    first = options[0].parts[0]
    text = _help(options) + suffix
    settings: dict[str, object] = {"dest": dest, "help": text.replace("%", "%%"), "default": None}
    kinds = {tuple(part.kind for part in option.parts) for option in options}
    if len(kinds) > 1:
        settings |= {"type": _loose, "metavar": "VALUE"}
    elif len(options[0].parts) > 1:
        settings |= {"type": _joined(options[0]), "metavar": options[0].form}
    elif first.kind == "bool":
        on = all(option.parts[0].default is True for option in options)
        settings["action"] = argparse.BooleanOptionalAction if on else "store_true"
    else:
        settings["type"] = {"float": number, "int": int}.get(first.kind, str)
        choices = [option.parts[0].rule.choices for option in options]
        if all(each is not None for each in choices):
            settings["choices"] = tuple(
                dict.fromkeys(each for some in choices for each in some or ())
            )
        else:
            settings["metavar"] = _METAVARS.get(first.kind, "VALUE")
    parser.add_argument(flag, **settings)


def given_flags(options: argparse.Namespace, what: str) -> dict[str, Any]:
    """Returns the options of `what` that were given, by name."""
    start = f"{what}:"
    return {
        dest.removeprefix(start): value
        for dest, value in vars(options).items()
        if dest.startswith(start) and value is not None
    }


def _help(options: Sequence[Option]) -> str:
    """Returns what a flag does, what it must be, and its default where that is but one."""
    part = options[0].parts[0]
    text = options[0].help
    if part.kind in ("float", "int") and part.rule.choices is None and len(options[0].parts) == 1:
        text = f"{text}; {part.range}" if text else part.range
    defaults = {str(option.parts[0].default): option.parts[0].default for option in options}
    (default,) = defaults.values() if len(defaults) == 1 else (None,)
    hidden = default is None or default is False or default is MISSING or default is UNREAD
    return text if hidden else f"{text} (default: {default})"


def number(text: str) -> float:
    """Returns the number that a text is; asks for it where it is in percent or has a comma."""
    try:
        return float(text)
    except ValueError:
        found = re.fullmatch(r"\s*([0-9]*[.,]?[0-9]+)\s*(%?)\s*", text)
    asked = ""
    if found is not None:
        meant = float(found[1].replace(",", ".")) / (100 if found[2] else 1)
        asked = f" Did you mean {meant:g}?"
    raise argparse.ArgumentTypeError(f"must be a number. Got {text!r}.{asked}")


def _joined(option: Option) -> Callable[[str], object]:
    example = ":".join(str(2 * (place + 1)) for place in range(len(option.parts)))

    def parse(text: str) -> object:
        try:
            return option.parse(text)
        except ConfigError:
            raise argparse.ArgumentTypeError(
                f"must be {option.form}, such as {example}. Got {text!r}."
            ) from None

    return parse


def _loose(text: str) -> object:
    """Returns a number where the text is one: classes differ in what they take."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
