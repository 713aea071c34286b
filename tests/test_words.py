"""The words of messages, docstrings and comments: plain English, without some turns of phrase."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import mlpass

ROOT = Path(mlpass.__file__).parents[1]
PLACES = ("mlpass", "tests", "benchmarks", "fixtures/make")

# What reads as a translation, with what to write instead.
PHRASES = {
    r"(?<!there )\b(?:is|are|was|were) no (?!longer\b|more\b|less\b)\w": "is not a ...",
    r"\b(?:is|are|was|were) none\b": "is not a ..., there is no ..., holds no ...",
    r"\bwhat cannot\b": "is not valid",
    r"\bwhom\b": "another word",
    r"\bnone is\b": "nothing is, no ... is",
    r"\b(?:has|have) not[.,;:)]": "lacks",
    r"\bor force it\b": "already exists; pass force=True",
    r"\bthere is not one\b": "holds no ...",
}


def test_no_file_has_a_phrase_that_reads_as_a_translation() -> None:
    files = [path for place in PLACES for path in sorted((ROOT / place).rglob("*.py"))]
    files += [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "benchmarks/RESULTS.md"]
    files += sorted((ROOT / "mlpass").glob("*/README.md"))
    assert len(files) > 300
    here = Path(__file__)
    found = {
        path.relative_to(ROOT): list(_found(_prose(path.read_text())))
        for path in files
        if path != here
    }
    assert {path: texts for path, texts in found.items() if texts} == {}


@pytest.mark.parametrize(
    ("text", "faults"),
    [
        ("{path}: is no package", 1),
        ("{path}: is not a package, there is no such file, and it is no longer needed", 0),
        ("its {size} elements are no constants", 1),
        ("ConfigError: it is none, or says what cannot be.", 2),
        ("is none of Core ML's", 1),
        ("None where there is none.", 1),
        ("a descending order, which numpy has not, is negated", 1),
        ("it has not been read", 0),
        ("a user whom permissions do not bind", 1),
        ('"" where none is near', 1),
        ("out exists: name another target, or force it", 1),
        ("sample_data: there is not one sample in it", 1),
    ],
)
def test_phrases_are_found(text: str, faults: int) -> None:
    assert len(list(_found(text))) == faults


def test_what_lines_and_pieces_break_is_joined() -> None:
    module = """
    '''What is

    no docstring.'''
    total = 1  # a comment that is
    # no text
    raise ValueError(f"{total}: is "
        "no number")
    """
    assert len(list(_found(_prose(module)))) == 3
    assert list(_found(_prose("the config is\nnot one, and there are no others"))) == []


def _found(prose: str) -> Iterator[str]:
    """Yields each phrase that prose has, with what stands around it and what to write instead."""
    for phrase, better in PHRASES.items():
        for match in re.finditer(phrase, prose):
            around = prose[max(0, match.start() - 40) : match.end() + 40]
            yield f"...{around}...: write {better!r}"


def _prose(source: str) -> str:
    """Returns the text of a module or a page, with what is broken over lines joined."""
    return re.sub(r"""\s*["']*\s+(?:#+\s*)?(?:[rf]*["'])?""", " ", source)
