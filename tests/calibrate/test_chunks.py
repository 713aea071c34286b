"""Packages in a row, calibrated as one."""

from __future__ import annotations

import gc
import warnings
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import coremltools as ct
import numpy as np
import pytest

import mlpass
from mlpass import NM, ConfigError, ModelFormatError, Palette, Percentile, Quantized
from mlpass.calibrate import layers as calibrated
from mlpass.ledger import journal_path
from mlpass.program.mlmodel import open_package
from mlpass.runtime.chain import in_a_row
from mlpass.runtime.description import Description, Feature
from mlpass.runtime.materialize import materialize
from mlpass.weights.reading import weight_of
from mlpass.weights.sites import find_sites
from tests.conftest import FIXTURES
from tests.program.packages import tree
from tests.runtime import cuts
from tests.runtime.chains import chunk, chunks, talks, turns, whole, with_functions

TINY_LM = FIXTURES / "tiny_lm.mlpackage"
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


@pytest.mark.slow_but_every(7)
@pytest.mark.parametrize(
    ("config", "options"),
    [
        (Percentile(0.5), {}),
        (Percentile(0.5), {"target": "dense"}),
        (Percentile(0.5, scope="global"), {}),
        (NM(2, 4), {"storage": Quantized("int4")}),
        (Percentile(0.5), {"allocate": "error"}),
        (Percentile(0.5), {"storage": Palette(3, group_size=8), "target": "dense"}),
        (Percentile(0), {"storage": Palette(2, outliers=0.02)}),
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


@pytest.fixture(scope="module")
def two_functions(tmp_path_factory):
    return with_functions(tmp_path_factory.mktemp("functions"))


TURNS = turns(6)


@pytest.mark.parametrize(
    ("config", "options"),
    [
        (Percentile(0.5), {}),
        (Percentile(0.5, scope="global"), {"target": "own"}),
        (NM(2, 4), {"storage": Quantized("int4")}),
    ],
    ids=str,
)
@pytest.mark.parametrize("apart", [False, True])
def test_packages_of_several_functions_get_the_weights_that_one_gets(
    two_functions, config, options, apart, tmp_path
):
    """Prefill and decode go through all packages, on the states that they share."""
    one, three = two_functions
    samples = TURNS
    if apart:
        samples = {
            of: [dict(step) for turn in TURNS for name, step in turn if name == of]
            for of in ("prefill", "decode")
        }
    alone, outputs = tmp_path / "one.mlpackage", [tmp_path / f"{n}.mlpackage" for n in range(3)]
    options = {"sample_data": samples, "method": mlpass.SparseGPT(), **options}
    mlpass.prune(one, alone, config, **options)
    mlpass.prune(three, outputs, config, **options)
    found = stored(outputs)
    assert len(found) == 6
    assert found == stored(alone)
    assert found != stored(three)
    compared = mlpass.compare(alone, outputs, samples).outputs
    assert {each.function for each in compared} == {"prefill", "decode"}
    assert {each.max_error for each in compared} == {0}


def test_each_function_runs_through_all_packages(two_functions):
    for name in ("prefill", "decode"):
        one, three = (mlpass.Interpreter(each, function_name=name) for each in two_functions)
        first, second = one.make_state(), three.make_state()
        for of, step in TURNS[0] + TURNS[1]:
            if of == name:
                made = three.predict(step, second)["x3"]
                np.testing.assert_array_equal(made, one.predict(step, first)["x3"])
    with pytest.raises(ConfigError, match="'decod', did you mean 'decode'"):
        mlpass.Interpreter(two_functions[1], function_name="decod")


def test_a_budget_is_for_all_together(models, tmp_path):
    outputs = [tmp_path / f"{name}.mlpackage" for name in "abc"]
    report = mlpass.prune(models[1], outputs, bits=4)
    files = [file for path in outputs for file in path.rglob("weight.bin")]
    assert len(files) == 3
    assert report.budget.used == sum(file.stat().st_size for file in files)
    assert report.budget.used <= report.budget.nbytes


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"sample_data": SAMPLES, "target": "dense"}])
def test_a_budget_is_divided_as_that_of_one_package(models, options, tmp_path):
    """Each file begins with 64 bytes that are not weights."""
    one, three = models
    alone, outputs = tmp_path / "one.mlpackage", [tmp_path / f"{n}.mlpackage" for n in range(3)]
    mlpass.prune(one, alone, budget=9000, **options)
    mlpass.prune(three, outputs, budget=9000 + 2 * 64, **options)
    found = stored(outputs)
    assert found == stored(alone)
    assert len({len(weight) for weight in found.values()}) > 1 and found != stored(three)


