"""Packages of several functions: what they share is compressed once, and stays one blob."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import mlpass
from mlpass import ADMM, NM, Config, Lossless, Magnitude, Palette, Percentile, Quantized
from mlpass.blas import one_blas_thread
from mlpass.calibrate.calibration import Calibration, make_calibration
from mlpass.calibrate.walk import observe_dense
from mlpass.cli import main
from mlpass.errors import CalibrationError, ConfigError
from mlpass.plan.config import as_config
from mlpass.plan.steps import plan
from mlpass.program.blobs import blob_nbytes
from mlpass.program.mlpackage import Package
from mlpass.runtime.interpreter import Interpreter
from mlpass.runtime.samples import load_samples
from mlpass.weights.sites import find_sites
from tests import peer
from tests.multifunction import (
    PREFILL,
    WIDTH,
    adapted,
    lm,
    pairs,
    save_adapters,
    save_functions,
    save_lm,
    talks,
)
from tests.program.packages import FIXTURES

WEIGHT_FILE = "Data/com.apple.CoreML/weights/weight.bin"
BOTH = FIXTURES / "multifunction_lm.mlpackage"
CONFIGS = {
    "2:4": (NM(2, 4), None),
    "int4": (Percentile(0), Quantized("int4", block_size=32)),
    "palette": (Percentile(0), Palette(4, group_size=16)),
    "2:4 int4": (NM(2, 4), Quantized("int4")),
    "outliers": (Percentile(0), Palette(3, outliers=0.01)),
}


def size(package):
    return (package / WEIGHT_FILE).stat().st_size


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("functions")


@pytest.fixture(scope="module")
def two(folder):
    """A language model in two functions, and the same with nothing but one of them."""
    (folder / "two").mkdir()
    (folder / "one").mkdir()
    one = save_functions(folder / "one", {"prefill": lm(PREFILL)}, "prefill")
    return save_lm(folder / "two"), one


@pytest.fixture(scope="module")
def adapters(folder):
    (folder / "adapters").mkdir()
    return save_adapters(folder / "adapters")


READS = {"linear": "weight", "gather": "x"}


def read_weights(package):
    """What each function's ops read, by the op's name: decoded by coremltools."""
    (program,) = peer.load_programs(package)
    return {
        function: {
            op.name: peer.value_of(op.inputs[READS[op.op_type]].op)
            for op in peer.walk(block)
            if op.op_type in READS and not op.name.endswith("_rest")
        }
        for function, block in program.functions.items()
    }


def predicted(package, sample, weights=None):
    """What the steps of a sample give, each by its own function's Interpreter, on one state."""
    runners = {name: Interpreter(package, function_name=name) for name in ("prefill", "decode")}
    state = runners["prefill"].make_state()
    for name, runner in runners.items() if weights else ():
        (part,) = runner.parts
        for op in part.plan.function.block.walk():
            if op.type in READS:
                weight = weights[name][op.name].astype(np.float32)
                part.constants.replace(op.inputs[READS[op.type]][0], weight)
    return [runners[name].predict(step, state)["logits"] for name, step in sample]


def test_coremltools_shares_what_functions_have_alike(two, folder):
    """The file of both takes what one takes: what the tests below compare with."""
    both, one = two
    assert size(both) == size(one)
    assert size(folder / "two/decode_alone.mlpackage") >= size(both)
    shared = [layer for layer in mlpass.inspect(both).layers if len(layer.functions) == 2]
    assert len(shared) == len(mlpass.inspect(both).layers) == len(mlpass.inspect(one).layers) == 14


@pytest.mark.slow_but_every(12)
@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("solved", [False, True])
def test_what_functions_share_is_compressed_once(two, tmp_path, name, solved):
    both, one = two
    mode, storage = CONFIGS[name]
    samples = talks(8) if solved else None
    out = tmp_path / "out.mlpackage"
    report = mlpass.prune(both, out, mode, storage=storage, sample_data=samples)
    done = [each for each in report.layers if each.op_type == "linear" and not each.skipped]
    assert len(done) == 13
    assert all((layer.samples == 8) is solved for layer in done)
    first, second = read_weights(out).values()
    assert len(first) == len(second) == 14
    assert {key: each.tobytes() for key, each in first.items()} == {
        key: each.tobytes() for key, each in second.items()
    }
    with Package(out) as package:
        stored = {site.functions for site in find_sites(package.programs)}
        assert stored == {("decode", "prefill")}
    if not solved:  # both come to what one comes to, to the byte
        alone = tmp_path / "one.mlpackage"
        mlpass.prune(one, alone, mode, storage=storage)
        assert size(out) == size(alone)


