"""Samples of several functions: what they share learns from all of them, and stays shared."""

import json
import re

import numpy as np
import pytest
import torch

import mlpass
from mlpass import Config, Palette, Percentile
from mlpass.cli import main
from mlpass.errors import CalibrationError, ConfigError, InputError
from mlpass.finetune import MagnitudePruner, Polish, distill, finetune, polish, to_module
from mlpass.finetune.entry import Entry
from mlpass.finetune.feeding import batches, outputs_of
from mlpass.finetune.training import divided, divided_by_functions
from tests import peer
from tests.finetune.networks import FIXTURES
from tests.multifunction import WIDTH, save_adapters, save_lm, talks

WEIGHT_FILE = "Data/com.apple.CoreML/weights/weight.bin"
OPTIONS = Polish(steps=8, batch_size=4, learning_rate=1e-3)
SMALL = {"weight_threshold": 256}


@pytest.fixture(scope="module")
def lm(tmp_path_factory):
    """A language model of two functions, and the same with half of each weight zero."""
    folder = tmp_path_factory.mktemp("lm")
    dense, pruned = save_lm(folder), folder / "pruned.mlpackage"
    mlpass.prune(dense, pruned, Percentile(0.5))
    return dense, pruned


@pytest.fixture(scope="module")
def adapters(tmp_path_factory):
    """A base with two adapters, and the same with a palette for the base."""
    folder = tmp_path_factory.mktemp("adapters")
    dense, pruned = save_adapters(folder), folder / "pruned.mlpackage"
    mlpass.prune(dense, pruned, Config(Percentile(0.0), **SMALL), storage=Palette(bits=2))
    return dense, pruned


def size(package):
    return (package / WEIGHT_FILE).stat().st_size


def snr_of(dense, other, samples):
    found = mlpass.compare(dense, other, samples).outputs
    return {each.function: each.snr for each in found}


def inputs(*functions, count=4, seed=0):
    """Samples of functions that take x."""
    rng = np.random.default_rng(seed)
    return {
        name: [{"x": rng.standard_normal((4, WIDTH)).astype(np.float16)} for _ in range(count)]
        for name in functions
    }


def changed_of(before, after):
    """The function and name of each linear weight that two packages do not share."""
    first, last = weights_of(before), weights_of(after)
    return {
        (function, name)
        for function, own in last.items()
        for name, weight in own.items()
        if weight.tobytes() != first[function][name].tobytes()
    }


def sample_flags(folder, samples):
    """What a command is told of samples by function, which are written."""
    flags = []
    for name, some in samples.items():
        path = folder / f"{name}.npz"
        np.savez(path, x=np.stack([each["x"] for each in some]))
        flags += ["--sample-data", f"{name}={path}"]
    return flags


def weights_of(package):
    """What the linear ops of each function read, decoded by coremltools."""
    (program,) = peer.load_programs(package)
    return {
        function: {
            op.name: peer.value_of(op.weight.op)
            for op in peer.walk(block)
            if op.op_type == "linear"
        }
        for function, block in program.functions.items()
    }


@pytest.mark.slow
def test_a_polish_learns_from_sequences_of_two_functions_on_one_state(lm, tmp_path):
    dense, pruned = lm
    out = tmp_path / "out.mlpackage"
    report = polish(pruned, out, dense, talks(8), OPTIONS)
    before, after = (snr_of(dense, one, talks(4, seed=11)) for one in (pruned, out))
    assert all(after[name] > before[name] + 0.2 for name in ("prefill", "decode"))
    assert size(out) == size(pruned)
    own = weights_of(out)
    assert {name: each.tobytes() for name, each in own["prefill"].items()} == {
        name: each.tobytes() for name, each in own["decode"].items()
    }
    told = [re.match(r"(\w+) logits: SNR", note) for note in report.notes]
    assert [found[1] for found in told if found] == ["prefill", "decode"]
    assert not any("as well" in note for note in report.notes)


def test_what_is_trained_on_one_function_alone_is_told(lm, tmp_path):
    dense, pruned = lm
    alone = [steps[:1] for steps in talks(4)]
    report = polish(pruned, tmp_path / "o.mlpackage", dense, alone, OPTIONS)
    *_, note = report.notes
    found = re.match(
        r"(\d+) of what was trained on samples of prefill alone are read by decode", note
    )
    assert found and int(found[1]) >= 14  # its weights


def test_gradients_of_functions_add_up(lm):
    """As those of two modules of one function, each on its own samples."""
    dense, _ = lm
    samples = [step for sample in talks(2) for step in sample[:2]]

    def gradients(functions):
        module = to_module(dense, function_name=functions)
        chosen = [n for n, (name, _) in enumerate(samples) if name in functions]
        given = mlpass.runtime.samples.load_samples(samples, functions=True)
        for batch in batches(module, given, chosen):
            for outputs in outputs_of(module, batch):
                (outputs["logits"] ** 2).sum().backward()
        return {name: p.grad for name, p in module.named_parameters()}

    both, first, second = map(gradients, (["prefill", "decode"], ["prefill"], ["decode"]))
    assert both.keys() == first.keys() == second.keys()
    for name, grad in both.items():
        parts = [part for part in (first[name], second[name]) if part is not None]
        torch.testing.assert_close(grad, sum(parts), rtol=1e-4, atol=1e-5)


