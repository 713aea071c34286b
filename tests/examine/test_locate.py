"""Where two models part: against numpy, without names, on states, on values of other frameworks."""

from __future__ import annotations

import json
import math
import shutil
from typing import Any

import numpy as np
import pytest
from coremltools.converters.mil.mil import Builder as mb

import mlpass
from mlpass import CalibrationError, Config, ConfigError, Percentile
from mlpass.cli import main
from tests.examine.test_locate_faults import changed, maker, samples_of, to
from tests.program.packages import FIXTURES, edit_spec, operations


def sample_of(fixture: str) -> dict[str, np.ndarray]:
    with np.load(FIXTURES / f"{fixture}.npz") as truth:
        return {
            name.removeprefix("input:"): truth[name] for name in truth if name.startswith("input:")
        }


@pytest.mark.parametrize(
    "fixture", ["tiny_lm", "silero_vad", "digits_pipeline", "quantized_digits", "branches"]
)
def test_a_model_does_not_part_from_itself(fixture):
    model = FIXTURES / f"{fixture}.mlpackage"
    location = mlpass.locate(model, model, samples_of(fixture))
    assert (location.worst, location.first, location.unmatched) == ((), None, ())
    assert all(op.own == op.reached == math.inf and not op.differences for op in location.ops)
    assert "no op adds an error of its own" in str(location)


def test_a_model_with_states_is_walked_step_by_step(tmp_path):
    model, other = FIXTURES / "stateful_lm.mlpackage", tmp_path / "other.mlpackage"
    mlpass.prune(
        model, other, Config(op_name_configs={"layers_1_up_weight_to_fp16": Percentile(0.9)})
    )
    talk = [
        {"tokens": np.full((1, 1), 65 + place, np.int32), "position": np.array([place], np.int32)}
        for place in range(4)
    ]
    assert mlpass.locate(model, model, [talk]).worst == ()
    location = mlpass.locate(model, other, [talk])
    (worst,) = location.worst
    reader = next(
        one for one in mlpass.inspect(model).layers if one.name == "layers_1_up_weight_to_fp16"
    )
    assert (worst.op_type, reader.op_type) == ("linear", "linear")
    assert any(text.startswith("weight: ") for text in worst.differences)
    last = [op.reached for op in location.ops][-1]
    assert last < 40  # it reaches the outputs


def test_the_own_error_is_what_numpy_gives(tmp_path):
    model, other = FIXTURES / "digits_ios15.mlpackage", tmp_path / "other.mlpackage"
    mlpass.prune(model, other, Percentile(0.5))
    samples = [sample_of("digits_ios15")]
    location = mlpass.locate(model, other, samples)
    name = next(op.name for op in location.ops if op.op_type == "linear")
    first, second = (mlpass.Interpreter(path) for path in (model, other))
    block = first.parts[0].plan.function.block
    op = next(one for one in block.ops if one.type == "linear")
    half = np.float16
    fed = first.run(samples[0], [op.inputs["x"][0].name])[op.inputs["x"][0].name]
    made = []
    for each in (first, second):
        part = each.parts[0]
        own = next(one for one in part.plan.function.block.ops if one.type == "linear")
        weight, bias = (part.constants[own.inputs[one][0]] for one in ("weight", "bias"))
        made.append((fed.astype(half).astype(np.float64) @ weight.T + bias).astype(half))
    noise = np.square(made[0].astype(np.float64) - made[1]).sum()
    expected = 10 * np.log10(np.square(made[0].astype(np.float64)).sum() / noise)
    assert next(op.own for op in location.ops if op.name == name) == pytest.approx(expected, 1e-2)


def test_ops_of_other_names_are_matched_by_their_place(tmp_path):
    model, other = FIXTURES / "tiny_lm.mlpackage", tmp_path / "other.mlpackage"
    mlpass.prune(model, other, Percentile(0.5))
    kept = {one.name for one in mlpass.Interpreter(model).outputs} | {"tokens"}

    def rename(spec: Any) -> None:
        for operation in operations(spec):
            bindings = [one for each in operation.inputs.values() for one in each.arguments]
            for named in (*operation.outputs, *bindings):
                if named.name and named.name not in kept:
                    named.name = f"renamed_{named.name}"

    by_name = mlpass.locate(model, other, samples_of("tiny_lm"))
    edit_spec(other, rename)
    by_place = mlpass.locate(model, other, samples_of("tiny_lm"))
    assert by_place.unmatched == ()
    assert [op.own for op in by_place.ops] == [op.own for op in by_name.ops]
    assert len(by_place.worst) == len(by_name.worst) > 10


