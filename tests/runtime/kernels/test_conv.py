"""Convolutions, against torch on inputs that are padded by hand."""

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as functional
from harness import Record, check, compare, over, run

import mlpass.runtime.kernels.conv as module
from mlpass import parallel

pytestmark = pytest.mark.slow_but_every(3)

RNG = np.random.default_rng(1)
CONV = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}
TRANSPOSED = {
    1: functional.conv_transpose1d,
    2: functional.conv_transpose2d,
    3: functional.conv_transpose3d,
}


def normal(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def pads_by_hand(kind, pad, sizes, spans, strides):
    """Padding, as the docstring of MIL's conv and TensorFlow's rule for "same" state it."""
    if kind == "custom":
        return [(pad[2 * axis], pad[2 * axis + 1]) for axis in range(len(sizes))]
    pads = []
    for size, span, stride in zip(sizes, spans, strides, strict=True):
        total = 0
        if kind != "valid":
            total = max(0, (int(np.ceil(size / stride)) - 1) * stride + span - size)
        pads.append((total // 2, (total + 1) // 2)[:: -1 if kind == "same_lower" else 1])
    return pads


def conv(x, weight, bias=None, strides=None, pad_type="valid", pad=None, dilations=None, groups=1):
    axes = x.ndim - 2
    strides, dilations = strides or [1] * axes, dilations or [1] * axes
    spans = [(k - 1) * d + 1 for k, d in zip(weight.shape[2:], dilations, strict=True)]
    pads = pads_by_hand(pad_type, pad, x.shape[2:], spans, strides)
    x = np.pad(x.astype(np.float64), [(0, 0), (0, 0), *pads])
    x, weight = torch.from_numpy(x), torch.from_numpy(weight.astype(np.float64))
    bias = None if bias is None else torch.from_numpy(bias.astype(np.float64))
    return CONV[axes](x, weight, bias, strides, 0, dilations, groups).numpy()


def case(name, x, weight, bias=False, **attributes):
    arguments = {"x": normal(*x), "weight": normal(*weight), **attributes}
    if bias:
        arguments["bias"] = normal(weight[0])
    return Record("conv", arguments, conv, name=name)


RECORDS = [
    case("1d", (2, 3, 9), (4, 3, 3), True, strides=[2]),
    case("2d", (2, 3, 7, 9), (5, 3, 3, 2), True, strides=[2, 1]),
    case("3d", (1, 2, 5, 6, 7), (3, 2, 2, 3, 2), True, strides=[1, 2, 2], dilations=[2, 1, 1]),
    case("no_bias", (1, 2, 5, 5), (3, 2, 3, 3)),
    case("dilated", (1, 2, 9, 9), (3, 2, 3, 3), dilations=[2, 3]),
    case("pointwise", (2, 4, 5, 6), (3, 4, 1, 1), True),
    case("pointwise_strided", (2, 4, 5, 6), (3, 4, 1, 1), True, strides=[2, 3]),
    case("pointwise_grouped", (2, 4, 5, 6), (6, 2, 1, 1), True, groups=2),
    case("pointwise_padded", (1, 2, 3, 3), (2, 2, 1, 1), pad_type="custom", pad=[1, 0, 0, 2]),
    case("pointwise_1d", (2, 4, 5), (3, 4, 1)),
    case("pointwise_1x1_plane", (2, 4, 1, 1), (3, 4, 1, 1)),
    case("grouped", (2, 6, 6, 6), (4, 3, 3, 3), True, groups=2),
    case("depthwise", (2, 4, 6, 7), (4, 1, 3, 3), True, groups=4, pad_type="same"),
    case("depthwise_twice", (2, 4, 6, 7), (8, 1, 3, 3), True, groups=4),
    case("depthwise_large", (2, 3, 20, 21), (3, 1, 3, 3), True, groups=3, strides=[1, 2]),
    case("depthwise_dilated", (1, 4, 9, 9), (4, 1, 3, 3), groups=4, dilations=[2, 2]),
    case("depthwise_strided", (1, 4, 9, 9), (4, 1, 5, 5), groups=4, strides=[2, 2]),
    case("depthwise_1d", (2, 4, 9), (4, 1, 3), True, groups=4),
    case("depthwise_3d", (1, 4, 4, 5, 6), (4, 1, 3, 2, 2), groups=4),
    case("one_window", (1, 3, 4, 4), (2, 3, 4, 4)),
    case("empty_batch", (0, 3, 4, 4), (2, 3, 2, 2)),
    *(
        case(
            f"{kind}_{size}_{kernel}_{stride}",
            (1, 2, size, size + 1),
            (2, 2, kernel, kernel + 1),
            pad_type=kind,
            strides=[stride, 1],
        )
        for kind, size, kernel, stride in itertools.product(
            ("same", "same_lower"), (5, 6), (2, 3), (1, 2, 3)
        )
    ),
    case("custom", (1, 2, 5, 5), (2, 2, 3, 3), pad_type="custom", pad=[0, 1, 2, 3]),
    case("custom_1d", (1, 2, 5), (2, 2, 3), pad_type="custom", pad=[2, 0]),
    # The value of pad is of no account without pad_type "custom".
    case("pad_ignored", (1, 2, 5, 5), (2, 2, 3, 3), pad_type="valid", pad=[1, 1, 1, 1]),
    case("same_dilated", (1, 2, 7, 7), (2, 2, 3, 3), pad_type="same", dilations=[2, 2]),
]


def transposed(
    x,
    weight,
    bias=None,
    pad=None,
    output_shape=None,
    pad_type="valid",
    strides=None,
    dilations=None,
    groups=1,
):
    axes = x.ndim - 2
    strides, dilations = strides or [1] * axes, dilations or [1] * axes
    whole = TRANSPOSED[axes](
        torch.from_numpy(x.astype(np.float64)),
        torch.from_numpy(weight.astype(np.float64)),
        None,
        strides,
        0,
        0,
        groups,
        dilations,
    ).numpy()
    for axis in range(axes):
        size = whole.shape[2 + axis]
        if pad_type == "same":
            wanted = x.shape[2 + axis] * strides[axis]
            if output_shape is not None:
                wanted = output_shape[2 + axis]
            first = max(0, size - wanted) // 2
        else:
            first, last = (0, 0) if pad_type == "valid" else pad[2 * axis : 2 * axis + 2]
            wanted = size - first - last
            if output_shape is not None:
                wanted = output_shape[2 + axis]
        beyond = [(0, 0)] * whole.ndim
        beyond[2 + axis] = (0, max(0, first + wanted - size))
        whole = np.take(np.pad(whole, beyond), range(first, first + wanted), axis=2 + axis)
    return whole if bias is None else whole + bias.reshape(-1, *[1] * axes)


def transposed_case(name, x, weight, bias=False, **attributes):
    arguments = {"x": normal(*x), "weight": normal(*weight), **attributes}
    if bias:
        arguments["bias"] = normal(weight[1] * attributes.get("groups", 1))
    return Record("conv_transpose", arguments, transposed, name=name)


RECORDS += [
    transposed_case("1d", (2, 3, 5), (3, 4, 3), True, strides=[2]),
    transposed_case("2d", (2, 3, 5, 4), (3, 2, 3, 2), True, strides=[2, 3]),
    transposed_case("3d", (1, 2, 3, 4, 3), (2, 2, 2, 3, 2), True, dilations=[2, 1, 1]),
    transposed_case("grouped", (1, 4, 4, 4), (4, 3, 3, 3), True, groups=2, strides=[2, 1]),
    transposed_case("gaps", (1, 2, 4, 4), (2, 3, 2, 2), strides=[3, 3]),
    transposed_case("gaps_same", (1, 2, 4, 4), (2, 3, 2, 2), strides=[3, 3], pad_type="same"),
    transposed_case("same", (1, 2, 4, 5), (2, 3, 3, 4), strides=[2, 1], pad_type="same"),
    transposed_case(
        "same_to",
        (1, 2, 4, 5),
        (2, 3, 3, 3),
        strides=[2, 2],
        pad_type="same",
        output_shape=[1, 3, 7, 10],
    ),
    transposed_case(
        "custom", (1, 2, 6, 6), (2, 3, 3, 3), True, pad_type="custom", pad=[0, 1, 2, 1]
    ),
    transposed_case(
        "custom_even",
        (1, 2, 6, 6),
        (2, 3, 3, 3),
        True,
        pad_type="custom",
        pad=[1, 1, 2, 2],
        strides=[2, 2],
    ),
    transposed_case(
        "custom_to",
        (1, 2, 4, 4),
        (2, 3, 3, 3),
        True,
        pad_type="custom",
        pad=[1, 1, 1, 1],
        strides=[2, 2],
        output_shape=[1, 3, 8, 8],
    ),
    transposed_case(
        "valid_to", (1, 2, 4, 4), (2, 3, 2, 2), True, strides=[3, 3], output_shape=[1, 3, 12, 12]
    ),
]

INDICES = RNG.integers(0, 16, (4, 3, 3, 3)).astype(np.uint8)
TABLE, SCALES, SHIFTS = normal(16), normal(4), normal(4)
QUANTIZED = {"x": normal(1, 3, 6, 6), "weight": INDICES, "strides": [2, 2], "pad_type": "same"}


def linear(x, weight, quant_scale, quant_bias, quantization_type, bias=None, **attributes):
    scale, shift = (
        np.asarray(part, np.float64).reshape(-1, 1, 1, 1) for part in (quant_scale, quant_bias)
    )
    bias = None if bias is None else bias.astype(np.float64)
    return conv(x, weight * scale + shift, bias, **attributes)


RECORDS += [
    Record(
        "conv_quantized",
        {**QUANTIZED, "quantization_type": "linear", "quant_scale": SCALES, "quant_bias": SHIFTS},
        linear,
        name="by_channel",
    ),
    Record(
        "conv_quantized",
        {
            **QUANTIZED,
            "quantization_type": "linear",
            "quant_scale": [0.5],
            "quant_bias": [-3.0],
            "bias": np.asarray([1, 2, 3, 4], np.uint8),
        },
        linear,
        name="by_tensor",
    ),
    Record(
        "conv_quantized",
        {
            **QUANTIZED,
            "quantization_type": "lut",
            "nbits": 4,
            "quant_scale": TABLE,
            "quant_bias": np.zeros(1, np.float32),
        },
        lambda x, weight, quant_scale, **attributes: conv(
            x, quant_scale[weight], None, attributes["strides"], attributes["pad_type"]
        ),
        name="table",
    ),
]


@over(RECORDS)
def test_kernel(record, namespace):
    check(record, namespace)


@pytest.mark.parametrize("budget", [1, 60, 200, 1000])
@pytest.mark.parametrize("groups", [1, 2, 6])
def test_columns_in_parts_are_the_same(monkeypatch, budget, groups):
    monkeypatch.setattr(module, "_COLUMNS", budget)
    monkeypatch.setattr(module, "SLAB", budget)
    monkeypatch.setattr(parallel, "SLAB", budget)
    monkeypatch.setattr(module, "_SMALL_PLANE", 0)
    arguments = {"x": normal(2, 6, 7, 8), "weight": normal(6, 6 // groups, 3, 2), "groups": groups}
    compare(run("conv", arguments, "numpy"), conv(**arguments), 1e-5, "conv")


@pytest.mark.parametrize("groups", [2, 48])
@pytest.mark.parametrize("size", [13, 29])
def test_any_number_of_threads_gives_the_same_bits(monkeypatch, groups, size):
    monkeypatch.setattr(module, "SLAB", 1 << 12)
    monkeypatch.setattr(parallel, "SLAB", 1 << 12)
    arguments = {"x": normal(1, 48, size, size), "groups": groups}
    arguments["weight"] = normal(48, 48 // groups, 3, 3)
    made = []
    for threads in (1, 2, 3):
        monkeypatch.setenv("MLPASS_THREADS", str(threads))
        made.append(run("conv", arguments, "numpy"))
    compare(made[0], conv(**arguments), 1e-5, "conv")
    assert all(np.array_equal(made[0], other) for other in made[1:])


def test_threads_keep_to_the_callers_error_handling(monkeypatch):
    monkeypatch.setattr(parallel, "SLAB", 1 << 12)
    monkeypatch.setenv("MLPASS_THREADS", "2")
    x = normal(1, 48, 29, 29)
    x[0, :, 3, 3] = np.inf
    arguments = {"x": x, "weight": normal(48, 1, 3, 3), "groups": 48}
    with np.errstate(all="ignore"):
        run("conv", arguments, "numpy")
    with np.errstate(all="raise"), pytest.raises(FloatingPointError, match="invalid value"):
        run("conv", {**arguments, "weight": np.zeros((48, 1, 3, 3), np.float32)}, "numpy")


def test_every_opset_has_it():
    arguments = {"x": normal(1, 2, 4, 4), "weight": normal(3, 2, 3, 3)}
    for opset in (13, 15, 16, 17, 18):
        compare(run("conv", arguments, "numpy", opset), conv(**arguments), 1e-5, "conv")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"groups": 2}, "in 2 groups does not fit x"),
        ({"strides": [1]}, "differ in their spatial axes"),
        ({"pad_type": "full"}, "valid, same, same_lower or custom expected. Got 'full'"),
        ({"pad_type": "custom", "pad": [1, 1]}, "pad: 4 numbers expected"),
        ({"weight": normal(3, 2, 9, 9)}, "does not fit into"),
    ],
)
@pytest.mark.parametrize("namespace", ["numpy", "torch"])
def test_what_does_not_fit_is_refused(change, text, namespace):
    arguments = {"x": normal(1, 2, 4, 4), "weight": normal(3, 2, 3, 3), **change}
    with pytest.raises(ValueError, match=text):
        run("conv", arguments, namespace)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"quantization_type": "log"}, "linear or lut expected"),
        ({"quantization_type": "lut", "nbits": 3}, "2 \\*\\* nbits values expected. Got 16"),
    ],
)
def test_unknown_quantization_is_refused(change, text):
    arguments = {**QUANTIZED, "quant_scale": TABLE, "quant_bias": SHIFTS, **change}
    with pytest.raises(ValueError, match=text):
        run("conv_quantized", arguments, "numpy")


@pytest.mark.parametrize("namespace", ["numpy", "torch"])
def test_a_weight_that_does_not_fit_a_transposed_convolution_is_refused(namespace):
    with pytest.raises(ValueError, match="does not fit"):
        run("conv_transpose", {"x": normal(1, 2, 4), "weight": normal(3, 2, 3)}, namespace)
