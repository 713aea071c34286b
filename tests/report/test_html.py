"""The page: whole, alone, safe, and readable by what reads pages."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from mlpass import BackendError, ConfigError, OutputExistsError
from mlpass.report import html
from mlpass.report.comparison import OutputRecord
from mlpass.report.html import check_target, to_html, write_report
from mlpass.report.records import Report
from mlpass.report.study import Pattern, Trial
from tests.report.test_study import LAYER, sweep, trial

EVIL = "<script>alert(1)</script>&\"'$x^2$"
VOID = {"meta", "input", "img", "br", "link", "hr"}


class Page(HTMLParser):
    """A page's elements, and whether all that begin end."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.open, self.text = [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append((self.open[-1] if self.open else "", data))

    def all(self, tag, **wanted):
        return [
            a
            for t, a in self.elements
            if t == tag and all(a.get(key) == value for key, value in wanted.items())
        ]


@pytest.fixture(autouse=True)
def _extra():
    pytest.importorskip("jinja2")
    pytest.importorskip("matplotlib")


def report(**fields):
    trials = [trial(f"c{n}", nbytes=100 * n, snr=5.0 * n) for n in range(1, 8)]
    failed = Trial("x", "admm", {}, None, failed="why not")
    return sweep(*trials, failed, **fields)


def test_a_page_is_whole_and_needs_nothing_beside_itself():
    page = Page(to_html(report()))
    for tag, attributes in page.elements:
        for name in ("src", "href", "xlink:href", "srcset", "action", "data"):
            address = attributes.get(name)
            assert address is None or address.startswith(("#", "data:image/png;base64,")), tag
    assert not page.all("link") and not page.all("iframe")
    styles = "".join(text for tag, text in page.text if tag == "style")
    assert "url(http" not in styles and "@import" not in styles
    assert page.all("meta", name="viewport")
    assert page.all("html", lang="en")
    assert "prefers-color-scheme: dark" in styles


def test_every_link_leads_somewhere_and_names_are_unique():
    page = Page(to_html(report()))
    names = [a["id"] for _, a in page.elements if "id" in a]
    assert len(names) == len(set(names))
    for _, attributes in page.elements:
        for key in ("href", "xlink:href", "for", "aria-controls", "aria-describedby"):
            target = attributes.get(key, "")
            if key.startswith(("for", "aria")) and target:
                assert target in names
            elif target.startswith("#"):
                assert target[1:] in names
    points = {a["xlink:href"] for a in page.all("a") if "xlink:href" in a}
    assert points == {f"#trial-{n}" for n in range(7)}
    assert {a.get("aria-label") for a in page.all("a") if "xlink:href" in a} == {
        f"c{n}" for n in range(1, 8)
    }


def test_every_config_is_a_row_and_its_pattern_a_picture():
    page = Page(to_html(report()))
    assert len([a for a in page.all("tr") if a.get("id", "").startswith("trial-")]) == 8
    pictures = page.all("img")
    assert len(pictures) == 7
    assert all(picture["alt"].startswith("Which elements c") for picture in pictures)
    assert len(page.all("svg")) == 2  # the same picture, for a wide screen and a narrow one
    everything = "".join(text for _, text in page.text)
    assert "x, admm" in everything
    assert "failed: why not" in everything
    assert everything.count("needs macOS") == 1
    assert "mlpass sweep" in everything


def test_a_pattern_without_zeros_is_no_picture():
    whole = replace(trial("whole"), pattern=Pattern("w", ("11", "11")))
    page = Page(to_html(sweep(whole, trial("half"))))
    assert [picture["alt"] for picture in page.all("img")] == ["Which elements half keeps"]


def rows(text):
    """The cells of the table of configs, by the first of each row."""
    table = text[text.index("<tbody>") : text.index("</tbody>")]
    found = [re.findall(r"<td[^>]*>(.*?)</td>", row, re.S) for row in table.split("</tr>")[:-1]]
    return {cells[0].split("<")[0].strip(): cells[1:] for cells in found}


def test_sizes_are_in_order_and_failures_last():
    trials = [trial(f"c{size}", nbytes=size, snr=snr) for size, snr in ((900, 1.0), (80, 2.0))]
    better = trial("better", nbytes=900, snr=3.0)
    text = to_html(sweep(Trial("x", "admm", {}, None, failed="why"), *trials, better))
    assert list(rows(text)) == ["c80", "better", "c900", "x, admm"]


def test_the_verdict_comes_first_and_its_numbers_are_the_tables():
    text = to_html(report())
    table = rows(text)
    found = re.search(r'<p id="verdict">(.*?)</p>', text, re.S)[1]
    assert text.index("verdict") < text.index("<dl") < text.index("<table")
    named = re.findall(
        r"<strong>([\d.]+) dB</strong>, top-1 ([\d.]+) \(.*?>(\w+)</a>, (.*?)\)", found
    )
    assert len(named) == 3
    for snr, top1, name, size in named:
        assert table[name][:3] == [size, snr, top1]
    assert "Half the size" in found


