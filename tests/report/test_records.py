"""Reports: frozen, ready for JSON, and readable."""

from __future__ import annotations

import dataclasses
import json

import pytest

from mlpass.report.records import FunctionRecord, LayerRecord, Report
from mlpass.report.table import bytes_text, sizes_apart

PRUNED = LayerRecord(
    "w", "linear", "weight", (4, 8), "fp16", "NM(2:4)", "magnitude", 16, 0.5, "sparse", 64, 36
)
SKIPPED = LayerRecord(
    "v", "conv", "weight", (2, 2), "fp32", None, None, 0, 0.0, "dense", 16, 16, "it is small"
)
UNKNOWN = dataclasses.replace(SKIPPED, name="u", dtype="bf16", zeros=None, sparsity=None)
FUNCTION = FunctionRecord("", "main", 17, {"linear": 3, "relu": 2, "conv": 3})


def report(output: str | None = "out", *layers: LayerRecord) -> Report:
    return Report("in", output, 1_000, 400, (FUNCTION,), layers or (PRUNED, SKIPPED))


def test_records_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        PRUNED.name = "x"


def test_sparsity_counts_elements_not_layers():
    assert report().sparsity == 16 / 36
    assert report("out", UNKNOWN).sparsity == 0.0


def test_json_holds_everything():
    content = json.loads(json.dumps(report().to_dict()))
    assert content["layers"][0] == {**dataclasses.asdict(PRUNED), "shape": [4, 8], "functions": []}
    assert content["functions"] == [
        {"program": "", "name": "main", "opset": 17, "ops": {"linear": 3, "relu": 2, "conv": 3}}
    ]
    assert (content["bytes_before"], content["bytes_after"]) == (1000, 400)


def test_a_run_prints_what_was_done_and_why_not():
    lines = str(report()).splitlines()
    assert " ".join(lines[0].split()) == (
        "weight read by shape type sparsity encoding before after how"
    )
    assert " ".join(lines[2].split()) == (
        "w linear.weight 4x8 fp16 0.5000 sparse 64 B 36 B NM(2:4)"
    )
    assert lines[3].endswith("skipped: it is small")
    assert lines[-1] == (
        "1 of 2 weights pruned, sparsity 0.4444, 1.0 kB -> 400 B (2.50x smaller): out"
    )


def test_an_inspection_prints_functions_and_costs():
    text = str(report(None, UNKNOWN))
    assert "3 conv, 3 linear, 2 relu" in text
    assert "iOS17" in text
    assert text.splitlines()[-1] == "in: 1 weights, 1.0 kB, sparsity 0.0000"
    assert "how" not in text


def test_many_op_types_are_cut_short():
    many = dataclasses.replace(FUNCTION, ops={f"op{i}": 9 - i for i in range(9)})
    text = str(dataclasses.replace(report(None), functions=(many,)))
    assert "9 op0, 8 op1, 7 op2, 6 op3, 5 op4, 4 op5, 3 more types" in text


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (9_358_389, "9.4 MB"), (2**41, "2199.0 GB")],
)
def test_bytes(nbytes, text):
    assert bytes_text(nbytes) == text


@pytest.mark.parametrize(
    ("nbytes", "other", "texts"),
    [
        (191_249, 191_201, ("191.25 kB", "191.20 kB")),
        (3_000_001, 3_000_000, ("3.000001 MB", "3.000000 MB")),
        (5_000_000_001, 5_000_000_000, ("5.000000001 GB", "5.000000000 GB")),
        (400, 300, ("400 B", "300 B")),
        (400, 400, ("400 B", "400 B")),
    ],
)
def test_sizes_have_the_digits_that_tell_them_apart(nbytes, other, texts):
    assert sizes_apart(nbytes, other) == texts
