"""What will go wrong: planted hazards are named with their op, sound models raise no alarm."""

from __future__ import annotations

import json
import shutil

import coremltools as ct
import numpy as np
import pytest
from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.mil import types

import mlpass
from mlpass import ConfigError, UnsupportedOpError
from mlpass.cli import main
from mlpass.examine import check as check_module
from tests.examine.test_locate_faults import samples_of
from tests.multifunction import save_functions, save_lm, talks
from tests.program.packages import FIXTURES, edit_spec, main_block
from tests.runtime.programs import convert

STREAM = 22_560  # the largest value of SmolLM2's residual stream, as fp16


def package(tmp_path, build, *shapes, dtype=types.fp16):
    path = tmp_path / "model.mlpackage"
    specs = [mb.TensorSpec(shape, dtype) for shape in shapes]
    source = mb.program(input_specs=specs, opset_version=ct.target.iOS17)(build)
    convert(source, pass_pipeline=ct.PassPipeline.EMPTY).save(str(path))
    return path


def norm(x):
    """A plain RMSNorm, as it is written in a source model."""
    squares = mb.mul(x=x, y=x, name="squares")
    mean = mb.reduce_mean(x=squares, axes=[-1], keep_dims=True, name="mean")
    return mb.mul(x=x, y=mb.rsqrt(x=mean, name="root"), name="normed")


def stream():
    x = np.ones((1, 576), np.float16)
    x[0, 3] = STREAM
    return [{"x": x}]


def kinds(found):
    return [(hazard.severity, hazard.kind) for hazard in found.hazards]


def test_the_overflow_of_a_plain_norm_is_named_with_its_cure(tmp_path):
    path = package(tmp_path, norm, (1, 576))
    found = mlpass.check(path, stream())
    first = found.hazards[0]
    assert (first.severity, first.kind, first.places) == ("error", "overflow", ("squares",))
    assert f"{STREAM**2:,}" in first.text
    assert "largest magnitude" in first.cure
    assert {place for each in found.hazards for place in each.places} == {"squares", "mean"}
    assert mlpass.check(path).hazards == ()  # not seen without samples
    assert mlpass.check(path, [{"x": np.ones((1, 576), np.float16)}]).hazards == ()


def test_sums_on_the_way_are_told_of_the_neural_engine(tmp_path):
    def build(x):
        return mb.reduce_mean(x=x, axes=[-1], name="mean")

    path = package(tmp_path, build, (1, 576))
    given = [{"x": np.full((1, 576), 200, np.float16)}]
    found = mlpass.check(path, given)
    assert kinds(found) == [("warning", "sum")]
    assert (found.hazards[0].processor, found.hazards[0].places) == ("ane", ("mean",))
    assert f"{200 * 576:,}" in found.hazards[0].text
    assert mlpass.check(path, given, processor="gpu").hazards == ()


def test_what_becomes_zero_and_what_is_no_number(tmp_path):
    def build(x):
        small = mb.mul(x=x, y=np.float16(1e-5), name="small")
        faint = mb.mul(x=small, y=np.float16(1e-4), name="faint")
        return faint, mb.log(
            x=mb.sub(x=x, y=np.float16(9.0), name="below"), epsilon=np.float16(0), name="log"
        )

    path = package(tmp_path, build, (1, 8))
    with np.errstate(invalid="ignore"):
        found = mlpass.check(path, [{"x": np.ones((1, 8), np.float16)}])
    assert ("error", "not a number") in kinds(found)
    assert ("warning", "underflow") in kinds(found)
    places = {hazard.kind: hazard.places for hazard in found.hazards}
    assert places["underflow"] == ("faint",)
    assert places["not a number"] == ("log",)


def test_fp32_is_a_note_on_the_neural_engine(tmp_path):
    path = package(tmp_path, norm, (1, 576), dtype=types.fp32)
    found = mlpass.check(path, stream())
    assert kinds(found) == [("note", "fp32")]
    assert found.hazards[0].text.startswith("4 of 4 float ops are in fp32")
    assert mlpass.check(path, processor="cpu").hazards == ()