def test_the_verdict_of_sizes_alone_and_of_the_users_own_measure():
    bare = to_html(sweep(trial("a", nbytes=300, snr=None, outputs=())))
    found = re.search(r'<p id="verdict">(.*?)</p>', bare, re.S)[1]
    assert re.sub(r"<.*?>", "", found).strip() == (
        "What it costs was not measured; the smallest: 300 B (a)."
    )
    assert 'id="scale"' not in bare
    valued = to_html(sweep(trial("a", nbytes=300, value=0.25), value_before=0.5))
    found = re.search(r'<p id="verdict">(.*?)</p>', valued, re.S)[1]
    assert re.sub(r"<.*?>", "", found).strip() == (
        "Half the size, best for its size: 0.2500, 20.00 dB, top-1 0.7500 (a, 300 B)."
    )
    assert rows(valued)["a"][:4] == ["300 B", "0.2500", "20.00", "0.7500"]


@pytest.mark.slow_but_every(2)
@pytest.mark.parametrize(
    ("points", "wanted"),
    [
        (
            ((40.0, 1.0), (30.0, 0.9)),
            "top-1 is unchanged down to 40.00 dB, and begins to change at 30.00 dB (0.9000 agree).",
        ),
        (((30.0, 0.9),), "top-1 has begun to change at 30.00 dB (0.9000 agree), the best here."),
        (((40.0, 1.0), (30.0, 1.0)), "top-1 changed in none of these, down to 30.00 dB."),
        (
            ((40.0, 1.0), (30.0, 0.995), (20.0, 0.7), (9.0, 0.2)),
            "begins to change at 30.00 dB (0.9950 agree); at least half agree down to 20.00 dB.",
        ),
        (
            ((40.0, 1.0), (30.0, 0.995), (25.0, 0.99), (9.0, 0.2)),
            "(0.9950 agree); at least 99% agree down to 25.00 dB.",
        ),
    ],
)
def test_what_a_decibel_means(points, wanted):
    trials = [
        trial(f"c{snr:g}", outputs=(OutputRecord("y", snr, 0.1, 0.01, top1),))
        for snr, top1 in points
    ]
    text = re.search(r'<p id="scale">(.*?)<span', to_html(sweep(*trials)), re.S)[1]
    assert " ".join(text.split()).endswith(wanted)


def test_what_is_no_better_than_zeros_is_marked():
    text = to_html(sweep(trial("bad", nbytes=100, snr=-3.0), trial("good")))
    bad = re.search(r'<tr id="trial-0" class="lost">(.*?)</tr>', text, re.S)[1]
    assert "no better than zeros" in bad
    assert "not beaten" not in bad
    assert re.search(r'<tr id="trial-1" class="front">', text)
    assert text.count("no better than zeros") == 3  # the mark, and the keys of the two pictures


def test_latency_has_a_column_where_it_was_measured():
    timed = sweep(trial(latency={"CPU_ONLY": 2.0}), trial("b"))
    text = to_html(replace(timed, latency_before={"CPU_ONLY": 3.0}))
    assert "CPU_ONLY 2.00 ms" in text
    assert "latency, as it is" in text
    assert "Latency is measured" not in text


def test_latency_that_was_not_measured_is_an_estimate_with_its_error_and_sources():
    given = replace(report(), multiplications=1500)
    text = html.to_html(given)
    guesses = [given.estimate_of(each) for each in given.trials]
    assert any(each is not None and each.spread for each in guesses)
    for guess in filter(None, guesses):
        assert f">{guess.ratio:.2f}" in text
        assert guess.spread in text
    assert '<button type="button">estimated latency</button>' in text
    assert (
        "Estimated latency is not measured" in text and "aneforge/ane-rooflines (measured)" in text
    )
    assert "estimate" not in html.to_html(report())  # too little is known


def test_a_page_names_files_and_no_folders():
    command = "mlpass prune '/home/jane doe/m/in.mlpackage' -o pruned.mlpackage"
    failed = Trial("x", "admm", {}, None, failed="/tmp/a1/pruned.mlpackage: is broken")
    made = sweep(
        trial(command=command),
        failed,
        command="mlpass sweep /data/in.mlpackage --sample-data=/data/s.npz",
        notes=("/data/set/s.npz: is odd",),
    )
    text = to_html(replace(made, model="/home/jane doe/m/in.mlpackage"))
    for folder in ("/home", "jane", "/data", "/tmp", "a1", "doe/"):
        assert folder not in text
    assert "mlpass sweep in.mlpackage --sample-data=s.npz" in text
    assert "pruned.mlpackage: is broken" in text
    assert "s.npz: is odd" in text