def test_each_function_gives_what_its_own_module_gives(lm):
    dense, _ = lm
    module = to_module(dense, function_name=["decode", "prefill"])
    for name, step in talks(1)[0][:2]:
        alone = to_module(dense, function_name=name)(**step)["logits"]
        assert torch.equal(module(None, name, **step)["logits"], alone)
    assert [each.name for each in module.inputs] == ["tokens", "position"]
    with pytest.raises(InputError, match="'decod', did you mean 'decode'.*runs decode, prefill"):
        module(None, "decod", tokens=np.zeros((1, 1)), position=np.zeros(1))


def test_only_adapters_of_functions_with_samples_are_trained(adapters, tmp_path):
    dense, pruned = adapters
    out = tmp_path / "out.mlpackage"
    report = polish(pruned, out, dense, inputs("base", "first", count=16), OPTIONS)
    changed = changed_of(pruned, out)
    assert {name for function, name in changed if function == "second"} == {"base_0", "base_1", "y"}
    assert {name for function, name in changed if function == "base"} == {"base_0", "base_1", "y"}
    low_rank = {"down_0", "down_1", "up_0", "up_1"}
    assert low_rank <= {name for function, name in changed if function == "first"}
    assert size(out) == size(pruned)
    assert "on samples of base, first alone are read by second as well" in report.notes[-1]
    others = inputs("base", "first", seed=5)
    better, before = (snr_of(dense, one, others) for one in (out, pruned))
    assert all(better[name] > before[name] + 0.1 for name in before)


def test_the_command_prunes_while_functions_train(adapters, tmp_path, capsys):
    dense, _ = adapters
    flags = sample_flags(tmp_path, inputs("base", "first", "second"))
    out, plain = tmp_path / "out.mlpackage", tmp_path / "plain.mlpackage"
    flags += ["--steps", "12", "--learning-rate", "2e-3", "--batch-size", "6", "--json"]
    prune = ["--target-sparsity", "0.5", "--weight-threshold", "256"]
    assert main(["finetune", str(dense), "-o", str(out), *prune, *flags]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["sparsity"] > 0
    mlpass.prune(dense, plain, Config(Percentile(0.5), **SMALL))
    others = inputs("base", "first", "second", seed=5)
    better, before = snr_of(dense, out, others), snr_of(dense, plain, others)
    assert all(better[name] > before[name] for name in before)
    assert len(report["notes"]) == 1


def test_a_loop_of_ones_own_trains_several(lm):
    dense, _ = lm
    module = to_module(dense, function_name=["prefill", "decode"])
    pruner = MagnitudePruner(module, Percentile(0.5))
    pruner.prepare()
    losses = distill(module, dense, talks(4), 6, learning_rate=1e-3, pruner=pruner, batch_size=4)
    assert losses[-1] < losses[1] < 1


def test_some_of_each_function_are_held_out():
    given = mlpass.runtime.samples.load_samples(inputs("base", "first", count=3), functions=True)
    held, drawn = divided_by_functions(given, 0.125, 0)
    assert sorted([*held, *drawn]) == list(range(6))
    assert [number // 3 for number in held] == [0, 1]
    plain = inputs("base", count=8)["base"]
    assert divided_by_functions(plain, 0.25, 3) == divided(8, 0.25, 3)


def test_what_cannot_be_is_refused(adapters, lm, tmp_path, monkeypatch):
    dense, pruned = adapters
    out = tmp_path / "out.mlpackage"
    one = {**inputs("base"), **inputs("first", count=1)}
    with pytest.raises(CalibrationError, match="two samples or more for first, .* Got 1"):
        polish(pruned, out, dense, one, OPTIONS)
    mixed = [*inputs("base")["base"], ("first", inputs("first")["first"][0])]
    with pytest.raises(CalibrationError, match="some samples name the function that they are for"):
        polish(pruned, out, dense, mixed, OPTIONS)
    with pytest.raises(ConfigError, match="Got 'thrid', did you mean 'third'|must be one of"):
        finetune(dense, out, Percentile(0.5), inputs("thrid"), steps=1)
    with pytest.raises(InputError, match="sample 0: is for the function 'first': .* runs base"):
        distill(to_module(dense), dense, inputs("first"), 1)
    states = iter([{"keys": (1, 2)}, {"keys": (2, 2)}])
    entry = Entry.__init__

    def odd(self, *given):
        entry(self, *given)
        object.__setattr__(self, "states", next(states))

    monkeypatch.setattr(Entry, "__init__", odd)
    with pytest.raises(ConfigError, match=r"'decode' keeps a state 'keys' of shape \(2, 2\), and"):
        to_module(lm[0], function_name=["prefill", "decode"])


def test_the_dense_model_runs_what_the_module_was_made_for(lm):
    """The default function of each, however it is called; of a pipeline, all of it."""
    decode = lm[0].parent / "decode_alone.mlpackage"
    module = to_module(decode)
    assert list(module.entries) == ["main"]
    steps = [step for name, step in talks(1)[0] if name == "decode"]
    assert distill(module, decode, steps[:1], 1) == [0.0]
    named = to_module(lm[0], function_name="decode")
    assert distill(named, to_module(decode), steps[:1], 1) == [0.0]
    assert distill(named, lm[0], steps[:1], 1) == [0.0]
    pipeline = FIXTURES / "digits_pipeline.mlpackage"
    module = to_module(pipeline)
    sample = {each.name: np.zeros(each.shape, np.float32) for each in module.inputs}
    assert distill(module, pipeline, [sample], 1) == [0.0]
