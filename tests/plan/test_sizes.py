"""Sizes as users write them."""

from __future__ import annotations

import pytest

from mlpass.errors import ConfigError, brief
from mlpass.plan.sizes import parse_size


@pytest.mark.parametrize(
    ("size", "nbytes"),
    [
        ("0.4x", 400),
        (3000, 3000),
        ("3000", 3000),
        ("3.5kB", 3500),
        ("2 MB", 2_000_000),
        (".5X", 500),
        ("1gb", 10**9),
        ("12 b", 12),
    ],
)
def test_sizes(size, nbytes):
    assert parse_size("max_size", size, 1000) == nbytes


@pytest.mark.parametrize(
    ("size", "meant"),
    [
        ("0.4", "0.4x"),
        (0.4, "0.4x"),
        (".25", "0.25x"),
        ("40%", "0.4x"),
        ("0,4", "0.4x"),
        ("0,4x", "0.4x"),
        ("3,5 MB", "3.5MB"),
        ("3MiB", "3MB"),
    ],
)
def test_a_size_in_other_words_is_asked_for(size, meant):
    with pytest.raises(ConfigError, match=rf'. Did you mean "{meant}"\?'):
        parse_size("max_size", size, 1000)
    with pytest.raises(ConfigError) as caught:
        parse_size("max_size", "0.4b", 1000)
    assert "Did you mean" not in str(caught.value)


@pytest.mark.parametrize(
    "size",
    [
        "",
        "x",
        "-3",
        "0",
        "0x",
        "0 MB",
        "half",
        "3 PB",
        True,
        "1e3",
        "9" * 400,
        "9" * 5000,
        10**400,
        10**5000,
    ],
    ids=lambda size: brief(size)[:20],
)
def test_sizes_that_are_none(size):
    with pytest.raises(ConfigError, match=r"max_size: must be bytes, a text such as"):
        parse_size("max_size", size, 1000)