@pytest.mark.slow_but_every(4)
@pytest.mark.parametrize("name", ["2:4", "2:4 int4", "palette"])
def test_both_functions_predict_what_coremltools_decodes(two, tmp_path, name):
    mode, storage = CONFIGS[name]
    out = tmp_path / "out.mlpackage"
    mlpass.prune(two[0], out, mode, storage=storage, sample_data=talks(8))
    (sample,) = talks(1, seed=9)
    with one_blas_thread():
        decoded = predicted(two[0], sample, read_weights(out))
        found, dense = predicted(out, sample), predicted(two[0], sample)
    assert all(np.array_equal(*pair) for pair in zip(found, decoded, strict=True))
    assert not any(np.array_equal(*pair) for pair in zip(found, dense, strict=True))


def test_a_shared_weight_meets_what_all_functions_give_it():
    rng = np.random.default_rng(0)
    samples = {
        name: [{"tokens": rng.integers(0, 256, (1, count)).astype(np.int32)} for _ in range(3)]
        for name, count in (("prefill", 64), ("short", 16))
    }
    with Package(BOTH) as package:
        steps = plan(find_sites(package.programs), as_config(Percentile(0.5)))

        def grams(given, **options):
            calibration = make_calibration(Magnitude(), given, propagate="dense", **options)
            assert isinstance(calibration, Calibration)
            with observe_dense(package, steps, calibration) as met:
                return {step.site.name: each for step, each in met}

        whole = grams(samples)
        parts = [grams(each, function_name=name) for name, each in samples.items()]
    assert len(whole) > 20
    for name, each in whole.items():
        if name.startswith("embedding"):
            continue  # also a table, for which something is put on the diagonal
        found, *summed = (one[name].gram.matrix * one[name].gram.unit for one in (whole, *parts))
        summed = sum(summed)
        np.testing.assert_allclose(found, summed, rtol=1e-4, atol=1e-4 * np.abs(summed).max())
        assert (each.samples, each.tokens) == (6, 3 * (64 + 16))


@pytest.mark.slow_but_every(8)
@pytest.mark.parametrize(
    "options",
    [
        {"target": "dense"},
        {"allocate": "owl"},
        {"allocate": "error"},
        {"propagate": "dense"},
        {"backend": "torch"},
        {"method": ADMM(iterations=3)},
        {"memory_budget": 0},
    ],
    ids=str,
)
def test_options_of_a_calibrated_run_go_with_several_functions(two, tmp_path, options):
    out = tmp_path / "out.mlpackage"
    report = mlpass.prune(two[0], out, Percentile(0.5), sample_data=talks(8), **options)
    done = [each for each in report.layers if each.op_type == "linear" and not each.skipped]
    assert len(done) == 13
    assert all(layer.samples == 8 and layer.tokens == 8 * (PREFILL + 3) for layer in done)
    first, second = read_weights(out).values()
    assert all(np.array_equal(first[key], second[key]) for key in first)


@pytest.mark.slow
def test_a_budget_is_divided_over_what_functions_share(two, tmp_path):
    out = tmp_path / "out.mlpackage"
    report = mlpass.prune(two[0], out, budget="0.3x", sample_data=talks(16))
    assert size(out) == report.budget.used <= 0.3 * size(two[0])
    assert "samples kept back" in report.budget.judged


def test_samples_of_one_function_are_enough(two, tmp_path):
    samples = [[step] for step, *_ in talks(8)]
    report = mlpass.prune(two[0], tmp_path / "o.mlpackage", Percentile(0.5), sample_data=samples)
    plain = [dict(step) for ((_, step),) in samples]
    again = mlpass.prune(two[0], tmp_path / "p.mlpackage", Percentile(0.5), sample_data=plain)
    assert [layer.error for layer in report.layers] == [layer.error for layer in again.layers]
    note = (
        "14 weights were solved for on samples of prefill alone, and are read by decode as well: "
        "sample_data={function: samples} (--sample-data FUNCTION=PATH, once for each) has all of "
        "them heard"
    )
    assert note in report.notes
    assert note in again.notes
    whole = mlpass.prune(two[0], tmp_path / "q.mlpackage", Percentile(0.5), sample_data=talks(2))
    assert not any("as well" in each for each in whole.notes)


