"""Packages in a row, calibrated as one."""

from __future__ import annotations

import numpy as np
import pytest

import mlpass
from mlpass import NM, ConfigError, ModelFormatError, Percentile, Quantized
from mlpass.calibrate import layers as calibrated
from mlpass.ledger import journal_path
from mlpass.program.mlmodel import open_package
from mlpass.runtime.materialize import materialize
from mlpass.weights.reading import weight_of
from mlpass.weights.sites import find_sites
from tests.program.packages import tree
from tests.runtime.chains import chunk, chunks, talks, whole

SAMPLES = talks(5, 4, 6)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return whole(folder / "whole.mlpackage"), chunks(folder)


def stored(model):
    """Returns the bytes of each weight, by its name."""
    with open_package(model) as package:
        return {
            site.name.split("/")[-1]: (
                materialize(site.parts, site.opset) if site.parts else weight_of(site)
            ).tobytes()
            for site in find_sites(package.programs)
        }


def size(path):
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


@pytest.mark.parametrize(
    ("config", "options"),
    [
        (Percentile(0.5), {}),
        (Percentile(0.5), {"target": "dense"}),
        (Percentile(0.5, scope="global"), {}),
        (NM(2, 4), {"storage": Quantized("int4")}),
        (Percentile(0.5), {"allocate": "error"}),
    ],
    ids=str,
)
def test_three_packages_get_the_weights_that_one_gets(models, config, options, tmp_path):
    one, three = models
    alone, outputs = tmp_path / "one.mlpackage", [tmp_path / f"{n}.mlpackage" for n in range(3)]
    options = {"sample_data": SAMPLES, "method": mlpass.SparseGPT(), **options}
    mlpass.prune(one, alone, config, **options)
    report = mlpass.prune(three, outputs, config, **options)
    found, wanted = stored(outputs), stored(alone)
    assert len(wanted) == 6
    assert found == wanted
    assert found != stored(three)
    assert report.bytes_before == sum(map(size, three))
    assert report.bytes_after == sum(map(size, outputs))
    (output,) = mlpass.compare(alone, outputs, SAMPLES).outputs
    assert output.max_error == 0


def test_each_package_keeps_a_state_of_its_own(models):
    one, three = (mlpass.Interpreter(each) for each in models)
    assert list(three.states) == ["a/memory", "b/memory", "c/memory"]
    first, second = one.make_state(), three.make_state()
    for step in SAMPLES[0]:
        np.testing.assert_array_equal(
            three.predict(step, second)["x3"], one.predict(step, first)["x3"]
        )
    for name, other in zip(("a", "b", "c"), three.states, strict=True):
        np.testing.assert_array_equal(first.read_state(name), second.read_state(other))


def test_a_run_that_dies_in_the_second_package_goes_on(models, tmp_path, monkeypatch):
    outputs = [tmp_path / f"{name}.mlpackage" for name in "abc"]
    others = [tmp_path / f"{name}{name}.mlpackage" for name in "abc"]
    solved, solve = [], calibrated.solve

    def dying(weight, *given, **options):
        if len(solved) == 3:
            raise KeyboardInterrupt
        solved.append(weight)
        return solve(weight, *given, **options)

    with monkeypatch.context() as patched:
        patched.setattr(calibrated, "solve", dying)
        with pytest.raises(KeyboardInterrupt):
            mlpass.prune(models[1], outputs, Percentile(0.5), sample_data=SAMPLES)
    assert not any(path.exists() for path in outputs)
    assert journal_path(outputs[0]).is_dir()
    mlpass.prune(models[1], outputs, Percentile(0.5), sample_data=SAMPLES, resume=True)
    mlpass.prune(models[1], others, Percentile(0.5), sample_data=SAMPLES)
    assert [tree(path) for path in outputs] == [tree(path) for path in others]
    assert not journal_path(outputs[0]).exists()


def test_names_that_do_not_meet_are_told(models, tmp_path):
    a, b, c = models[1]
    other = chunk(tmp_path / "other.mlpackage", 1, makes="hidden")
    with pytest.raises(ConfigError, match="c.mlpackage takes nothing that .*other.mlpackage makes"):
        mlpass.Interpreter([a, other, c])
    with pytest.raises(ConfigError, match="it takes 'x2', and that makes 'x1'"):
        mlpass.Interpreter([a, c, b])


def test_an_output_for_each_package(models, tmp_path):
    out = tmp_path / "out.mlpackage"
    with pytest.raises(ConfigError, match="each of the 3 that are read. Got 1"):
        mlpass.prune(models[1], out, Percentile(0.5))
    with pytest.raises(ConfigError, match="out.mlpackage is named twice"):
        mlpass.prune(models[1], [out, tmp_path / "b.mlpackage", out], Percentile(0.5))
    with pytest.raises(ConfigError, match="written to one package. Got a list of 2"):
        mlpass.prune(models[0], [out, tmp_path / "b.mlpackage"], Percentile(0.5))
    assert not [*tmp_path.iterdir()]


def test_what_cannot_be_in_a_row(models, tmp_path):
    with pytest.raises(ModelFormatError, match="source: is an empty list"):
        mlpass.inspect([])
    with pytest.raises(ModelFormatError, match="is a pipeline; packages in a row must be ML"):
        mlpass.inspect([models[0], "fixtures/digits_pipeline.mlpackage"])
    with pytest.raises(ModelFormatError, match="is in a .pte; packages in a row must be"):
        mlpass.inspect([models[0], tmp_path / "model.pte"])
    with pytest.raises(ConfigError, match="tune: is for one package"):
        mlpass.prune(
            models[1], tmp_path / "out", Percentile(0.5), sample_data=SAMPLES, tune=mlpass.Regions()
        )
    with pytest.raises(ConfigError, match="model: a study is of one package"):
        mlpass.sweep(models[1], SAMPLES, [Percentile(0.5)])


def test_the_command_takes_an_output_for_each(models, tmp_path, capsys):
    from mlpass.cli import main

    three, outputs = (
        [str(path) for path in models[1]],
        [str(tmp_path / f"{n}.mlpackage") for n in "abc"],
    )
    into = [word for path in outputs for word in ("-o", path)]
    assert main(["prune", *three, *into, "--target-sparsity", "0.5"]) == 0
    assert "6 of 6 weights pruned" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["prune", *three, "-o", outputs[0], "--target-sparsity", "0.5"])
    assert "name an OUT for each MODEL. Got 1 for 3." in capsys.readouterr().err
