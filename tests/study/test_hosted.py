"""Studies of a model in an ExecuTorch program, for the function that its path means."""

from __future__ import annotations

import numpy as np
import pytest

import mlpass
from mlpass import ModelFormatError, Percentile
from tests.conftest import FIXTURES

METHODS = FIXTURES / "executorch" / "methods.pte"
ROWS = np.load(METHODS.with_name("rows.npz"))["x"]
SAMPLES = [
    {"x": np.concatenate(ROWS) * scale} for scale in (1, 0.5, -1, 2)
]  # four rows: of prefill


def test_a_sweep_runs_the_function_of_the_method():
    (half,) = mlpass.sweep(METHODS / "prefill/0", SAMPLES, [Percentile(0.5)], jobs=1).trials
    assert half.snr is not None and half.sparsity == 0.5


def test_layers_are_measured_in_the_function_of_the_method():
    report = mlpass.sensitivity(METHODS / "prefill/0", SAMPLES, sparsities=(0.5,))
    assert len(report.layers) == 2


def test_what_is_chosen_is_written_as_a_package(tmp_path):
    given = {"max_size": "0.9x", "sample_data": SAMPLES, "up_to": "data-free"}
    choice = mlpass.choose(METHODS / "prefill/0", tmp_path / "out.mlpackage", **given)
    assert choice.output and mlpass.inspect(choice.output).layers
    with pytest.raises(ModelFormatError, match="a package's name must end in .mlpackage"):
        mlpass.choose(METHODS / "prefill/0", tmp_path / "out.pte", **given)
