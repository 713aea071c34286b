"""Multiplications by the shapes that a program declares, against torch's own count as it runs."""

from __future__ import annotations

import json
from math import prod

import coremltools as ct
import numpy as np
import pytest
from coremltools.converters.mil.mil import Builder as mb
from coremltools.converters.mil.mil import get_new_symbol
from torch.utils.flop_counter import FlopCounterMode

import mlpass
from mlpass.cli import main
from mlpass.examine.multiplications import multiplications
from mlpass.report.estimate import BANDWIDTH
from tests.conftest import FIXTURES
from tests.runtime.programs import program

RNG = np.random.default_rng(0)


def counted(model):
    parts = mlpass.Interpreter(model).parts
    return sum(multiplications(part.plan.function) for part in parts)


@pytest.mark.parametrize(
    "name",
    [
        "basic_pitch",
        "digits_ios15",
        "digits_pipeline",
        "efficientnet_lite0",
        "multifunction_lm",
        "palettized_digits",
        "tiny_lm",
    ],
)
def test_fixtures_against_torch(name):
    interpreter = mlpass.Interpreter(FIXTURES / f"{name}.mlpackage", backend="torch")
    inputs = {each.name: np.zeros(each.shape, np.float32) for each in interpreter.inputs}
    with FlopCounterMode(display=False) as counter:
        interpreter.predict(inputs)
    assert counted(FIXTURES / f"{name}.mlpackage") == counter.get_total_flops() // 2


def weight(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize(
    ("build", "shape"),
    [
        (lambda x: mb.conv(x=x, weight=weight(8, 2, 3, 3), groups=2, strides=[2, 2]), (1, 4, 9, 9)),
        (lambda x: mb.conv_transpose(x=x, weight=weight(4, 8, 3, 3), strides=[2, 2]), (1, 4, 5, 5)),
        (lambda x: mb.linear(x=x, weight=weight(5, 7)), (2, 3, 7)),
        (lambda x: mb.matmul(x=x, y=weight(6, 5), transpose_y=False), (2, 4, 6)),
        (lambda x: mb.matmul(x=x, y=weight(5, 6), transpose_x=True, transpose_y=True), (6, 4)),
        (lambda x: mb.einsum(values=(x, weight(6, 4, 5)), equation="chw,whu->chu"), (2, 4, 6)),
    ],
    ids=["conv", "conv_transpose", "linear", "matmul", "matmul transposed", "einsum"],
)
def test_ops_against_torch(build, shape):
    model = program(build, shape)
    interpreter = mlpass.Interpreter(model, backend="torch")
    (feature,) = interpreter.inputs
    with FlopCounterMode(display=False) as counter:
        interpreter.predict({feature.name: weight(*shape)})
    assert counted(model) == counter.get_total_flops() // 2 > 0


def test_recurrent_ops_by_hand():
    """Silero has one step of an LSTM of 128 inputs and 128 units: two weights of 512x128.

    torch does not count its own LSTM; the convolutions before it, it does.
    """
    interpreter = mlpass.Interpreter(FIXTURES / "silero_vad.mlpackage", backend="torch")
    inputs = {each.name: np.zeros(each.shape, np.float32) for each in interpreter.inputs}
    with FlopCounterMode(display=False) as counter:
        interpreter.predict(inputs)
    lstm = 2 * 512 * 128
    found = counted(FIXTURES / "silero_vad.mlpackage")
    assert found == counter.get_total_flops() // 2 + lstm


def test_attention_by_hand():
    """Two heads of 5 queries, 7 keys and sizes of 8 and 3: each meets each, and weighs a value."""

    def attend(x):
        return mb.scaled_dot_product_attention(
            query=x, key=weight(1, 2, 7, 8), value=weight(1, 2, 7, 3)
        )

    assert counted(program(attend, (1, 2, 5, 8), opset=ct.target.iOS18)) == 2 * 5 * 7 * (8 + 3)


def test_shapes_that_vary_have_no_count():
    size = get_new_symbol()
    model = program(lambda x: mb.linear(x=x, weight=weight(5, 7)), (size, 7))
    (part,) = mlpass.Interpreter(model).parts
    assert multiplications(part.plan.function) is None


@pytest.mark.slow
def test_explain_estimates_against_the_same_weights_dense(tmp_path, capsys):
    package, out = FIXTURES / "tiny_lm.mlpackage", tmp_path / "out.mlpackage"
    dense = mlpass.explain(package)
    assert {one.ratio for one in dense.latency_estimates} == {1.0}
    assert "estimate" not in str(dense)
    mlpass.prune(package, out, mlpass.Percentile(0.75))
    assert main(["explain", str(out), "--json", "--for", "ane"]) == 0
    (one,) = json.loads(capsys.readouterr().out)["latency_estimates"]
    assert one["processor"] == "ane"
    layers = mlpass.inspect(out).layers  # the table of tokens is a product's weight, too: all count
    read = sum(each.bytes_before for each in layers)
    whole = sum(2 * prod(each.shape) for each in layers)
    done = 2 * counted(package)
    expected = max(read / BANDWIDTH[0], done / 11e12) / max(whole / BANDWIDTH[0], done / 11e12)
    assert one["ratio"] == pytest.approx(expected)
    assert "estimate, not measured: on the Neural Engine of an M1" in str(mlpass.explain(out))
    gpu = [each for each in mlpass.explain(out).latency_estimates if each.processor == "gpu"]
    assert [each.ratio for each in gpu] == [1.0]  # masks are unpacked there


def test_nothing_is_estimated_of_several_functions():
    assert mlpass.explain(FIXTURES / "multifunction_lm.mlpackage").latency_estimates == ()
