"""What a sweep that died had finished: a file of it that is broken is told in one line."""

from __future__ import annotations

import json

import pytest

from mlpass import Percentile
from mlpass.errors import CalibrationError
from mlpass.ledger import journal_path
from mlpass.program.mlpackage import Package
from mlpass.study.grid import make_candidates
from mlpass.study.trial import Setting, run_trial
from mlpass.study.trial_journal import TrialJournal


@pytest.fixture
def finished(model, tmp_path):
    """A journal with one trial, with its candidate and the file that it is in."""
    setting = Setting(model)
    (candidate,) = make_candidates([Percentile(0.5)])
    with Package(model) as package:
        journal = TrialJournal(
            journal_path(tmp_path / "report.json"), package.files, setting, resume=True
        )
    trial = run_trial(setting, candidate)
    journal.add(candidate, trial)
    (file,) = (tmp_path / ".report.json.resume").glob("*.json")
    return journal, candidate, file, trial


def test_a_trial_comes_back_as_it_was(finished):
    journal, candidate, _, trial = finished
    assert journal.get(candidate) == trial


def test_a_file_of_something_else_is_told(finished):
    journal, candidate, file, _ = finished
    for text in ("", "3", "[]", "null", "{}", "[" * 100_000, '{"report": 3}', "\x00"):
        file.write_text(text)
        with pytest.raises(CalibrationError, match=r"resume: .*\.json is broken, delete it"):
            journal.get(candidate)
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CalibrationError, match=r"resume: .*\.json is broken, delete it"):
        journal.get(candidate)


def places(content, path=()):
    """Yields the way to every value in JSON content."""
    yield path
    pairs = enumerate(content if isinstance(content, list) else ())
    for key, value in content.items() if isinstance(content, dict) else pairs:
        if not (isinstance(key, int) and key > 1):
            yield from places(value, (*path, key))


def test_no_value_of_another_kind_is_taken_up(finished):
    journal, candidate, file, trial = finished
    whole = file.read_text()
    told, count = 0, 0
    for path in places(json.loads(whole)):
        for wrong in ({"a": [1]}, "text"):
            content = json.loads(whole)
            inner = content
            for key in path[:-1]:
                inner = inner[key]
            if path:
                inner[path[-1]] = wrong
            file.write_text(json.dumps(content if path else wrong))
            count += 1
            try:
                found = journal.get(candidate)
            except CalibrationError:
                told += 1
            else:  # a text is a text: what is taken up can be shown
                assert found.label
                str(found.report)
                json.dumps(found.figures())
    assert told > count / 3
    file.write_text(whole)
    assert journal.get(candidate) == trial