def test_samples_come_from_paths_by_function(tmp_path, capsys):
    rng = np.random.default_rng(1)
    paths = {}
    for name, count in (("prefill", 64), ("short", 16)):
        tokens = rng.integers(0, 256, (4, 1, count)).astype(np.int32)
        paths[name] = tmp_path / f"{name}.npz"
        np.savez(paths[name], tokens=tokens)
        (tmp_path / "samples" / f"function={name}").mkdir(parents=True)
        for number, each in enumerate(tokens):
            np.savez(tmp_path / "samples" / f"function={name}" / f"{number}.npz", tokens=each)
    layers = []
    command = ["prune", str(BOTH), "--target-sparsity", "0.5", "--force", "--json"]
    flags = [word for name, path in paths.items() for word in ("--sample-data", f"{name}={path}")]
    for given in (flags, ["--sample-data", str(tmp_path / "samples")]):
        assert main([*command, "-o", str(tmp_path / "o.mlpackage"), *given]) == 0
        layers.append(json.loads(capsys.readouterr().out)["layers"])
    report = mlpass.prune(BOTH, tmp_path / "p.mlpackage", Percentile(0.5), sample_data=paths)
    layers.append(json.loads(json.dumps(report.to_dict()["layers"])))
    assert layers[0] == layers[1] == layers[2]
    assert {layer["samples"] for layer in layers[0] if not layer["skipped"]} == {8}


def test_a_path_is_given_once_or_once_for_each_function(tmp_path, capsys):
    command = ["prune", str(BOTH), "-o", str(tmp_path / "o"), "--target-sparsity", "0.5"]
    for given in (["a.npz", "b.npz"], ["short=a.npz", "short=b.npz"], ["a.npz", "short=b.npz"]):
        flags = [word for each in given for word in ("--sample-data", each)]
        with pytest.raises(SystemExit, match="2"):
            main([*command, *flags])
        assert "give it once, or once for each function, FUNCTION=PATH" in capsys.readouterr().err


def test_functions_are_named_for_all_samples_or_for_none_and_are_there(tmp_path):
    step = {"tokens": np.zeros((1, 64), np.int32)}

    def prune(samples, **options):
        mlpass.prune(
            BOTH, tmp_path / "o.mlpackage", Percentile(0.5), sample_data=samples, **options
        )

    with pytest.raises(CalibrationError, match="some samples name the function that they are for"):
        prune([step, ("prefill", step)])
    with pytest.raises(ConfigError, match="function_name: the samples name their functions"):
        prune([("prefill", step)], function_name="prefill")
    with pytest.raises(ConfigError, match="must be one of .*Got 'shorts', did you mean 'short'"):
        prune({"prefill": [step], "shorts": [step]})
    with pytest.raises(ConfigError, match="executor: goes with samples that name no functions"):
        prune([("prefill", step)], executor=ThreadPoolExecutor(1))
    with pytest.raises(CalibrationError, match="sample 1 .of those for 'short'.: .*tokens"):
        prune([("prefill", step), ("short", step)])


def test_a_run_of_one_function_is_not_gone_on_with_for_another(two):
    from mlpass.runtime.digests import digest_of

    names = ("prefill", "decode")
    step = {"tokens": np.zeros((1, 1))}
    given = [load_samples([(name, step)], functions=True) for name in names] + [[step]]
    assert len({digest_of([], {}, samples) for samples in given}) == 3


ADAPTED = {"weight_threshold": 256}


def test_adapters_are_left_as_they_are_and_that_is_told(adapters, folder, tmp_path):
    (tmp_path / "base").mkdir()
    base = save_functions(tmp_path / "base", {"base": adapted()}, "base")
    out, alone = tmp_path / "out.mlpackage", tmp_path / "alone.mlpackage"
    report = mlpass.prune(adapters, out, Config(NM(2, 4), **ADAPTED), storage="int4")
    mlpass.prune(base, alone, Config(NM(2, 4), **ADAPTED), storage="int4")
    left = [layer for layer in report.layers if layer.skipped == "adapter, left as it is"]
    assert len(left) == 8
    assert [len(layer.functions) for layer in left] == [1] * 8
    assert [len(layer.functions) for layer in report.layers if not layer.skipped] == [3] * 3
    (note,) = (each for each in report.notes if "adapters" in each)
    assert note == (
        "8 weights are adapters, beside weights that functions share, and left as they are: "
        "adapters=True in the Config (--adapters) includes them, a name in op_name_configs one of "
        "them"
    )
    # One base, and the adapters as they were: known before anything is written.
    assert size(out) == size(alone) + sum(blob_nbytes(layer.bytes_before) for layer in left)
    before, after = read_weights(adapters), read_weights(out)
    for name in ("first", "second"):
        for op in ("down_0", "up_0", "down_1", "up_1"):
            assert np.array_equal(before[name][op], after[name][op])
        assert np.array_equal(after[name]["base_0"], after["base"]["base_0"])