@pytest.fixture(scope="module")
def cut(tmp_path_factory):
    """tiny_lm in three, as coremltools cuts it: in a layer, between gate and up."""
    folder = tmp_path_factory.mktemp("cut")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # coremltools leaves directories behind
        for model in (TINY_LM, folder / "tiny_lm_chunk1.mlpackage"):
            ct.models.utils.bisect_model(str(model), str(folder), check_output_correctness=False)
        gc.collect()
    names = ("chunk1_chunk1", "chunk1_chunk2", "chunk2")
    return [folder / f"tiny_lm_{name}.mlpackage" for name in names]


# The whole has one table for embedding and head, calibrated for both; cut, it is two weights, each
# calibrated for its own use, and whatever comes after the embedding sees other values. So it is
# spared, and all else is the same: what is handed on is fp32, which loses nothing.
@pytest.mark.slow
def test_a_transformer_that_coremltools_cut_gets_the_same_weights(cut, tmp_path):
    alone, outputs = tmp_path / "one.mlpackage", [tmp_path / f"{n}.mlpackage" for n in range(3)]
    config = mlpass.Config(Percentile(0.5), op_name_configs={"embedding_weight_to_fp16": None})
    draw = np.random.default_rng(7)
    samples = [{"tokens": draw.integers(0, 256, (1, 64)).astype(np.int32)} for _ in range(3)]
    mlpass.prune(TINY_LM, alone, config, sample_data=samples)
    report = mlpass.prune(cut, outputs, config, sample_data=samples)
    wanted = stored(alone)
    assert stored(outputs) == wanted
    dense = stored(cut)
    assert [name for name in wanted if wanted[name] == dense[name]] == ["embedding_weight_to_fp16"]
    assert len(report.layers) == len(wanted) + 1
    (output,) = mlpass.compare(alone, outputs, samples).outputs
    assert output.max_error == 0


PLACES = [(3, 4), (10, 11), (1, 2), (5, 6), (7, 8), (2, 9)]


@pytest.fixture(scope="module")
def residual(tmp_path_factory):
    """What has branches: one package, and for a method its weights and what they aim at."""
    folder = tmp_path_factory.mktemp("residual")
    (one,) = cuts.cut(folder)

    @cache
    def pruned(method):
        out = folder / f"{method}.mlpackage"
        report = mlpass.prune(one, out, Percentile(0.5), sample_data=STEPS, method=method)
        return stored(out), [layer.target for layer in report.layers]

    return pruned


STEPS = cuts.talks(*[3] * 12)


@pytest.mark.slow_but_every(9)
@pytest.mark.parametrize("places", PLACES, ids=str)
@pytest.mark.parametrize("method", [mlpass.SparseGPT(), mlpass.ADMM()], ids=str)
def test_wherever_it_is_cut_a_model_gets_the_weights_that_one_gets(
    residual, method, places, tmp_path
):
    """Between a weight's output, its bias and its stream; after that; between two weights."""
    wanted, targets = residual(method)
    assert len([each for each in targets if each.startswith("dense stream")]) > 0
    outputs = [tmp_path / f"{number}.mlpackage" for number in range(3)]
    options = {"sample_data": STEPS, "method": method}
    report = mlpass.prune(cuts.cut(tmp_path / "cut", *places), outputs, Percentile(0.5), **options)
    assert stored(outputs) == wanted
    assert [layer.target for layer in report.layers] == targets


