"""Studies of a model in an ExecuTorch program, for the function that its path means."""

from __future__ import annotations

import numpy as np
import pytest

import mlpass
import mlpass.study.sweep as sweep_module
from mlpass import ModelFormatError, OutputExistsError, Percentile, Quantized
from mlpass.program.hosted import HostedPackage
from mlpass.program.opened import package_nbytes
from tests.conftest import FIXTURES

METHODS = FIXTURES / "executorch" / "methods.pte"
ROWS = np.load(METHODS.with_name("rows.npz"))["x"]
SAMPLES = [
    {"x": np.concatenate(ROWS) * scale} for scale in (1, 0.5, -1, 2)
]  # four rows: of prefill


def test_a_sweep_runs_the_function_of_the_method():
    report = mlpass.sweep(METHODS / "prefill/0", SAMPLES, [Percentile(0.5)], jobs=1)
    (half,) = report.trials
    assert half.snr is not None and half.sparsity == 0.5
    assert report.bytes_before == half.report.bytes_before == METHODS.stat().st_size


@pytest.mark.parametrize("path", ["inline.pte", "delegates.pte/forward/1", "methods.pte/prefill/0"])
def test_the_sizes_of_a_sweep_are_of_the_programs_that_its_commands_write(path, tmp_path):
    source = METHODS.parent / path
    configs = [Percentile(0.5), Quantized("int8")]
    report = mlpass.sweep(source, None, configs, jobs=1)
    for trial, config in zip(report.trials, configs, strict=True):
        mlpass.prune(source, tmp_path / "out.pte", config, force=True)
        assert trial.nbytes == (tmp_path / "out.pte").stat().st_size < report.bytes_before


def test_a_sweep_that_died_goes_on(tmp_path, monkeypatch):
    """What is unpacked for it is elsewhere the next time, and the trials are known all the same."""
    given = {"jobs": 1, "output": tmp_path / "report.json"}
    configs = [Percentile(0.25), Percentile(0.5)]
    run = sweep_module.run_trial

    def dies(setting, candidate, output=None):
        if candidate.config.global_config == configs[1]:
            raise KeyboardInterrupt
        return run(setting, candidate, output)

    monkeypatch.setattr(sweep_module, "run_trial", dies)
    with pytest.raises(KeyboardInterrupt):
        mlpass.sweep(METHODS / "prefill/0", SAMPLES, configs, **given)
    done = []
    monkeypatch.setattr(sweep_module, "run_trial", lambda *a: done.append(a[1]) or run(*a))
    report = mlpass.sweep(METHODS / "prefill/0", SAMPLES, configs, resume=True, **given)
    assert [each.config.global_config for each in done] == configs[1:]
    assert [trial.sparsity for trial in report.trials] == [0.25, 0.5]


def test_a_study_is_of_one_model():
    with pytest.raises(ModelFormatError, match="has 2 Core ML models; name one: .*forward/0, "):
        mlpass.sweep(METHODS.with_name("delegates.pte"), None, [Percentile(0.5)])


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
    assert choice.output == str(out) and choice.picked.nbytes == out.stat().st_size
    assert choice.bytes_before == METHODS.stat().st_size
    assert 0.85 < choice.picked.nbytes / choice.bytes_before <= 0.9
    alone = tmp_path / "out.mlpackage"
    mlpass.prune(METHODS / "prefill/0", alone, Percentile(choice.picked.sparsity))
    made, alone = (mlpass.inspect(each) for each in (out / "prefill/0", tmp_path / "out.mlpackage"))
    assert [one.sparsity for one in made.layers] == [one.sparsity for one in alone.layers]
    assert any(one.sparsity > 0 for one in made.layers)
    found = mlpass.compare(METHODS / "prefill/0", out / "prefill/0", SAMPLES)
    assert found.outputs[0].snr == pytest.approx(choice.picked.snr, rel=1e-6)
    with pytest.raises(OutputExistsError, match="already exists; pass force=True"):
        mlpass.choose(METHODS / "prefill/0", out, **given)


@pytest.mark.parametrize("form", ["mlpackage", "pte"])
def test_a_size_is_that_of_what_is_written(form, tmp_path):
    """Half of a package is less than half of a program that holds another model besides."""
    source, out = METHODS.with_name("delegates.pte") / "forward/0", tmp_path / f"out.{form}"
    samples = [{"x": row} for row in ROWS]
    given = {"sample_data": samples, "max_size": "0.9x", "up_to": "budget"}
    choice = mlpass.choose(source, out, **given)
    size = out.stat().st_size if out.is_file() else package_nbytes(out)
    assert size == choice.picked.nbytes <= 0.9 * choice.bytes_before
    assert [one.trial.nbytes for one in choice.attempts if one.rung == "budget"]
    with HostedPackage(source.parents[1], "forward/0") as package:
        alone = package_nbytes(package.path)
        assert choice.bytes_before == {"pte": package.nbytes, "mlpackage": alone}[form] > 0
