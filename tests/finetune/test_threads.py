"""Training has the same bits on any number of torch's threads."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

import mlpass
from mlpass import Percentile
from mlpass.finetune import finetune
from tests.finetune.networks import FIXTURES
from tests.program.packages import tree


@pytest.fixture(autouse=True)
def _own_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.slow
def test_the_same_bytes_on_any_number_of_threads_and_from_any(tmp_path: Path) -> None:
    model = FIXTURES / "basic_pitch.mlpackage"  # whose gradients torch sums in parts
    (feature,) = mlpass.Interpreter(model).inputs
    generator = np.random.default_rng(0)
    samples = [
        {feature.name: generator.standard_normal(feature.shape, np.float32)} for _ in range(2)
    ]  # two in a step will do: without a fixed number of threads they differ in each

    def trained(name: object) -> dict[str, str]:
        out = tmp_path / f"{name}.mlpackage"
        finetune(model, out, Percentile(0.5), samples, steps=1, batch_size=2)
        return tree(out)

    found = []
    for threads in (1, 2, 3, 7):
        torch.set_num_threads(threads)
        found.append(trained(threads))
        assert torch.get_num_threads() == threads
    with ThreadPoolExecutor(2) as pool:
        found += pool.map(trained, "ab")
    assert [place for place, each in enumerate(found) if each != found[0]] == []