def test_every_config_has_its_command_and_layers():
    made = sweep(trial("a", command="mlpass prune a"), trial("b", layer_errors=(math.inf,)))
    text = to_html(made)
    views = json.loads(re.search(r'id="views">(.*?)</script>', text, re.S)[1])
    assert [views[n]["command"] for n in "01"] == ["mlpass prune a", None]
    assert views["0"]["layers"][0]["error"]["text"] == "0.25"
    assert views["1"]["layers"][0]["error"] == {
        "text": "inf",
        "value": "Infinity",
        "bars": [0, 1.0],
    }
    assert views["0"]["layers"][0]["size"] == {
        "text": "64 B → 36 B",
        "value": "36",
        "bars": [1.0, 0.5625],
    }
    assert len(Page(text).all("option")) == 2


def test_date_and_version_are_told():
    text = to_html(replace(report(), date="2026-11-29", version="9.8.7"))
    assert 'mlpass sweep 9.8.7, <time datetime="2026-11-29">2026-11-29</time>' in text
    assert "<time" not in to_html(report())


def test_headers_are_buttons():
    page = Page(to_html(report()))
    headers = len(page.all("th", scope="col"))
    assert len(page.all("button", type="button")) == headers + 1 > 9  # one copies
    assert len(page.all("input", type="search")) == 1


def test_names_of_a_model_are_text_and_nothing_else():
    layer = replace(LAYER, name=EVIL, skipped=EVIL)
    reported = Report(EVIL, None, 1000, 400, (), (layer,))
    evil = replace(
        trial(EVIL),
        report=reported,
        method=EVIL,
        options={EVIL: EVIL},
        pattern=Pattern(EVIL, ("10",)),
        command=EVIL,
    )
    text = to_html(replace(sweep(evil, command=EVIL, notes=(EVIL,)), model=EVIL))
    page = Page(text)
    assert len(page.all("script")) == 2  # one of data
    assert "<script>alert" not in text
    assert text.count("&lt;script&gt;alert(1)") > 8


def test_the_same_report_is_the_same_page():
    assert to_html(report()) == to_html(report())


def test_a_home_that_cannot_be_written_to_is_not_told_of(tmp_path):
    (tmp_path / "home").touch()
    code = "from tests.report.test_study import *; from mlpass.report.html import to_html; "
    made = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code + "print(to_html(sweep(trial())))"],
        env={**os.environ, "HOME": str(tmp_path / "home"), "XDG_CONFIG_HOME": ""},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "</html>" in made.stdout
    assert made.stderr == ""


def test_values_of_evaluate_have_their_column_and_axis():
    valued = sweep(
        *(trial(f"c{n}", nbytes=100 * n, value=0.1 * n) for n in (1, 2)), value_before=0.9
    )
    text = to_html(valued)
    assert "value of evaluate" in text
    assert "0.9000" in text
    assert "value of evaluate" not in to_html(report())


def test_what_is_not_known_has_no_figure():
    bare = [replace(trial(f"c{n}", snr=None), layer_errors=(), pattern=None) for n in (1, 2)]
    page = Page(to_html(sweep(*bare)))
    assert not page.all("svg")
    assert page.all("table", id="layers")  # sizes are known
    assert not page.all("img")
    failed = Page(to_html(sweep(Trial("x", "admm", {}, None, failed="why"))))
    assert not failed.all("svg")
    infinite = Page(to_html(sweep(trial("c", snr=math.inf))))
    assert infinite.all("td", **{"data-value": "Infinity"})


def test_a_report_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "report.html"
    write_report(report(), path)
    assert path.read_text() == to_html(report())
    write_report(report(), tmp_path / "report.json")
    assert len(json.loads((tmp_path / "report.json").read_text())["trials"]) == 8

    def fail(*_, **__):
        raise OSError("no room")

    with pytest.raises(OutputExistsError, match="report.html: already exists; pass force=True"):
        write_report(report(), path)
    write_report(report(), path, force=True)
    monkeypatch.setattr(html.Path, "write_text", fail)
    with pytest.raises(OSError, match="no room"):
        write_report(report(), path, force=True)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["report.html", "report.json"]


def test_names_and_extras_are_looked_at_first(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match=r"output: a report's name must end in .html or .json"):
        write_report(report(), tmp_path / "report.txt")
    monkeypatch.setattr(html, "find_spec", lambda name: None)
    with pytest.raises(
        BackendError, match="an HTML report needs jinja2 and matplotlib: pip install jinja2 m"
    ):
        check_target(tmp_path / "report.html")
    check_target(tmp_path / "report.json")


def test_numbers_that_are_not_finite():
    odd = [math.nan, math.inf, -math.inf]
    trials = [trial(snr=one, value=one, layer_errors=(one,)) for one in odd]
    page = Page(to_html(sweep(*trials, trial("b", value=0.5), value_before=math.nan)))
    places = {cell.get("data-value") for cell in page.all("td")}
    assert {"Infinity", "-Infinity", ""} <= places
    assert places.isdisjoint({"nan", "inf", "-inf", "NaN"})
