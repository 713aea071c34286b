"""The words that a storage is given by, where all kinds of options meet: flags, YAML, strings.

`quantize: int4` is a storage's name with its leading option. Its other options go by their own
names, as `group_size`; where a mode or a command has an option of that name, as `block_size`, by
the storage's name and that: `quantize_block_size`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from mlpass.options import Option


def words_of(
    name: str, lead: str, options: Iterable[Option], taken: Collection[str]
) -> dict[str, Option]:
    """Returns the options of a storage by word; none where nothing leads them.

    Args:
        name: of the storage.
        lead: the name of its leading option; "" without one.
        options: all of them.
        taken: names that other options have.
    """
    words = {}
    for option in options if lead else ():
        word = f"{name}_{option.name}" if option.name in taken else option.name
        words[name if option.name == lead else word] = option
    return words
