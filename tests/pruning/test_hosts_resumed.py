"""Runs that die while they work on a model in a program, or on packages in a row, gone on with."""

from __future__ import annotations

import shutil

import coremltools as ct
import numpy as np
import pytest
from coremltools.converters.mil.mil import Builder as mb

import mlpass
from mlpass import CalibrationError, ConfigError
from mlpass.calibrate.journal import Journal
from mlpass.ledger import journal_path
from mlpass.program.hosted import write_hosts
from mlpass.program.inmemoryfs import digest
from mlpass.program.pte import Pte
from tests.conftest import FIXTURES
from tests.program.packages import tree
from tests.runtime.chains import chunks, talks
from tests.runtime.programs import convert

DELEGATES = FIXTURES / "executorch" / "delegates.pte"
SIZES = {"forward/0": 64, "forward/1": 80}
BUDGETS = [{"budget": "0.4x"}, {"bits": 4, "minimum_deployment_target": "iOS18"}]


def layers(path, size):
    """Writes three linear layers."""
    draw = np.random.default_rng(size)
    weights = draw.standard_normal((3, size, size)).astype(np.float32) / np.sqrt(size / 2)

    @mb.program(input_specs=[mb.TensorSpec((4, size))], opset_version=ct.target.iOS17)
    def model(x):
        for number, weight in enumerate(weights):
            x = mb.relu(x=mb.linear(x=x, weight=weight, name=f"layer_{number}"))
        return x

    convert(model, minimum_deployment_target=ct.target.iOS17).save(str(path))
    return path


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """A program of two models with several weights each."""
    folder = tmp_path_factory.mktemp("program")
    stacks = [layers(folder / f"{size}.mlpackage", size) for size in SIZES.values()]
    pte = Pte(DELEGATES)
    write_hosts(pte, dict(zip(pte.models, stacks, strict=True)), folder / "m.pte", force=False)
    return folder / "m.pte"


def samples_for(model):
    (feature,) = mlpass.Interpreter(model).inputs
    rng = np.random.default_rng(3)
    return [{feature.name: rng.standard_normal(feature.shape)} for _ in range(16)]


def dies_after(count, monkeypatch, run):
    """Has a run die as soon as so many layers are finished."""
    add, finished = Journal.add, []

    def dying(self, site, solution):
        if len(finished) == count:
            raise KeyboardInterrupt
        add(self, site, solution)
        finished.append(site)

    with monkeypatch.context() as patched:
        patched.setattr(Journal, "add", dying)
        with pytest.raises(KeyboardInterrupt):
            run()
    assert len(finished) == count


@pytest.mark.slow_but_every(13)
@pytest.mark.parametrize("given", BUDGETS, ids=str)
@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("in_place", [False, True])
def test_a_budget_goes_on_in_the_middle_of_a_model(
    program, in_place, name, count, given, tmp_path, monkeypatch
):
    whole, out = tmp_path / "whole.pte", tmp_path / "out.pte"
    source = shutil.copy(program, out) if in_place else program
    given = {**given, "sample_data": samples_for(program / name), "force": in_place}
    mlpass.prune(program / name, whole, **given)
    before = program.read_bytes()

    def run(**options):
        return mlpass.prune(f"{source}/{name}", out, **given, **options)

    dies_after(count, monkeypatch, run)
    assert out.exists() == in_place and (not in_place or out.read_bytes() == before)
    assert len(list(journal_path(out).glob("*.npz"))) == count
    solved = []
    add = Journal.add
    monkeypatch.setattr(Journal, "add", lambda *each: solved.append(add(*each)))
    run(resume=True)
    assert out.read_bytes() == whole.read_bytes() != before
    assert len(solved) <= 3 - count  # what was finished is not solved for again
    kept = [name != each for each in SIZES]
    images = ([Pte(path).image(blob).items for blob in Pte(path).models] for path in (program, out))
    assert [digest(one) == digest(other) for one, other in zip(*images, strict=True)] == kept
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.pte", "whole.pte"]


@pytest.mark.slow
def test_both_models_one_after_the_other_each_gone_on_with(program, tmp_path, monkeypatch):
    outputs = {}
    for dying in (False, True):
        source = program
        for name in SIZES:
            out = tmp_path / f"{dying}-{name[-1]}.pte"
            given = {"sample_data": samples_for(program / name), "budget": "0.4x"}

            def run(source=source, name=name, out=out, given=given, **options):
                return mlpass.prune(source / name, out, **given, **options)

            if dying:
                dies_after(2, monkeypatch, run)
            run(resume=dying)
            source = out
        outputs[dying] = source.read_bytes()
    assert outputs[True] == outputs[False]


@pytest.mark.parametrize("change", ["model", "budget", "samples"])
def test_what_another_run_left_is_refused_and_kept(program, change, tmp_path, monkeypatch):
    out, name = tmp_path / "out.pte", "forward/0"
    given = {"sample_data": samples_for(program / name), "budget": "0.4x"}
    dies_after(2, monkeypatch, lambda: mlpass.prune(program / name, out, **given))
    left = tree(journal_path(out))
    if change == "model":
        name, given["sample_data"] = "forward/1", samples_for(program / "forward/1")
    elif change == "budget":
        given["budget"] = "0.3x"
    else:
        given["sample_data"] = given["sample_data"][1:]
    with pytest.raises(CalibrationError, match="belongs to a run with another model, config, meth"):
        mlpass.prune(program / name, out, **given, resume=True)
    assert tree(journal_path(out)) == left and not out.exists()


def test_for_all_models_at_once_there_is_nothing_to_go_on_with(program, tmp_path):
    with pytest.raises(ConfigError, match="resume: goes on with what was solved for on samples"):
        mlpass.prune(program, tmp_path / "out.pte", budget="0.4x", resume=True)
    samples = samples_for(program / "forward/0")
    with pytest.raises(ConfigError, match="holds 2 models, and samples and budgets are for one"):
        mlpass.prune(program, tmp_path / "out.pte", bits=4, sample_data=samples, resume=True)
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize(
    "given", [BUDGETS[0], pytest.param(BUDGETS[1], marks=pytest.mark.slow)], ids=str
)
@pytest.mark.parametrize("count", [3, pytest.param(1, marks=pytest.mark.slow)])
def test_packages_in_a_row_go_on_in_the_middle_of_any(given, count, tmp_path, monkeypatch):
    sources = chunks(tmp_path)
    given = {**given, "sample_data": talks(*[3] * 9)}

    def run(stem, **options):
        outputs = [tmp_path / f"{stem}{number}.mlpackage" for number in range(3)]
        mlpass.prune(sources, outputs, **given, **options)
        return [tree(path) for path in outputs]

    wanted = run("whole")
    dies_after(count, monkeypatch, lambda: run("out"))
    assert not [*tmp_path.glob("out*")]
    assert run("out", resume=True) == wanted
    assert not [*tmp_path.glob(".*")]
