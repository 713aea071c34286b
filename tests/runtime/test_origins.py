"""What an error tells of where NaN and infinities come from."""

from __future__ import annotations

import numpy as np
import pytest
from coremltools.converters.mil.mil import Builder as mb

import mlpass
from mlpass import Config, Percentile
from mlpass.errors import CalibrationError
from tests.runtime.programs import convert, program

ROWS, SIZE = 6, 8
RNG = np.random.default_rng(0)
WEIGHTS = [RNG.standard_normal((SIZE, SIZE)).astype(np.float32) for _ in range(4)]
HALF = Config(Percentile(0.5), weight_threshold=0)
BANS = ", as where a mask of -inf bans a whole row: ban with a finite number, such as -1e4"


def shares(scores, how):
    """Softmax, as it may be written."""
    if how == "softmax":
        return mb.softmax(x=scores, axis=-1, name="shares")
    if how == "largest":
        scores = mb.sub(x=scores, y=mb.reduce_max(x=scores, axes=[-1], keep_dims=True), name="less")
    powers = mb.exp(x=scores, name="powers")
    return mb.real_div(x=powers, y=mb.reduce_sum(x=powers, axes=[-1], keep_dims=True), name="ratio")


def attention(how):
    def build(x, mask):
        q, k, v = (mb.linear(x=x, weight=w, name=n) for w, n in zip(WEIGHTS, "qkv", strict=False))
        mb.log(x=mb.sub(x=mb.mul(x=mask, y=np.float32(0)), y=np.float32(1)), name="elsewhere")
        masked = mb.add(x=mb.matmul(x=q, y=k, transpose_y=True), y=mask)
        mixed = mb.matmul(x=shares(masked, how), y=v)
        return mb.linear(x=mixed, weight=WEIGHTS[3], name="last")

    return program(build, (1, ROWS, SIZE), (1, ROWS, ROWS))


def samples(ban):
    data = [
        {
            "x": RNG.standard_normal((1, ROWS, SIZE)).astype(np.float32),
            "mask": np.zeros((1, ROWS, ROWS), np.float32),
        }
        for _ in range(4)
    ]
    data[2]["mask"][0, 1] = ban
    return data


@pytest.mark.slow_but_every(4)
@pytest.mark.parametrize(
    ("how", "origin"),
    [("softmax", "softmax 'shares'"), ("largest", "sub 'less'"), ("plain", "real_div 'ratio'")],
)
@pytest.mark.parametrize("target", ["own", "dense"])
def test_the_op_that_makes_nan_is_named_beside_the_sample(tmp_path, how, origin, target):
    convert(attention(how)).save(str(tmp_path / "in.mlpackage"))
    with pytest.raises(CalibrationError) as raised:
        mlpass.prune(
            tmp_path / "in.mlpackage",
            tmp_path / "out.mlpackage",
            HALF,
            sample_data=samples(-np.inf),
            target=target,
        )
    assert str(raised.value) == (
        "sample_data: a layer's inputs hold NaN or inf. (sample 2, 'last'); "
        f"the first to make NaN is {origin}{BANS}"
    )


def test_of_what_comes_with_a_sample_no_op_is_named():
    with pytest.raises(CalibrationError, match=r"inf\. \(sample 2, 'last'\)$"):
        mlpass.prune(attention("softmax"), HALF, sample_data=samples(np.nan))


def test_an_op_that_makes_inf_is_named():
    def build(x):
        x = mb.exp(x=mb.mul(x=x, y=np.float32(1000)), name="powers")
        return mb.linear(x=mb.relu(x=x), weight=WEIGHTS[0], name="last")

    with pytest.raises(CalibrationError, match=r"'last'\); the first to make inf is exp 'powers'$"):
        mlpass.prune(program(build, (4, SIZE)), HALF, sample_data=[{"x": np.ones((4, SIZE))}])


def test_rows_that_keep_a_place_are_no_problem():
    data = samples(0)
    data[2]["mask"][0, :, 1:] = -np.inf
    report = mlpass.prune(attention("softmax"), HALF, sample_data=data)
    assert all(layer.samples == 4 for layer in report.layers)
