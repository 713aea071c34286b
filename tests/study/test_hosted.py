"""Studies of a model in an ExecuTorch program, for the function that its path means."""

from __future__ import annotations

import numpy as np
import pytest

import mlpass
from mlpass import ModelFormatError, OutputExistsError, Percentile
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
    package = FIXTURES / "digits_ios15.mlpackage"
    with pytest.raises(ModelFormatError, match="a package's name must end in .mlpackage"):
        mlpass.choose(package, tmp_path / "out.pte", **given)


def test_what_is_chosen_is_written_to_a_program(tmp_path):
    given = {"max_size": "0.9x", "sample_data": SAMPLES, "up_to": "data-free"}
    out = tmp_path / "out.pte"
    choice = mlpass.choose(METHODS / "prefill/0", out, **given)
    assert choice.output == str(out) and out.stat().st_size < METHODS.stat().st_size
    mlpass.choose(METHODS / "prefill/0", tmp_path / "out.mlpackage", **given)
    made, alone = (mlpass.inspect(each) for each in (out / "prefill/0", tmp_path / "out.mlpackage"))
    assert [one.sparsity for one in made.layers] == [one.sparsity for one in alone.layers]
    assert any(one.sparsity > 0 for one in made.layers)
    found = mlpass.compare(METHODS / "prefill/0", out / "prefill/0", SAMPLES)
    assert found.outputs[0].snr == pytest.approx(choice.picked.snr, rel=1e-6)
    with pytest.raises(OutputExistsError, match="already exists; pass force=True"):
        mlpass.choose(METHODS / "prefill/0", out, **given)