def test_arrays_of_many_axes(tmp_path, monkeypatch):
    def build(x):
        return mb.reshape(x=x, shape=[1, 2, 2, 2], name="deep")

    path = package(tmp_path, build, (1, 8))
    assert mlpass.check(path).hazards == ()
    monkeypatch.setattr(check_module, "_MOST_AXES", 3)  # coremltools writes none of more than 5
    found = mlpass.check(path)
    assert kinds(found) == [("warning", "rank")]
    assert "4 axes" in found.hazards[0].text


def test_an_axis_that_the_neural_engine_does_not_take(tmp_path):
    def build(x):
        return mb.concat(values=[x, x], axis=1, name="wide")

    for half, wanted in ((8192, []), (8193, [("note", "long axis")])):
        shutil.rmtree(tmp_path / "model.mlpackage", ignore_errors=True)
        path = package(tmp_path, build, (1, half))
        assert kinds(mlpass.check(path)) == wanted
    (found,) = mlpass.check(path).hazards
    assert (found.processor, found.places) == ("ane", ("wide",))
    assert "16,386" in found.text
    assert mlpass.check(path, processor="gpu").hazards == ()


@pytest.mark.parametrize(("width", "fits"), [(32, True), (40, False)])
def test_widths_of_states(width, fits, tmp_path):
    specs = [mb.StateTensorSpec((1, width), types.fp16), mb.TensorSpec((1, width), types.fp16)]

    @mb.program(input_specs=specs, opset_version=ct.target.iOS18)
    def source(kept, x):
        return mb.add(x=mb.read_state(input=kept), y=x)

    path = tmp_path / "model.mlpackage"
    convert(source, minimum_deployment_target=ct.target.iOS18).save(str(path))
    told = [hazard for hazard in mlpass.check(path).hazards if hazard.kind == "state"]
    assert [hazard.places for hazard in told] == ([] if fits else [("kept",)])
    assert fits or "states is 40" in told[0].text


def state_ios15(spec):
    spec.specificationVersion = 6


def call_ios15(spec):
    """Calls the opset of a function older than it is."""
    function = spec.mlProgram.functions["main"]
    block = function.block_specializations.pop(function.opset)
    function.opset = "CoreML5"
    function.block_specializations["CoreML5"].CopyFrom(block)


@pytest.mark.parametrize(("fixture", "opset"), [("tiny_lm", 18), ("digits_ios15", 16)])
def test_what_is_newer_than_the_package_says(fixture, opset, tmp_path):
    path, mode, target = tmp_path / "model.mlpackage", mlpass.Percentile(0.5), f"iOS{opset}"
    given = FIXTURES / f"{fixture}.mlpackage"
    mlpass.prune(given, path, mode, minimum_deployment_target=target)
    assert {"age", "form"}.isdisjoint(kind for _, kind in kinds(mlpass.check(path)))
    edit_spec(path, state_ios15)
    assert kinds(mlpass.check(path))[0] == ("warning", "age")
    edit_spec(path, call_ios15)
    (first, *_) = mlpass.check(path).hazards
    assert (first.severity, first.kind) == ("error", "form")
    assert first.text == f"weights are stored in forms of {target}, in a function of iOS15"
    assert target in first.cure
    if opset == 18:  # so that no command of ours mends it
        with pytest.raises(UnsupportedOpError, match="cannot be raised"):
            mlpass.prune(path, tmp_path / "out.mlpackage", mode, minimum_deployment_target=target)


def test_weights_that_are_stored_twice_or_not_read(tmp_path):
    weight = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float16)

    def build(x):
        first = mb.linear(x=x, weight=mb.const(val=weight, name="first"), name="one")
        return mb.linear(x=first, weight=mb.const(val=weight.copy(), name="second"), name="two")

    path = package(tmp_path, build, (1, 64))
    (found,) = mlpass.check(path).hazards
    assert (found.severity, found.kind, found.places) == (
        "warning",
        "duplicate",
        ("first", "second"),
    )

    def forget(spec):
        for operation in main_block(spec).operations:
            if operation.type == "linear":
                operation.inputs["weight"].arguments[0].name = "first"

    edit_spec(path, forget)
    (found,) = mlpass.check(path).hazards
    assert (found.kind, found.places) == ("unused", ("second",))
    assert f"{weight.nbytes:,} bytes" in found.text