def test_adapters_come_along_where_that_is_asked_for(adapters, tmp_path, capsys):
    out = tmp_path / "out.mlpackage"
    report = mlpass.prune(adapters, out, Config(NM(2, 4), adapters=True, **ADAPTED))
    assert [layer.skipped for layer in report.layers] == [None] * 11
    assert not any("adapters" in note for note in report.notes)
    yaml = tmp_path / "c.yaml"
    yaml.write_text("adapters: true\nglobal_config: {n_m_ratio: [2, 4]}\nweight_threshold: 256\n")
    flags = ["--n-m-ratio", "2:4", "--weight-threshold", "256", "--adapters"]
    for given in (["--config", str(yaml)], flags):
        command = ["prune", str(adapters), "-o", str(out), "--force", "--json", *given]
        assert main(command) == 0
        told = json.loads(capsys.readouterr().out)
        assert [layer["zeros"] for layer in told["layers"]] == [
            layer.zeros for layer in report.layers
        ]


def test_one_is_included_by_its_name(adapters, tmp_path):
    name = next(each.name for each in mlpass.inspect(adapters).layers if "up_0" in each.name)
    config = Config(NM(2, 4), op_name_configs={name: Percentile(0.75)}, **ADAPTED)
    report = mlpass.prune(adapters, tmp_path / "o.mlpackage", config)
    found = {layer.name: layer.mode for layer in report.layers if layer.functions != ("base",)}
    assert found[name] == "Percentile(0.75)"
    assert sum(layer.skipped == "adapter, left as it is" for layer in report.layers) == 7


def test_each_adapter_is_solved_for_on_its_own_function(adapters, tmp_path):
    rng = np.random.default_rng(2)
    rows = rng.standard_normal((3, 8, 4, WIDTH)).astype(np.float16)
    samples = {
        name: [{"x": each} for each in some]
        for name, some in zip(("base", "first", "second"), rows, strict=True)
    }
    config = Config(Percentile(0.5), adapters=True, **ADAPTED)
    report = mlpass.prune(adapters, tmp_path / "o.mlpackage", config, sample_data=samples)
    counts = {layer.functions: layer.samples for layer in report.layers}
    assert counts == {("base", "first", "second"): 24, ("first",): 8, ("second",): 8}
    some = {name: samples[name] for name in ("base", "first")}
    report = mlpass.prune(adapters, tmp_path / "p.mlpackage", config, sample_data=some)
    left = {layer.functions for layer in report.layers if layer.skipped == "no sample reaches it"}
    assert left == {("second",)}


def test_a_budget_leaves_adapters_as_they_are(adapters, tmp_path):
    out = tmp_path / "o.mlpackage"
    report = mlpass.prune(adapters, out, budget="0.6x")
    assert size(out) <= 0.6 * size(adapters)
    assert sum(layer.skipped == "adapter, left as it is" for layer in report.layers) == 8
    with pytest.raises(ConfigError, match=r"8 of 11 stay .*; --adapters \(adapters=True in the Co"):
        mlpass.prune(adapters, tmp_path / "p.mlpackage", budget="0.2x")
    with pytest.raises(ConfigError, match="cannot take less than") as told:
        mlpass.prune(
            adapters, tmp_path / "p.mlpackage", Config(adapters=True, **ADAPTED), budget="0.01x"
        )
    assert "--adapters" not in str(told.value)


def test_without_loss_they_are_left_as_well(adapters, tmp_path):
    report = mlpass.prune(adapters, tmp_path / "o.mlpackage", Config(Lossless()))
    assert sum(layer.skipped == "adapter, left as it is" for layer in report.layers) == 8


def test_of_the_only_function_a_pair_is_weights_like_others(tmp_path):
    path = save_functions(tmp_path, {"main": adapted(pairs(0))}, "main")
    report = mlpass.prune(path, tmp_path / "o.mlpackage", Config(NM(2, 4), **ADAPTED))
    assert [layer.skipped for layer in report.layers] == [None] * 7


def test_inspect_shows_which_functions_share_a_weight(adapters):
    text = str(mlpass.inspect(adapters))
    assert "base, first, second" in text
    assert mlpass.inspect(adapters).to_dict()["layers"][0]["functions"] == (
        ["base", "first", "second"]
    )
    plain = str(mlpass.inspect(FIXTURES / "tiny_lm.mlpackage"))
    assert "functions" not in plain