def test_values_of_another_framework_are_a_reference(tmp_path):
    other, sample = FIXTURES / "silero_vad.mlpackage", samples_of("silero_vad")[0]
    interpreter = mlpass.Interpreter(other)
    names = [
        op.outputs[0].name
        for op in interpreter.parts[0].plan.function.block.ops
        if op.type in ("conv", "relu")
    ]
    values = interpreter.run(sample, names)
    broken = {**values, names[-1]: values[names[-1]] * 1.5}
    path = tmp_path / "values.npz"
    np.savez(path, **broken)
    location = mlpass.locate(path, other, [sample])
    assert location.worst[0].own == pytest.approx(
        10 * math.log10(1.5**2 / 0.5**2), abs=0.1
    )  # in fp16
    assert [op.name for op in location.ops if op.own < 40] == [location.worst[0].name]
    assert location.worst[0].differences == ()
    assert len(location.ops) == len(names)

    with pytest.raises(CalibrationError, match="values of one prediction. Got 2 samples"):
        mlpass.locate(values, other, [sample, sample])
    near = f"none of the reference's values is one of the model's.*{names[0]}"
    with pytest.raises(CalibrationError, match=near):
        mlpass.locate({f"{names[0]}x": values[names[0]]}, other, [sample])


def test_what_cannot_be_asked_for():
    model = FIXTURES / "silero_vad.mlpackage"
    with pytest.raises(ConfigError, match="Core ML does not show what ops make"):
        mlpass.locate(model, model, samples_of("silero_vad"), backend="coreml")
    with pytest.raises(ConfigError, match="threshold: must be a number of dB. Got nan"):
        mlpass.locate(model, model, samples_of("silero_vad"), threshold=math.nan)


def test_an_op_of_its_own_that_fails_ends_it(tmp_path):
    model, other = FIXTURES / "tiny_lm.mlpackage", tmp_path / "other.mlpackage"
    shutil.copytree(model, other)
    fault = next(
        changed("tiny_lm", "matmul", "transpose_y", lambda t: to(not t.bools.values[0])(t))
    )
    fault.edit(other)
    location = mlpass.locate(model, other, samples_of("tiny_lm"))
    assert "matmul" in location.failure
    assert "does not run to its end" in str(location)
    assert location.ops[-1].reached is None

    def unmatched(spec: Any) -> None:
        name = fault.ops[0]
        for operation in operations(spec):
            bindings = [one for each in operation.inputs.values() for one in each.arguments]
            for named in (*operation.outputs, *bindings):
                named.name = "other" if named.name == name else named.name
        maker(spec, "other").type = "matmul"

    edit_spec(other, unmatched)
    edit_spec(
        other,
        lambda spec: maker(spec, "other").inputs["x"].CopyFrom(maker(spec, "other").inputs["y"]),
    )
    with pytest.raises(mlpass.ExecutionError, match="sample 0: matmul"):
        mlpass.locate(model, other, samples_of("tiny_lm"))


def test_the_command(tmp_path, capsys):
    model, other = FIXTURES / "tiny_lm.mlpackage", tmp_path / "other.mlpackage"
    mlpass.prune(model, other, Percentile(0.5))
    data = tmp_path / "samples.npz"
    np.savez(data, tokens=np.stack([each["tokens"] for each in samples_of("tiny_lm")]))
    words = ["compare", str(model), str(other), "--sample-data", str(data), "--locate"]
    assert main([*words, "--threshold", "15"]) == 0
    text = capsys.readouterr().out
    assert "its own error" in text
    assert "the first op that is reached by less than 15 dB is" in text
    assert main([*words, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["worst"][0] in {op["name"] for op in told["ops"]}
    assert told["first"] is not None
    assert main([*words, "--threshold", "nan"]) == 1
    assert "threshold: must be a number of dB" in capsys.readouterr().err


def test_what_an_op_reads_in_another_order_is_told(tmp_path):
    """Queries and keys change places in a product, and an epsilon is told as it was written."""

    def build(swap, epsilon):
        @mb.program(input_specs=[mb.TensorSpec((4, 8))])
        def program(x):
            keys = mb.l2_norm(x=mb.reshape(x=x, shape=[4, 1, 1, 8]), epsilon=epsilon, name="norm")
            keys = mb.reshape(x=keys, shape=[4, 8], name="k")
            pair = (mb.tanh(x=x, name="q"), keys)
            x, y = reversed(pair) if swap else pair
            return mb.matmul(x=x, y=y, transpose_y=True, name="scores")

        return program

    given = [{"x": np.random.default_rng(0).standard_normal((4, 8)).astype(np.float32)}]
    found = mlpass.locate(build(False, 1e-5), build(True, 0.1), given).worst
    told = {record.name: record.differences for record in found}
    assert told["scores"] == ("x: q -> k", "y: k -> q")
    assert told["norm"] == ("epsilon: 1e-05 -> 0.1",)
