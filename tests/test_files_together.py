"""Several folders take their places together: all of them, or none."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mlpass import files
from mlpass.errors import OutputExistsError
from tests.targets import fill, folder, old_system, text
from tests.test_files import OLD_SYSTEMS


@OLD_SYSTEMS
@pytest.mark.parametrize("taken", [0, 1, 2])
@pytest.mark.parametrize("force", [False, True])
def test_where_one_may_not_take_its_place_none_does(
    force: bool, taken: int, number: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old_system(number, monkeypatch)
    targets = [tmp_path / name for name in ("a", "b", "c")]
    if force:
        folder(targets[0], "old")  # which a new one takes the place of, and gives back
    with (  # noqa: PT012
        pytest.raises(OutputExistsError, match=f"{targets[taken].name}: (already exists|is a dev)"),
        files.whole_folders(targets, force=force) as built,
    ):
        for each in built:
            fill(each, "new")
        files.discard(targets[taken])
        os.mkfifo(targets[taken]) if force else folder(targets[taken], "theirs")
    left = {targets[taken], *([targets[0]] if force else [])}
    assert {tmp_path / name for name in os.listdir(tmp_path)} == left
    if not force:
        assert text(targets[taken]) == "theirs"
    elif taken:
        assert text(targets[0]) == "old"


@pytest.mark.parametrize("force", [False, True])
def test_all_take_their_places(force: bool, tmp_path: Path) -> None:
    targets = [tmp_path / name for name in ("a", "b")]
    if force:
        folder(targets[1], "old")
    with files.whole_folders(targets, force=force) as built:
        for each in built:
            fill(each, f"new {each.name[1]}")
        assert [each.exists() for each in targets] == [False, force]
    assert [text(each) for each in targets] == ["new a", "new b"]
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]


def test_each_whose_place_was_taken_is_kept_where_that_is_asked_for(tmp_path: Path) -> None:
    targets = [tmp_path / name for name in ("a", "b", "c")]
    words = r"a: came .* is .*/a-1, whole.*; .*/c: came .* is .*/c-1, whole"
    with (  # noqa: PT012
        pytest.raises(OutputExistsError, match=words),
        files.whole_folders(targets, force=False, keep=True) as built,
    ):
        for each in built:
            fill(each, f"new {each.name[1]}")
        for each in (targets[0], targets[2]):
            folder(each, "theirs")
    found = {name: text(tmp_path / name) for name in os.listdir(tmp_path)}
    theirs = {"a": "theirs", "c": "theirs"}
    assert found == {**theirs, "a-1": "new a", "b": "new b", "c-1": "new c"}
