"""Several functions replayed as one: each sample meets what its own function's steps meet."""

from __future__ import annotations

import numpy as np
import pytest

import mlpass
from mlpass.cli import main
from mlpass.errors import CalibrationError
from mlpass.program.mlpackage import Package
from mlpass.runtime.calls import Call, function_of
from mlpass.runtime.functions import Functions
from mlpass.runtime.interpreter import Interpreter
from mlpass.runtime.replay import stops
from mlpass.runtime.samples import load_samples
from tests.multifunction import save_adapters, save_lm, talks
from tests.runtime.programs import FIXTURES
from tests.runtime.sequences import copied


@pytest.fixture(scope="module", params=[False, True], ids=["states", "one state"])
def lm(request, tmp_path_factory):
    return save_lm(tmp_path_factory.mktemp("lm"), one_state=request.param)


def linear(op):
    return op.type == "linear"


def opened(package, *names, backend="numpy"):
    return Functions(
        {name: Interpreter(package, function_name=name, backend=backend) for name in names}
    )


class Seen:
    """A listener that keeps what linear ops are given, by the op."""

    def __init__(self):
        self.found = {}

    def before(self, op, inputs):
        if linear(op):
            self.found.setdefault(op, []).append(copied(inputs["x"]))

    def after(self, op, outputs):
        pass


def met_by_hand(functions, sample):
    """What each op meets where a sample's steps are predicted one by one, on one state."""
    seen, state = Seen(), functions.new_state(sample)
    functions.listeners.append(seen)
    for step in sample:
        functions.take(step, state)
    functions.listeners.remove(seen)
    return seen.found


@pytest.mark.slow_but_every(7)
@pytest.mark.parametrize("backend", ["numpy", "torch"])
@pytest.mark.parametrize("budget", [0, 1 << 30])
def test_each_op_meets_what_its_own_function_gives_it_to_the_byte(lm, backend, budget):
    samples = load_samples(talks(3), functions=True)
    with Package(lm) as package:
        functions = opened(package, "prefill", "decode", backend=backend)
        found = {}
        for stop in stops(functions, samples, linear, memory_budget=budget):
            for number in stop.samples:
                for op in stop.wanted:
                    shown = stop.arguments(op)[number]
                    found.setdefault(op, {})[number] = [copied(one["x"]) for one in shown]
        for number, sample in enumerate(samples):
            wanted = met_by_hand(functions, sample)
            assert wanted.keys() == found.keys()
            for op, given in wanted.items():
                assert [one.tobytes() for one in given] == [
                    one.tobytes() for one in found[op][number]
                ]


def test_decoding_meets_other_inputs_without_the_prefill(lm):
    """Or the test above could not fail where the state is not handed on."""
    (sample,) = load_samples(talks(1), functions=True)
    with Package(lm) as package:
        functions = opened(package, "prefill", "decode")
        whole, alone = met_by_hand(functions, sample), met_by_hand(functions, sample[1:])
    differ = [op for op, given in alone.items() if given[0].tobytes() != whole[op][0].tobytes()]
    assert differ


def both():
    """A sample for each function of a package without states."""
    return [
        Call(name, {"tokens": np.arange(count, dtype=np.int32)[None]})
        for name, count in (("prefill", 64), ("short", 16))
    ]


def stored(op):
    """What the weight of an op is called in both."""
    return op.inputs["weight"][0].name.split("_to_fp16")[0]


def test_samples_of_all_functions_come_to_a_shared_weight_at_once():
    with Package(FIXTURES / "multifunction_lm.mlpackage") as package:
        functions = opened(package, "prefill", "short")
        met = []
        for stop in stops(functions, both(), linear):
            for first, second in [stop.wanted] if stop.wanted else []:
                assert [len(stop.arguments(first)[number]) for number in (0, 1)] == [1, 0]
                assert [len(stop.arguments(second)[number]) for number in (0, 1)] == [0, 1]
                assert stored(first) == stored(second)
                met.append(stored(first))
        assert len(met) == len({*met}) == 22


