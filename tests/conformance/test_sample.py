"""A sample of coremltools' own op tests, run on mlpass: see run.py for all of them."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path

import pytest

pytest.importorskip("coremltools")
pytest.importorskip("torch")

sys.path.insert(0, str(Path(__file__).parent))

from exceptions import EXCEPTIONS
from run import SAMPLE, run

pytestmark = pytest.mark.conversion

# Ops that coremltools has no comparing test of that runs without TensorFlow; tests/runtime/kernels
# holds them to other references.
UNTESTED = {
    "ceil",
    "classify",
    "conv_quantized",
    "logical_and",
    "logical_not",
    "logical_or",
    "logical_xor",
    "non_maximum_suppression",
}


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, object]]:
    log = tmp_path_factory.mktemp("conformance") / "log.jsonl"
    done = run([f"@{SAMPLE}"], MLPASS_CONFORMANCE_LOG=str(log), MLPASS_CONFORMANCE_RAISE="1")
    assert done.returncode == 0, "see pytest's own report above"
    return [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]


@pytest.mark.slow
def test_every_test_of_the_sample_compared_and_passed(records: list[dict[str, object]]) -> None:
    names = SAMPLE.read_text(encoding="utf-8").splitlines()
    assert len(records) == len(names)
    assert [record["test"] for record in records if record["failed"]] == []
    assert [record["test"] for record in records if not record["compared"]] == []


@pytest.mark.slow
def test_sample_covers_every_op(records: list[dict[str, object]]) -> None:
    from coremltools.converters.mil.mil.ops.registry import SSAOpRegistry

    ran = {op for record in records for op in record["ops"]}  # type: ignore[attr-defined]
    known = {op for op in SSAOpRegistry.core_ops if not op.startswith("_")}
    assert sorted(known - ran - UNTESTED) == []
    assert sorted(UNTESTED & ran) == []


@pytest.mark.slow
def test_models_of_the_sample_were_raised_and_made_the_same(
    records: list[dict[str, object]],
) -> None:
    steps = Counter(step for record in records for step in record["raised"])  # type: ignore[attr-defined]
    refused = [step for step in steps if step.startswith("refused")]
    assert all("UNALIGN_CORNERS mirrors a picture beyond its edges" in text for text in refused)
    assert len(refused) == 4  # one test of iOS15, by each target
    assert {f"{old} -> {new}" for old in (15, 16, 17) for new in (18, 26)} <= {*steps}
    assert sum(steps.values()) > 600


def test_exceptions_are_few_and_have_reasons() -> None:
    assert len(EXCEPTIONS) < 10
    assert all(len(reason) > 20 for reason in EXCEPTIONS.values())