def test_a_stream_is_followed_where_fp16_is_handed_on(residual, tmp_path):
    _, targets = residual(mlpass.SparseGPT())
    outputs = [tmp_path / f"{number}.mlpackage" for number in range(3)]
    three = cuts.cut(tmp_path / "cut", 3, 10, handed="fp16")
    report = mlpass.prune(three, outputs, Percentile(0.5), sample_data=STEPS)
    followed = [
        [target.startswith("dense stream") for target in some]
        for some in (targets, [layer.target for layer in report.layers])
    ]
    assert followed == [[False, True, False, False, True, False]] * 2


def test_fp16_that_is_handed_on_is_rounded(models, tmp_path):
    three = chunks(tmp_path, "fp16")
    runner, parts = mlpass.Interpreter(three), [mlpass.Interpreter(each) for each in three]
    state, states = runner.make_state(), [part.make_state() for part in parts]
    exact = mlpass.Interpreter(models[1])
    for step in SAMPLES[0]:
        values = step
        for number, (part, own) in enumerate(zip(parts, states, strict=True), 1):
            values = {f"x{number}": part.predict(values, own)[f"x{number}"].astype(np.float16)}
        found = runner.predict(step, state)["x3"]
        assert found.dtype == np.float16
        np.testing.assert_array_equal(found, values["x3"])
    first = SAMPLES[0][0]
    other = exact.predict(first, exact.make_state())["x3"].astype(np.float16)
    assert (runner.predict(first, runner.make_state())["x3"] != other).any()


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


def test_what_has_one_name_is_of_one_kind():
    def described(takes, makes):
        return Description(*(tuple(Feature(*each) for each in some) for some in (takes, makes)), ())

    first = described([("x", "array", "fp32", (1,))], [("y", "array", "fp32", (1,))])
    other = described(
        [("y", "array", "fp32", (1,)), ("x", "array", "int32", (1,))],
        [("z", "array", "fp32", (1,))],
    )
    image = described([("y", "image", "fp32", (1, 1))], [("z", "array", "fp32", (1,))])
    with pytest.raises(ConfigError, match="b takes 'x' as .* and one before it as"):
        in_a_row([("a", first), ("b", other)])
    with pytest.raises(ConfigError, match="b takes 'y' as .* and those before it make"):
        in_a_row([("a", first), ("b", image)])


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
        mlpass.inspect([models[0], FIXTURES / "digits_pipeline.mlpackage"])
    with pytest.raises(ModelFormatError, match="is in a .pte; packages in a row must be"):
        mlpass.inspect([models[0], tmp_path / "model.pte"])
    with pytest.raises(ConfigError, match="tune: is for one package"):
        mlpass.prune(
            models[1], tmp_path / "out", Percentile(0.5), sample_data=SAMPLES, tune=mlpass.Regions()
        )
    with pytest.raises(ConfigError, match="model: must be one package"):
        mlpass.sweep(models[1], SAMPLES, [Percentile(0.5)])
    with pytest.raises(ConfigError, match="model: must be one package"):
        mlpass.explain(models[1])
    with (
        ThreadPoolExecutor(1) as executor,
        pytest.raises(ConfigError, match="sent an .mlpackage. For a list"),
    ):
        mlpass.prune(
            models[1],
            [tmp_path / f"{name}.mlpackage" for name in "abc"],
            Percentile(0.5),
            sample_data=SAMPLES,
            executor=executor,
        )


def test_training_is_for_one_package(models, tmp_path):
    pytest.importorskip("torch")
    from mlpass import finetune

    for function in (finetune.to_module, finetune.to_stored_module):
        with pytest.raises(ConfigError, match="model: must be one package"):
            function(models[1])
    with pytest.raises(ConfigError, match="model: must be one package"):
        finetune.polish(models[1], tmp_path / "out", models[0], SAMPLES, finetune.Polish(1))


def test_each_is_checked_and_inspected(models):
    assert len({layer.name for layer in mlpass.inspect(models[1]).layers}) == 6
    (wide,) = (each for each in mlpass.check(models[1]).hazards if each.kind == "fp32")
    alone = [
        place
        for model in models[1]
        for each in mlpass.check(model).hazards
        if each.kind == "fp32"
        for place in each.places
    ]
    assert len(wide.places) == len(alone) > 0
    assert mlpass.check(models[1], SAMPLES).samples == len(SAMPLES)


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
