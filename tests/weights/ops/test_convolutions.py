"""Convolutions: windows times matrix is what the op computes, in bounded chunks."""

from __future__ import annotations

import numpy as np
import pytest

from mlpass.weights.ops import convolutions
from tests.weights.ops.law import check, chunks_of, normal, over_namespaces


def by_channel_groups(groups):
    """Returns what arranges a convolution's output as (groups, samples, rows)."""

    def rows_of(output):
        batch, channels = output.shape[:2]
        parts = output.reshape(batch, groups, channels // groups, -1).transpose(1, 0, 3, 2)
        return parts.reshape(groups, -1, channels // groups)

    return rows_of


# (shape of x, shape of the weight, what steers)
CONVS = [
    ((2, 3, 9), (4, 3, 3), {}),
    ((2, 3, 9), (4, 3, 3), {"strides": [2], "dilations": [2]}),
    ((2, 3, 9, 8), (4, 3, 3, 2), {"strides": np.array([2, 1]), "pad_type": "same"}),
    ((2, 3, 9, 8), (4, 3, 4, 2), {"strides": [2, 3], "pad_type": "same_lower"}),
    ((2, 3, 9, 8), (4, 3, 3, 3), {"pad_type": "custom", "pad": [0, 1, 2, 3]}),
    ((2, 6, 7, 7), (4, 3, 3, 3), {"groups": 2, "dilations": [1, 2]}),
    ((2, 6, 7, 7), (12, 1, 3, 3), {"groups": 6, "pad_type": "same"}),
    ((2, 4, 5, 6, 4), (6, 2, 2, 3, 2), {"groups": np.int32(2), "strides": [1, 2, 1]}),
    ((2, 4, 5, 6, 4), (6, 4, 3, 3, 3), {"pad_type": "custom", "pad": [1, 1, 0, 2, 1, 0]}),
    ((1, 6, 5, 5), (4, 6, 1, 1), {}),
    ((1, 6, 5, 5), (4, 3, 1, 1), {"groups": 2, "strides": [2, 2]}),
    ((3, 6, 5, 5), (4, 6, 1, 1), {"pad_type": "custom", "pad": [1, 0, 0, 1]}),
    ((2, 6, 40, 30), (4, 3, 1, 1), {"groups": 2, "pad_type": "custom", "pad": [1, 0, 0, 1]}),
]
TRANSPOSED = [
    ((2, 3, 5), (3, 4, 3), {"strides": [2]}),
    ((2, 3, 5, 4), (3, 2, 3, 2), {"strides": [2, 3]}),
    ((1, 2, 3, 4, 3), (2, 2, 2, 3, 2), {"dilations": [2, 1, 1]}),
    ((2, 4, 4, 4), (4, 3, 3, 3), {"groups": 2, "strides": [2, 1]}),
    ((2, 4, 4, 4), (4, 1, 3, 3), {"groups": 4, "pad_type": "same", "dilations": [2, 2]}),
    ((1, 2, 4, 4), (2, 3, 2, 2), {"strides": [3, 3]}),
    ((1, 2, 4, 4), (2, 3, 2, 2), {"strides": [3, 3], "pad_type": "same"}),
    ((1, 2, 4, 5), (2, 3, 3, 4), {"strides": [2, 1], "pad_type": "same_lower"}),
    (
        (2, 2, 4, 5),
        (2, 3, 3, 3),
        {"strides": [2, 2], "pad_type": "same", "output_shape": [2, 3, 7, 10]},
    ),
    ((1, 2, 6, 6), (2, 3, 3, 3), {"pad_type": "custom", "pad": [0, 1, 2, 1]}),
    ((1, 2, 6, 6), (2, 3, 3, 3), {"pad_type": "custom", "pad": [3, 1, 4, 2], "strides": [2, 3]}),
    ((1, 2, 4, 4), (2, 3, 2, 2), {"strides": [3, 3], "output_shape": np.array([1, 3, 15, 12])}),
    ((1, 2, 3), (2, 3, 1), {"strides": [5], "pad_type": "custom", "pad": [1, 7]}),
    ((2, 6, 5, 5), (6, 4, 1, 1), {}),
]


@over_namespaces
@pytest.mark.parametrize("chunk", [1 << 22, 1, 1500])
@pytest.mark.parametrize("case", CONVS, ids=lambda case: f"{case[1]}-{case[2]}")
def test_conv(case, chunk, namespace, monkeypatch):
    monkeypatch.setattr(convolutions, "_CHUNK", chunk)
    shape, weight, attributes = case
    arguments = {"x": normal(*shape), "weight": normal(*weight), **attributes}
    rows_of = by_channel_groups(int(attributes.get("groups", 1)))
    check("conv", "weight", arguments, namespace, rows_of)


@over_namespaces
@pytest.mark.parametrize("chunk", [1 << 22, 200])
@pytest.mark.parametrize("case", TRANSPOSED, ids=lambda case: f"{case[1]}-{case[2]}")
def test_conv_transpose(case, chunk, namespace, monkeypatch):
    monkeypatch.setattr(convolutions, "_CHUNK", chunk)
    shape, weight, attributes = case
    arguments = {"x": normal(*shape), "weight": normal(*weight), **attributes}
    rows_of = by_channel_groups(attributes.get("groups", 1))
    check("conv_transpose", "weight", arguments, namespace, rows_of)


@pytest.mark.parametrize(
    ("batch", "channels", "size", "chunks"), [(4, 64, 112, 8), (40, 512, 7, 3), (3, 8, 9, 1)]
)
def test_chunks_are_bounded_and_few(batch, channels, size, chunks):
    arguments = {
        "x": np.zeros((batch, channels, size, size), np.float32),
        "weight": np.zeros((4, channels, 3, 3), np.float32),
        "pad_type": "same",
    }
    found = list(chunks_of("conv", "weight", arguments))
    assert len(found) == chunks
    assert max(chunk.nbytes for chunk in found) <= 16 << 20
    assert sum(chunk.shape[1] for chunk in found) == batch * size * size


def test_the_law_can_fail():
    arguments = {"x": normal(2, 3, 7, 7), "weight": normal(4, 3, 3, 3)}
    with pytest.raises(AssertionError, match="Not equal"):
        check("conv", "weight", arguments, "numpy", lambda y: by_channel_groups(1)(y)[:, ::-1])


@pytest.mark.parametrize(
    ("x", "weight", "strides", "expected"),
    [
        ((1, 3, 9, 8), (4, 3, 3, 3), [1, 1], True),
        ((1, 3, 9, 8), (4, 3, 1, 1), None, True),
        ((1, 3, 8, 8), (4, 3, 4, 4), [4, 4], False),  # patches
        ((1, 3, 1, 8), (4, 3, 1, 1), None, False),  # tokens
        ((1, 3, 8), (4, 3, 3), [1], False),
    ],
)
def test_windows_of_a_picture_are_neighbours(x, weight, strides, expected):
    arguments = {"x": np.zeros(x), "weight": np.zeros(weight)}
    if strides is not None:
        arguments["strides"] = np.array(strides)
    assert convolutions.are_neighbours(arguments) is expected
