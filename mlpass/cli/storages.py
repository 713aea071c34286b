"""The options that say how values are kept, of `prune`, `finetune` and `sweep`."""

from __future__ import annotations

import argparse
import re
from typing import Any

from mlpass.cli.declared import declared
from mlpass.cli.flags import add_flag, given_flags
from mlpass.errors import ConfigError
from mlpass.options import Option, flag_of
from mlpass.registries import MODES, STORAGES, taken_names
from mlpass.storage.words import words_of


def add_storages(parser: argparse.ArgumentParser) -> None:
    """Adds a flag for each storage, and for each further option that one has."""
    group = parser.add_argument_group(
        "how values are kept",
        "for weights whose entry in --config names nothing else. An option whose name a mode or\n"
        "the command has as well begins with the storage's name",
    )
    owners: dict[str, dict[str, Option]] = {}
    modes = {option.name for each in declared(MODES).values() for option in each.options}
    for name, each in declared(STORAGES).items():
        if each.words.get("flag"):
            group.add_argument(
                flag_of("", name),
                action="store_const",
                const=name,
                dest="storage:storage",
                help=each.words["flag"],
            )
        words = words_of(name, each.words["lead"], each.options, taken_names() | modes)
        for word in sorted(words, key=lambda word: word != name):
            owners.setdefault(word, {})[name] = words[word]
    for word, options in owners.items():
        suffix = "" if word in STORAGES else f" ({', '.join(options)})"
        add_flag(group, flag_of("", word), f"storage:{word}", [*options.values()], suffix)


def storage_of(options: argparse.Namespace) -> Any:
    """Returns the storage that the options describe, None where they say nothing of it.

    Wrong usage ends the program with status 2.
    """
    given = given_flags(options, "storage")
    if not given:
        return None
    from mlpass.storage.given import take_storage

    try:
        return take_storage(given)
    except ConfigError as error:
        options.parser.error(_in_flags(str(error), {*STORAGES, *given_flags(options, "storage")}))


def _in_flags(text: str, words: set[str]) -> str:
    """Returns a message with flags in the place of the words that they stand for."""

    def flag(found: re.Match[str]) -> str:
        before, word = found.groups()
        return f"{before}{flag_of('', word)}" if word in words else found[0]

    return re.sub(r"(^|needs |or |with )(\w+)", flag, text)
