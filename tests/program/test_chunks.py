"""Packages in a row, written."""

from __future__ import annotations

import pytest

import mlpass
from mlpass import ConfigError, Percentile
from tests.program.packages import tree
from tests.runtime.chains import chunks


def test_one_takes_its_own_place_and_not_that_of_another(tmp_path):
    made = chunks(tmp_path)
    before = [tree(path) for path in made]
    with pytest.raises(ConfigError, match="b.mlpackage is read, and another than it would take"):
        mlpass.prune(made, [made[1], made[0], made[2]], Percentile(0.5), force=True)
    assert [tree(path) for path in made] == before
    mlpass.prune(made, made, Percentile(0.5), force=True)
    assert all(tree(path) != old for path, old in zip(made, before, strict=True))
