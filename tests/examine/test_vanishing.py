"""What fp16 makes 0 is told where it changes what the model gives, by numpy's own fp16 and fp64."""

from __future__ import annotations

import coremltools as ct
import numpy as np
import pytest
from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.mil import types

import mlpass
from tests.runtime.programs import convert

FAINT = np.float16(1e-5)
SIGNS = np.float16([[1, -1, 1, 1, -1, -1, 1, -1]])


def norm(x, epsilon):
    """An RMSNorm whose epsilon is a product: 1e-10, which fp16 makes 0."""
    small = mb.mul(x=epsilon, y=epsilon, name="small")
    mean = mb.reduce_mean(x=mb.mul(x=x, y=x), axes=[-1], keep_dims=True)
    root = mb.rsqrt(x=mb.add(x=mean, y=mb.reshape(x=small, shape=[1, 1])), epsilon=np.float16(0))
    return mb.mul(x=x, y=root)


def norm_by_hand(x, epsilon):
    mean = np.mean(x * x, -1, dtype=x.dtype, keepdims=True) + (epsilon * epsilon).reshape(1, 1)
    return x * (1 / np.sqrt(mean))


def weighed(x, _):
    shares = mb.softmax(x=mb.mul(x=x, y=np.float16(20)), axis=-1, name="small")
    return mb.matmul(x=shares, y=np.ascontiguousarray(SIGNS.T))


def softmax_by_hand(x):
    powers = np.exp(x - x.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def logarithms(x, _):
    shares = mb.softmax(x=mb.mul(x=x, y=np.float16(20)), axis=-1, name="small")
    return mb.log(x=shares, epsilon=np.float16(0))


def large_again(x, epsilon):
    small = mb.mul(x=mb.mul(x=x, y=epsilon), y=epsilon, name="small")
    return mb.mul(x=mb.mul(x=small, y=np.float16(6e4)), y=np.float16(6e4))


def chosen(x, epsilon):
    small = mb.mul(x=mb.mul(x=x, y=epsilon), y=epsilon, name="small")
    return mb.cast(x=mb.reduce_argmax(x=small, axis=-1), dtype="fp32")


RAMP = np.linspace(-1, 1, 8, dtype=np.float16)[None]
CASES = {
    "an epsilon beside a mean": (norm, norm_by_hand, RAMP),
    "an epsilon beside nothing": (norm, norm_by_hand, np.zeros((1, 8), np.float16)),
    "an epsilon beside as little": (norm, norm_by_hand, FAINT * SIGNS),
    "shares that are summed": (
        weighed,
        lambda x, _: softmax_by_hand(20 * x) @ SIGNS.T.astype(x.dtype),
        RAMP,
    ),
    "shares whose logarithm is asked for": (
        logarithms,
        lambda x, _: np.log(softmax_by_hand(20 * x)),
        RAMP,
    ),
    "what is large again": (
        large_again,
        lambda x, epsilon: (x * epsilon * epsilon) * x.dtype.type(6e4) * x.dtype.type(6e4),
        RAMP,
    ),
    "what is only compared": (
        chosen,
        lambda x, epsilon: np.argmax(x * epsilon * epsilon, -1).astype(np.float64),
        RAMP,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_zeros_are_told_where_fp16_loses_what_fp64_has(name, tmp_path):
    build, by_hand, x = CASES[name]
    specs = [mb.TensorSpec(shape, types.fp16) for shape in (x.shape, (1,))]
    source = mb.program(input_specs=specs, opset_version=ct.target.iOS17)(build)
    path = tmp_path / "model.mlpackage"
    convert(source, pass_pipeline=ct.PassPipeline.EMPTY).save(str(path))
    inputs = dict(zip(source.functions["main"].inputs, (x, FAINT[None]), strict=True))
    with np.errstate(all="ignore"):
        narrow, wide = (
            by_hand(*(one.astype(kind) for one in inputs.values()))
            for kind in (np.float16, np.float64)
        )
    lost = not np.allclose(narrow, wide, rtol=0.02, atol=1e-4)
    found = mlpass.check(path, [inputs])
    told = [place for each in found.hazards if each.kind == "underflow" for place in each.places]
    assert ("small" in told) == bool(told) == lost, str(found)
