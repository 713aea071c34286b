"""Rows and axes of one config: bars are to scale, ticks are whole."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from mlpass.report.by_layer import axes_of, sortable, view_of
from mlpass.report.study import Trial
from tests.report.test_study import LAYER, trial


def sized(*sizes):
    one = trial()
    layers = tuple(replace(LAYER, bytes_before=size, bytes_after=size // 4) for size in sizes)
    return replace(one, report=replace(one.report, layers=layers))


@pytest.mark.parametrize(
    ("largest", "ticks"),
    [
        (49_152, ["0", "20", "40 kB"]),
        (1_000_000, ["0", "500", "1000 kB"]),
        (7_300_000, ["0", "5 MB"]),
        (2_100, ["0", "1", "2 kB"]),
        (64, ["0", "50 B"]),
        (0, ["0", "1 B"]),
    ],
)
def test_ticks_of_sizes_are_whole(largest, ticks):
    axis = axes_of([sized(largest)]).size
    assert [text for _, text in axis.ticks] == ticks
    assert all(0 <= place <= 1 for place, _ in axis.ticks)


@pytest.mark.parametrize(
    ("errors", "ticks"),
    [
        ((0.02, 0.5), ["0.01", "0.1", "1"]),
        ((1e-7, 0.1), ["1e-7", "1e-4", "0.1"]),
        ((0.1,), ["0.01", "0.1"]),
        ((math.nan, math.inf, 0.0, 0.3), ["0.1", "1"]),
    ],
)
def test_ticks_of_errors_are_powers_of_ten(errors, ticks):
    axis = axes_of([trial(layer_errors=errors)]).error
    assert [text for _, text in axis.ticks] == ticks


def test_bars_are_to_scale():
    axes = axes_of([trial(layer_errors=(1e-4, 1.0)), sized(400, 100)])
    assert [axes.size.length(size) for size in (400, 100, 0)] == [1.0, 0.25, 0.0]
    known = (1e-4, 1e-2, 1.0, math.inf, math.nan, None, 0.0)
    assert [axes.error.length(error) for error in known] == [0.0, 0.5, 1.0, 1.0, 0.0, 0.0, 0.0]
    assert axes_of([trial(layer_errors=(None, 0.0))]).error is None


def test_a_row_says_what_became_of_a_layer():
    one = sized(4000, 400)
    kept = replace(one.report.layers[1], bytes_after=400, skipped="too small", sparsity=None)
    one = replace(one, report=replace(one.report, layers=(one.report.layers[0], kept)))
    first, second = view_of(one, axes_of([one]), "m")["layers"]
    assert first["size"]["text"] == "4.0 kB → 1.0 kB"
    assert (first["error"]["text"], first["error"]["value"]) == ("0.25", "0.25")
    assert first["error"]["bars"] == pytest.approx([0, 1 + math.log10(0.25)], abs=1e-4)
    assert second["size"]["text"] == "400 B"
    assert second["error"]["text"] == "-"
    assert second["zeros"] == {"text": "-", "value": ""}
    assert second["stored"]["text"] == "sparse, skipped: too small"


def test_what_failed_has_no_layers():
    with pytest.raises(ValueError, match="x, admm failed: there are no layers to show"):
        view_of(Trial("x", "admm", {}, None, failed="why"), axes_of([]), "m")


def test_numbers_as_javascript_reads_them():
    values = (None, math.nan, math.inf, -math.inf, 0.5, 3)
    assert [sortable(one) for one in values] == ["", "", "Infinity", "-Infinity", "0.5", "3"]
