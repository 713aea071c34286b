"""What tests of tuned regions share."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

import mlpass
from mlpass import NM, Percentile
from mlpass.finetune import Regions, region_run
from mlpass.report.records import Report
from tests.finetune.networks import FIXTURES
from tests.finetune.samples import samples_of

OPTIONS = Regions(epochs=2, batch_size=4, learning_rate=1e-3)
TINY = FIXTURES / "tiny_lm.mlpackage"
SAMPLES = samples_of("tiny_lm.mlpackage", 10)


@pytest.fixture(scope="module")
def pruned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package of tiny_lm with half its weights zero."""
    path = tmp_path_factory.mktemp("pruned") / "pruned.mlpackage"
    mlpass.prune(TINY, path, NM(2, 4))
    return path


def losses_of(report: Report) -> dict[int, tuple[float, float]]:
    """The losses that the notes of a report tell, before and after, by region."""
    found = (re.search(r"^region (\d+), .* loss (\S+) -> (\S+), ", note) for note in report.notes)
    return {int(one[1]): (float(one[2]), float(one[3])) for one in found if one}


def aimed(name: str, path: Path) -> Regions:
    """Half of a fixture's weights zero, towards the dense model; and how to tune it."""
    if name.startswith(("quantized", "palettized")):
        mlpass.prune(FIXTURES / name, path, Percentile(0.5), joint_compression=True)
    else:
        given = {"sample_data": samples_of(name, 4), "target": "dense"}
        mlpass.prune(FIXTURES / name, path, Percentile(0.5), fallback="magnitude", **given)
    return replace(OPTIONS, epochs=1, batch_size=2, learning_rate=1e-4)


def interrupted(
    monkeypatch: pytest.MonkeyPatch, is_time: Callable[[Sequence[int]], bool]
) -> list[int]:
    """Has tuning interrupted before a region, and returns the numbers of those that were begun.

    Args:
        monkeypatch: of the test.
        is_time: given these numbers, whether it is to be now.
    """
    begun: list[int] = []
    once = region_run.tune_region

    def tune_region(task, *arguments):
        begun.append(task.number)
        if is_time(begun):
            raise KeyboardInterrupt
        return once(task, *arguments)

    monkeypatch.setattr(region_run, "tune_region", tune_region)
    return begun
