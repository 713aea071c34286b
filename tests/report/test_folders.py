"""Absolute paths become the names of their files; everything else stays as it is."""

from __future__ import annotations

import pytest

from mlpass.report.folders import without_folders

MODEL = "/home/jane doe/models/m.mlpackage"


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("mlpass prune /tmp/x/m.mlpackage -o out", "mlpass prune m.mlpackage -o out"),
        (f"mlpass prune '{MODEL}' -o out", "mlpass prune 'm.mlpackage' -o out"),
        (f"{MODEL}: is broken", "m.mlpackage: is broken"),
        ("mlpass.sweep('/a b/c.mlpackage', ...)", "mlpass.sweep('c.mlpackage', ...)"),
        ('"C:\\my data\\s.npz" C:\\d\\t.npz', '"s.npz" t.npz'),
        (
            "--sample-data=/d/s.npz --evaluate /h/u/acc.py:top1",
            "--sample-data=s.npz --evaluate acc.py:top1",
        ),
        ("~/k/m.npz -o/tmp/x.html", "m.npz -ox.html"),
        ("'/data/folder/'", "'folder'"),
        ("models/m.mlpackage ../s.npz a/b/c 50%/25%/3", None),
        ("https://a.b/c/d.html", None),
        (r"w\x1b[31m\n\t", None),
    ],
)
def test_paths(text, wanted):
    assert without_folders(text, MODEL) == (text if wanted is None else wanted)


def test_a_relative_model_is_told_as_it_was_given(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = f"mlpass prune {tmp_path}/models/m.mlpackage --sample-data {tmp_path}/models/s.npz"
    wanted = "mlpass prune models/m.mlpackage --sample-data s.npz"
    assert without_folders(text, "models/m.mlpackage") == wanted


def test_a_model_at_the_root_keeps_other_names():
    assert without_folders("/m.mlpackage and a/b", "/m.mlpackage") == "/m.mlpackage and a/b"
