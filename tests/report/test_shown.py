"""Records in a notebook, and as rows of pandas."""

from __future__ import annotations

import sys
import types
from html.parser import HTMLParser
from importlib.util import find_spec

import numpy as np
import pytest

import mlpass
from mlpass.errors import BackendError
from tests.conftest import FIXTURES

MODEL = FIXTURES / "digits_classifier.mlpackage"


class Cells(HTMLParser):
    """Collects the tables of a page, as rows of texts."""

    def __init__(self, text):
        super().__init__()
        self.rows, self.tags, self.open = [], [], None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self.open = tag

    def handle_endtag(self, tag):
        self.open = None if tag == self.open else self.open

    def handle_data(self, data):
        if self.open:
            self.rows[-1][-1] += data.strip()


@pytest.fixture(scope="module")
def report():
    return mlpass.inspect(MODEL)


def test_a_notebook_shows_the_same_table(report):
    shown = Cells(report._repr_html_())
    names = [row[0] for row in shown.rows]
    assert names[0] == "program"
    assert "weight" in names
    assert [layer.name for layer in report.layers] == names[-len(report.layers) :]
    assert "p" in shown.tags  # the totals
    assert str(report).split("\n\n")[-1].split(":")[-1] in report._repr_html_()


def test_what_a_name_holds_does_not_become_html(report):
    hostile = '<img src=x onerror="alert(1)">\x1b[2J'
    layer = mlpass.LayerRecord(
        hostile, "linear", "weight", (1, 1), "fp16", None, None, 0, 0.0, "dense", 2, 2
    )
    page = mlpass.Report(hostile, None, 1, 1, report.functions, (layer,))._repr_html_()
    assert "img" not in Cells(page).tags
    assert "\x1b" not in page
    assert "&lt;img" in page


def everything(samples):
    """Yields one of each record that a run returns."""
    inspected = mlpass.inspect(MODEL)
    yield inspected, len(inspected.layers)
    explained = mlpass.explain(MODEL)
    yield explained, len(explained.weights)
    checked = mlpass.check(MODEL)
    yield checked, len(checked.hazards)
    compared = mlpass.compare(MODEL, MODEL, samples)
    yield compared, len(compared.outputs)
    located = mlpass.locate(MODEL, MODEL, samples)
    yield located, len(located.ops)
    measured = mlpass.sensitivity(MODEL, samples)
    yield measured, len(measured.layers)
    swept = mlpass.sweep(MODEL, configs=[{"target_sparsity": 0.5}], test_data=samples)
    yield swept, len(swept.trials)


@pytest.fixture
def samples():
    with np.load(MODEL.with_suffix(".npz")) as truth:
        given = {name: truth[name] for name in truth.files if name.startswith("input:")}
    return [{name.removeprefix("input:"): array for name, array in given.items()}] * 2


def test_every_record_has_rows_for_pandas(samples, monkeypatch):
    if not find_spec("pandas"):  # then a stand-in says what it would be given
        stand_in = types.SimpleNamespace(DataFrame=list)
        monkeypatch.setitem(sys.modules, "pandas", stand_in)
    for record, count in everything(samples):
        assert len(record.to_pandas()) == count, record
        assert record._repr_html_().endswith(("</p>", "</table>"))


def test_without_pandas_it_says_how_to_get_it(report, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(BackendError, match="to_pandas needs pandas: pip install pandas"):
        report.to_pandas()


def test_the_package_lists_public_names_alone():
    assert set(mlpass.__all__) < set(dir(mlpass))
    assert not [name for name in dir(mlpass) if name.startswith("_") and name != "__version__"]
    assert "TYPE_CHECKING" not in dir(mlpass)
