"""Options: what a field may be, and the forms it is written in."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from mlpass.cli.flags import add_flags, given_flags
from mlpass.errors import ConfigError
from mlpass.options import check_options, flag_of, option, options_of


@dataclass(frozen=True)
class Sample:
    """One option of each form."""

    share: float = option(low=0, high=1, help="of all")
    count: int = option(default=3, low=1)
    any_count: int | None = option(default=None)
    strict: bool = option(default=False)
    kept: bool = option(default=True)
    kind: str = option(default="a", choices=("a", "b"))
    scale: float = option(default=1.0, above=0)
    x: int = option(default=1, low=0, join="grid", help="x by y by z")
    y: int = option(default=2, low=0, join="grid")
    z: int = option(default=3, low=0, join="grid")
    free: object = option(default=None)
    plain: float = 0.0  # a field without a rule

    def __post_init__(self) -> None:
        check_options(self)


BY_NAME = {each.name: each for each in options_of(Sample)}


def test_fields_are_options_and_those_written_together_are_one():
    names = "share count any_count strict kept kind scale grid free plain"
    assert list(BY_NAME) == names.split()
    assert "plain" not in {each.name for each in options_of(Sample, declared=True)}
    assert [name for name, each in BY_NAME.items() if each.required] == ["share"]
    assert BY_NAME["grid"].form == "X:Y:Z"


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"share": 1.5}, r"^share: must be a number in \[0, 1\]. Got 1.5.$"),
        ({"share": float("nan")}, "share: must be a number"),
        ({"share": None}, r"share: must be a number in \[0, 1\]. Got None"),
        ({"share": 0, "count": 0}, "^count: must be an int of 1 or more. Got 0.$"),
        ({"share": 0, "count": 1.0}, "count: must be an int of 1 or more. Got 1.0"),
        ({"share": 0, "count": True}, "count: must be an int of 1 or more. Got True"),
        ({"share": 0, "any_count": "1"}, "^any_count: must be an int. Got '1'.$"),
        ({"share": 0, "strict": 1}, "^strict: must be true or false. Got 1.$"),
        ({"share": 0, "kind": "c"}, "^kind: must be 'a' or 'b'. Got 'c'.$"),
        ({"share": 0, "kind": 3}, "kind: must be 'a' or 'b'. Got 3"),
        ({"share": 0, "scale": 0}, "^scale: must be a number above 0. Got 0.$"),
        ({"share": 0, "scale": float("inf")}, "scale: must be a number above 0. Got inf"),
        ({"share": 0, "count": 10**400}, r"^count: must fit 64 bits. Got 1000+\.\.\.0+\.$"),
        ({"share": 0, "y": 1 << 63}, "^grid: y must fit 64 bits. Got 9223372036854775808.$"),
        ({"share": 0, "y": -1}, "^grid: y must be an int of 0 or more. Got -1.$"),
    ],
)
def test_what_a_field_may_not_be(given, text):
    with pytest.raises(ConfigError, match=text):
        Sample(**given)


def test_what_a_field_may_be():
    Sample(np.float32(0.5), np.int64(7), 0, True, kind="b", scale=1e-9, free=object())


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("share", "0.5", 0.5),
        ("count", "7", 7),
        ("any_count", "7", 7),
        ("strict", "True", True),
        ("kind", "b", "b"),
        ("grid", "4:5:6", [4, 5, 6]),
        ("grid", (4, 5, 6), (4, 5, 6)),
        ("free", "text", "text"),
    ],
)
def test_plain_strings(name, text, value):
    assert BY_NAME[name].parse(text) == value


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("share", "much", "share: must be a number. Got 'much'."),
        ("count", "1.5", "count: must be an int. Got '1.5'."),
        ("strict", "yes", "strict: must be true or false. Got 'yes'."),
        ("grid", "4:5", "grid: must be X:Y:Z, that is X by Y by Z. Got '4:5'."),
        ("grid", "4:5:z", "grid: must be X:Y:Z"),
    ],
)
def test_plain_strings_that_stand_for_nothing(name, text, message):
    with pytest.raises(ConfigError, match=message):
        BY_NAME[name].parse(text)


def test_values_that_are_written_together():
    assert BY_NAME["grid"].values([4, 5, 6]) == {"x": 4, "y": 5, "z": 6}
    with pytest.raises(
        ConfigError,
        match=r"grid: must be three ints \(x by y by z\), such as \[2, 4, 6\]. Got \[4\]",
    ):
        BY_NAME["grid"].values([4])


def parser_of(*owners: type, taken: frozenset[str] = frozenset()) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(exit_on_error=False)
    names = {owner.__name__: options_of(owner) for owner in owners}
    add_flags(parser, "mode", names, taken)
    return parser


def test_from_the_command_line_and_back():
    made = Sample(0.25, 7, None, True, False, "b", 2.0, 4, 5, 6)
    words = ["--share", "0.25"]
    for each in options_of(Sample):
        text = each.given(made)
        if each.parts[0].kind == "bool":
            words.append(flag_of("", each.name) if text == "true" else f"--no-{each.name}")
        elif text is not None:
            words += [flag_of("", each.name), text]
    given = given_flags(parser_of(Sample).parse_args(words), "mode")
    read: dict[str, Any] = {}
    for name, value in given.items():
        read |= BY_NAME[name].values(value)
    assert Sample(**read) == made


def test_a_name_that_is_taken_has_its_owner_before_it():
    parser = parser_of(Sample, taken=frozenset({"any_count"}))
    assert given_flags(parser.parse_args(["--mode-any-count", "3"]), "mode") == {"any_count": 3}


def test_classes_may_differ_in_what_one_name_is():
    @dataclass(frozen=True)
    class Other:
        count: str = "some"

    parser = parser_of(Sample, Other)
    for text, value in (("3", 3), ("0.5", 0.5), ("some", "some")):
        assert given_flags(parser.parse_args(["--count", text]), "mode") == {"count": value}


def test_help_has_range_default_and_owners():
    text = " ".join(parser_of(Sample, type("Bare", (Sample,), {})).format_help().split())
    assert "--share F of all; a number in [0, 1] (Sample, Bare)" in text
    assert "--count N an int of 1 or more (default: 3) (Sample, Bare)" in text
    assert "--grid X:Y:Z x by y by z" in text
