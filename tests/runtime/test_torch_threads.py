"""What is held to one number of torch's threads has the same bits on any; they are given back."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from coremltools.converters.mil.mil import Builder as mb

import mlpass
from mlpass import Percentile
from mlpass.runtime.backends.threads import fixed_threads
from tests.program.packages import tree
from tests.runtime.programs import convert, program

RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def _own_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_the_number_comes_back_with_the_last_to_leave() -> None:
    torch.set_num_threads(3)
    first, second = fixed_threads(), fixed_threads()
    with first:
        inside = torch.get_num_threads()
        second.__enter__()
    assert torch.get_num_threads() == inside
    second.__exit__(None, None, None)
    assert torch.get_num_threads() == 3
    with pytest.raises(ValueError, match="theirs"), fixed_threads():
        raise ValueError("theirs")
    assert torch.get_num_threads() == 3


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Convolutions that torch divides among its threads, sums included."""
    first, second = (
        RNG.standard_normal((rows, columns, 1, 1)).astype(np.float32)
        for rows, columns in ((96, 32), (64, 96))
    )

    def build(x: Any) -> Any:
        return mb.conv(x=mb.conv(x=x, weight=first, bias=first[:, 0, 0, 0]), weight=second)

    path = tmp_path_factory.mktemp("model") / "convolutions.mlpackage"
    convert(program(build, (1, 32, 56, 56))).save(str(path))
    return path


def test_a_calibrated_run_and_a_sweep_have_the_same_bytes(model: Path, tmp_path: Path) -> None:
    (feature,) = mlpass.Interpreter(model).inputs
    samples = [{feature.name: RNG.standard_normal(feature.shape, np.float32)} for _ in range(3)]
    given = {"sample_data": samples, "backend": "torch"}

    def made(name: object) -> tuple[object, ...]:
        out = tmp_path / f"{name}.mlpackage"
        report = mlpass.prune(model, out, Percentile(0.5), method=mlpass.SparseGPT(), **given)
        swept = mlpass.sweep(model, configs=[Percentile(0.3)], **given)
        return tree(out), [layer.error for layer in report.layers], swept.trials

    found = []
    for threads in (1, 2, 3, 7):
        torch.set_num_threads(threads)
        found.append(made(threads))
        assert torch.get_num_threads() == threads
    with ThreadPoolExecutor(2) as pool:
        found += pool.map(made, "ab")
    assert all(each == found[0] for each in found)