def test_a_weight_file_past_2_gib(tmp_path, monkeypatch):
    path = tmp_path / "tiny_lm.mlpackage"
    shutil.copytree(FIXTURES / "tiny_lm.mlpackage", path)
    monkeypatch.setattr(check_module, "_MOST_BYTES", 100_000)
    found = mlpass.check(path)
    assert ("warning", "size") in kinds(found)


@pytest.mark.parametrize(
    "fixture", ["tiny_lm", "digits_ios15", "silero_vad", "branches", "quantized_digits"]
)
def test_sound_models_raise_no_error(fixture):
    found = mlpass.check(FIXTURES / f"{fixture}.mlpackage", samples_of(fixture))
    assert found.count("error") == 0, str(found)


def test_states_are_walked_through():
    talk = [
        {"tokens": np.full((1, 1), 65, np.int32), "position": np.array([place], np.int32)}
        for place in range(3)
    ]
    assert mlpass.check(FIXTURES / "stateful_lm.mlpackage", [talk]).count("error") == 0


def test_the_values_of_each_function_are_looked_at(tmp_path):
    """What one function makes of its own samples is too large; the other's is not."""

    def large(x):
        return mb.mul(x=x, y=np.float16(30000), name="much")

    def small(x):
        return mb.mul(x=x, y=np.float16(0.5), name="little")

    spec = [mb.TensorSpec((1, 4), types.fp16)]
    functions = {
        name: mb.program(input_specs=spec, opset_version=ct.target.iOS18)(build)
        for name, build in {"large": large, "small": small}.items()
    }
    whole = save_functions(tmp_path, functions, "small")
    ten = [{"x": np.full((1, 4), 10, np.float16)}]
    assert mlpass.check(whole, ten).count("error") == 0
    found = mlpass.check(whole, {"small": ten, "large": ten})
    (hazard,) = (each for each in found.hazards if each.severity == "error")
    assert hazard.kind == "overflow" and hazard.places == ("much",)
    assert found.samples == 2
    talk = [[("large", ten[0]), ("small", ten[0])]]  # a sequence may be for both
    assert mlpass.check(whole, talk).count("error") == 1
    with_state = save_lm(tmp_path)
    assert mlpass.check(with_state, talks(2)).count("error") == 0


def test_latency_is_estimated_against_the_same_weights_dense():
    path = FIXTURES / "quantized_digits.mlpackage"
    found = mlpass.check(path)
    ane, gpu = found.latency_estimates
    assert (ane.processor, gpu.processor) == ("ane", "gpu")
    assert mlpass.explain(path).latency_estimates == found.latency_estimates
    assert f"estimate, not measured: on the Neural Engine of an M1 {ane.ratio:.2f}" in str(found)
    assert "source: Apple's newsroom" in str(found)
    assert "latency_estimates" in found.to_dict()
    assert mlpass.check(path, processor="gpu").latency_estimates == (gpu,)
    assert "estimate" not in str(mlpass.check(path, processor="cpu"))


def test_what_cannot_be_asked_for():
    model = FIXTURES / "tiny_lm.mlpackage"
    with pytest.raises(ConfigError, match="processor: must be one of ane, cpu, gpu"):
        mlpass.check(model, processor="npu")
    with pytest.raises(ConfigError, match="Core ML does not show what ops make"):
        mlpass.check(model, backend="coreml")


def test_the_command(tmp_path, capsys):
    path, data = package(tmp_path, norm, (1, 576)), tmp_path / "samples.npz"
    np.savez(data, x=stream()[0]["x"][None])
    words = ["check", str(path), "--sample-data", str(data)]
    assert main(words) == 0
    text = capsys.readouterr().out
    assert "error: mul makes 508,953,600, which fp16 cannot hold" in text
    assert "2 errors, 0 warnings, 0 notes; 1 sample" in text
    assert "IEEE 754" in text
    assert main([*words, "--strict"]) == 1
    ended = capsys.readouterr()
    assert "fp16 cannot hold" in ended.out
    assert "strict: 2 errors and warnings were found" in ended.err
    assert main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["hazards"][0]["places"] == ["squares"]
