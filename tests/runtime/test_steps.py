"""The steps of a sample: a list of them, or arrays with one axis more."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import mlpass
from mlpass import Percentile
from mlpass.cli import main
from mlpass.errors import CalibrationError, ExecutionError, InputError
from mlpass.finetune import distill, to_module
from mlpass.runtime.description import Feature, Shapes
from mlpass.runtime.interpreter import Interpreter
from mlpass.runtime.samples import load_samples
from mlpass.runtime.steps import steps_of
from tests.runtime.sequences import STATEFUL, lm_sequences, predicted


class Runner:
    """Takes token and place, and keeps a state, or not."""

    def __init__(self, *, keeps: bool = True, **shapes: Shapes) -> None:
        shapes = shapes or {"token": fixed(1, 4), "place": fixed(1)}
        self.inputs = [
            Feature(name, "array", "int32", tuple(low for low, _ in each.ranges), each)
            for name, each in shapes.items()
        ]
        self.states = {"cache": ()} if keeps else {}


def fixed(*shape: int) -> Shapes:
    return Shapes(ranges=tuple((size, size) for size in shape))


def stacked(sample):
    """Returns a list of steps as arrays with one axis more."""
    return {name: np.stack([step[name] for step in sample]) for name in sample[0]}


@pytest.mark.parametrize("place", [(3, 1), (3,)])
def test_arrays_with_one_axis_more_are_steps(place):
    sample = {"token": np.arange(12).reshape(3, 1, 4), "place": np.arange(3).reshape(place)}
    steps = steps_of(sample, Runner())
    assert [step["token"].tolist() for step in steps] == sample["token"].tolist()
    assert [int(np.squeeze(step["place"])) for step in steps] == [0, 1, 2]


@pytest.mark.parametrize("place", [(), (1,)])
def test_arrays_of_the_models_own_axes_are_one_step(place):
    sample = {"token": np.zeros((1, 4)), "place": np.zeros(place)}
    assert steps_of(sample, Runner()) == (sample,)
    assert steps_of([sample, sample], Runner()) == [sample, sample]


def test_a_sequence_may_be_of_one_step():
    sample = {"token": np.zeros((1, 1, 4)), "place": np.zeros(1)}
    (step,) = steps_of(sample, Runner())
    assert step["token"].shape == (1, 4) and np.shape(step["place"]) == ()


def test_nested_lists_and_tensors_are_arrays_too():
    nested = {"token": [[[1, 2, 3, 4]], [[5, 6, 7, 8]]], "place": [0, 1]}
    assert steps_of(nested, Runner()) == [
        {"token": [[1, 2, 3, 4]], "place": 0},
        {"token": [[5, 6, 7, 8]], "place": 1},
    ]
    tensors = {name: torch.tensor(value) for name, value in nested.items()}
    assert [int(step["place"]) for step in steps_of(tensors, Runner())] == [0, 1]


def test_without_a_state_nothing_is_a_sequence():
    sample = {"token": np.zeros((3, 1, 4)), "place": np.zeros((3, 1))}
    assert steps_of(sample, Runner(keeps=False)) == (sample,)


def test_an_axis_of_any_length_is_not_taken_for_steps():
    runner = Runner(words=Shapes(ranges=((1, 64),)))
    sample = {"words": np.zeros(5)}
    assert steps_of(sample, runner) == (sample,)
    assert len(steps_of({"words": np.zeros((2, 5))}, runner)) == 2


def test_what_is_not_an_array_is_the_same_at_each_step():
    sample = {"token": np.zeros((2, 1, 4)), "place": np.zeros(2), "other": "text"}
    assert [step["other"] for step in steps_of(sample, Runner())] == ["text", "text"]


@pytest.mark.parametrize(
    ("token", "place"), [((3, 1, 4), (1,)), ((1, 4), (3,)), ((3, 1, 4), (2,)), ((0, 1, 4), (0,))]
)
def test_arrays_that_disagree_are_told_with_their_shapes(token, place):
    sample = {"token": np.zeros(token), "place": np.zeros(place)}
    with pytest.raises(InputError, match="must be one step, or a sequence: then all") as told:
        steps_of(sample, Runner())
    given = f"Got token {token}, place {place}; a step takes token int32 (1, 4), place int32 (1,)."
    assert str(told.value).endswith(given)


@pytest.mark.parametrize("token", [(4,), (2, 3, 1, 4)])
def test_what_fits_neither_is_left_to_say_which_axis_is_wrong(token):
    sample = {"token": np.zeros(token), "place": np.zeros(1)}
    assert steps_of(sample, Runner()) == (sample,)


def in_one_file(folder, samples):
    folder.mkdir()
    whole = [stacked(sample) for sample in samples]
    np.savez(
        folder / "talks.npz", **{name: np.stack([s[name] for s in whole]) for name in whole[0]}
    )
    return folder / "talks.npz"


def in_a_file_each(folder, samples):
    folder.mkdir()
    for number, sample in enumerate(samples):
        np.savez(folder / f"{number}.npz", **stacked(sample))
    return folder


WAYS = [in_one_file, in_a_file_each, lambda _, samples: [*map(stacked, samples)]]


@pytest.mark.slow_but_every(3)
@pytest.mark.parametrize("way", WAYS, ids=["npz", "folder", "dicts"])
def test_every_form_gives_the_same_as_lists_of_steps(way, tmp_path):
    samples = lm_sequences(4, 4)
    data = way(tmp_path / "data", samples)
    out, wanted = tmp_path / "out.mlpackage", tmp_path / "wanted.mlpackage"
    report = mlpass.prune(STATEFUL, out, Percentile(0.5), sample_data=data)
    assert {layer.tokens for layer in report.layers if layer.error is not None} >= {8}
    mlpass.prune(STATEFUL, wanted, Percentile(0.5), sample_data=samples)
    weights = [next(path.rglob("weight.bin")).read_bytes() for path in (out, wanted)]
    assert weights[0] == weights[1]
    assert (
        mlpass.compare(STATEFUL, out, data).outputs
        == mlpass.compare(STATEFUL, out, samples).outputs
    )


def test_sequences_of_several_lengths_in_a_folder(tmp_path):
    samples = lm_sequences(5, 2, 3)
    data = in_a_file_each(tmp_path / "data", samples)
    assert [len(steps_of(one, Interpreter(STATEFUL))) for one in load_samples(data)] == [5, 2, 3]
    found = mlpass.compare(STATEFUL, STATEFUL, data)
    assert (found.samples, found.outputs[0].top1) == (3, 1.0)


USES = {
    "prune": lambda data, out: mlpass.prune(STATEFUL, out, Percentile(0.5), sample_data=data),
    "compare": lambda data, out: mlpass.compare(STATEFUL, STATEFUL, data),
    "locate": lambda data, out: mlpass.locate(STATEFUL, STATEFUL, data),
    "check": lambda data, out: mlpass.check(STATEFUL, data),
    "sweep": lambda data, out: mlpass.sweep(STATEFUL, data, [Percentile(0.5)]),
    "distill": lambda data, out: distill(to_module(STATEFUL), STATEFUL, data, 1, batch_size=1),
}


@pytest.mark.slow_but_every(2)
@pytest.mark.parametrize("use", USES)
def test_every_command_takes_them_and_names_the_sample_that_disagrees(use, tmp_path):
    good, bad = map(stacked, lm_sequences(2, 2))
    USES[use]([good], tmp_path / "out.mlpackage")
    bad["position"] = bad["position"][:1]
    with pytest.raises(
        (CalibrationError, InputError), match=r"sample 1: must be one step, or a se"
    ):
        USES[use]([good, bad], tmp_path / "other.mlpackage")


def test_a_prediction_of_steps_has_them_in_its_outputs(tmp_path, capsys):
    (sample,) = lm_sequences(3)
    np.savez(tmp_path / "x.npz", **stacked(sample))
    words = ["--inputs", str(tmp_path / "x.npz"), "-o", str(tmp_path / "y.npz")]
    assert main(["predict", str(STATEFUL), *words]) == 0
    _, wanted = predicted(Interpreter(STATEFUL), sample)
    with np.load(tmp_path / "y.npz") as made:
        assert np.array_equal(made["logits"], np.stack([step["logits"] for step in wanted]))
        shape = made["logits"].shape
    assert shape[0] == 3 and f"logits {shape}" in capsys.readouterr().out


def test_outputs_of_steps_that_differ_in_shape_are_not_one_array(tmp_path, monkeypatch):
    (sample,) = lm_sequences(2)
    np.savez(tmp_path / "x.npz", **stacked(sample))
    sizes = iter((1, 2))
    monkeypatch.setattr(Interpreter, "predict", lambda *_: {"logits": np.zeros(next(sizes))})
    with pytest.raises(ExecutionError, match=r"differs in its shape from step to step \(\(1,\), "):
        mlpass.examine.predict.predict_to_file(STATEFUL, tmp_path / "x.npz", tmp_path / "y.npz")