def test_what_comes_later_meets_a_replaced_weight_in_all_functions():
    with Package(FIXTURES / "multifunction_lm.mlpackage") as package:
        functions = opened(package, "prefill", "short")
        zero = []
        for stop in stops(functions, both(), linear):
            for number, op in enumerate(stop.wanted):
                if stored(op).endswith("_value_weight"):
                    weight = op.inputs["weight"][0]
                    stop.replace(weight, np.zeros(weight.type.shape, np.float32))
                if stored(op).endswith("_out_weight"):  # it meets the values, mixed
                    zero.append(not copied(stop.arguments(op)[number][0]["x"]).any())
        assert len(zero) > 2
        assert all(zero)


def test_ops_of_three_functions_are_neighbours_where_they_read_one_weight(tmp_path):
    package = save_adapters(tmp_path)
    with Package(package) as opened_package:
        functions = opened(opened_package, "second", "base", "first")
        (part,) = functions.parts
        groups = [part.plan.block.steps[start:end] for start, end in part.groups]
        names = [
            [
                part.plan.makers[step.op.inputs["weight"][0]].inputs["val"][0].storage
                for step in group
            ]
            for group in groups
        ]
        assert [len({*each}) for each in names] == [1, 1, 1]
        assert [len(each) for each in names] == [3, 3, 3]


def test_states_that_do_not_fit_together_are_refused(lm):
    (sample,) = load_samples(talks(1), functions=True)
    with Package(lm) as package:
        functions = opened(package, "prefill", "decode")
        runner = functions.runners["decode"]
        name, feature = next(iter(runner.states.items()))
        runner.states[name] = type(feature)(name, "array", "fp16", (1, 1))
        with pytest.raises(
            CalibrationError, match=rf"keep different states under the name '{name}'"
        ):
            functions.new_state(sample)
        assert functions.new_state(sample[1]) is not None


def test_a_function_without_states_takes_no_state():
    functions = opened(FIXTURES / "multifunction_lm.mlpackage", "short", "prefill")
    step = Call("short", {"tokens": np.zeros((1, 16), np.int32)})
    assert functions.new_state(step) is None
    alone = mlpass.Interpreter(FIXTURES / "multifunction_lm.mlpackage", function_name="short")
    np.testing.assert_array_equal(
        functions.take(step, None)["logits"], alone.predict(dict(step))["logits"]
    )
    assert function_of(step) == "short"


def test_the_command_predicts_with_the_function_that_is_named(tmp_path, capsys):
    model, given = FIXTURES / "multifunction_lm.mlpackage", tmp_path / "x.npz"
    tokens = np.arange(16, dtype=np.int32)[None]
    np.savez(given, tokens=tokens)
    command = ["predict", str(model), "--inputs", str(given), "-o", str(tmp_path / "y.npz")]
    assert main(command) == 1  # the default takes 64
    assert "must be of shape (1, 64)" in capsys.readouterr().err
    assert main([*command, "--function-name", "short"]) == 0
    wanted = mlpass.Interpreter(model, function_name="short").predict({"tokens": tokens})
    with np.load(tmp_path / "y.npz") as made:
        np.testing.assert_array_equal(made["logits"], wanted["logits"])
    assert main([*command, "--force", "--function-name", "long"]) == 1
    assert "function_name: must be one of 'prefill', 'short'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"x": np.zeros((3, 3), np.float32)}, "input 'x': must be of shape"),
        ({"y": np.zeros((4, 64), np.float32)}, "there is no input 'y'"),
    ],
)
def test_what_is_wrong_names_the_function_that_the_sample_is_for(wrong, text, tmp_path):
    package = save_adapters(tmp_path)
    right = {"x": np.ones((4, 64), np.float32)}
    samples = load_samples({"base": [right, right], "first": [wrong]}, functions=True)
    with pytest.raises(
        CalibrationError, match=rf"sample_data: sample 2 \(of those for 'first'\): {text}"
    ):
        list(stops(opened(package, "base", "first"), samples, linear))
