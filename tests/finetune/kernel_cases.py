"""A call of every op that is differentiable, for the tests that run over all of them.

Float arrays are data; all else says how.
"""

import numpy as np
import torch

from mlpass.runtime.kernels.arguments import read
from mlpass.runtime.kernels.registry import find_kernel, find_kinds

RNG = np.random.default_rng(11)


def normal(*shape):
    return RNG.standard_normal(shape)


def spread(*shape):
    """Values of which no two are near each other, nor any near zero: kinks are far."""
    size = int(np.prod(shape))
    return (RNG.permutation(size) - size / 2 + 0.5).reshape(shape) * 0.11


def within(low, high, *shape):
    return RNG.uniform(low, high, shape)


def ints(*values):
    return np.asarray(values, np.int32)


X = spread(2, 3, 4)
SMALL = within(-0.8, 0.8, 2, 3)
POSITIVE = within(0.5, 2.0, 2, 3)
IMAGE = spread(1, 2, 6, 6)
SEQUENCE = {"x": normal(3, 2, 4), "initial_h": normal(2, 5)}
LSTM = {**SEQUENCE, "initial_c": normal(2, 5), "output_sequence": True}
LSTM |= {"weight_ih": normal(20, 4), "weight_hh": normal(20, 5), "bias": normal(20)}
BACK = {f"{name}_back": LSTM[name] + 0.1 for name in ("weight_ih", "weight_hh", "bias")}
BOTH = {**LSTM, **BACK, "direction": "bidirectional"}
BOTH |= {"initial_h": normal(2, 10), "initial_c": normal(2, 10)}
GRU = {**SEQUENCE, "weight_ih": normal(15, 4), "weight_hh": normal(15, 5), "bias": normal(15)}
POOL = {"x": IMAGE, "kernel_sizes": [3, 3], "strides": [2, 2], "pad_type": "same"}
ROWS = {"x": spread(4, 3), "indices": ints(2, 0, 2)}
DATA = {"data": spread(4, 3), "indices": ints(2, 0)}
BETWEEN = 2 * (RNG.integers(0, 5, (1, 3, 3, 2)) + within(0.3, 0.7, 1, 3, 3, 2)) / 5 - 1
RESAMPLE = {
    "x": IMAGE,
    "coordinates": BETWEEN,
    "sampling_mode": "bilinear",
    "padding_mode": "constant",
    "padding_value": 0.0,
    "coordinates_mode": "normalized_minus_one_to_one",
    "align_corners": True,
}
CROP = {"x": IMAGE, "target_height": 3, "target_width": 3}
BOX = np.asarray([[0, 0.21, 0.33, 3.17, 4.71]])
MEAN, VARIANCE = normal(2), within(0.5, 1.5, 2)

# op, arguments, opset
CASES = [
    *((op, {"x": SMALL}, 18) for op in ("acos", "asin", "atan", "atanh", "tan", "erf", "identity")),
    *((op, {"x": X}, 18) for op in ("abs", "cos", "cosh", "exp", "exp2", "sin", "sinh", "square")),
    *((op, {"x": X}, 18) for op in ("tanh", "relu", "relu6", "sigmoid", "silu", "softplus")),
    *((op, {"x": X}, 18) for op in ("softsign", "softmax", "flatten2d", "gelu")),
    *((op, {"x": POSITIVE}, 18) for op in ("log", "sqrt", "rsqrt", "inverse")),
    *((op, {"x": X, "y": spread(3, 4) + 0.03}, 18) for op in ("add", "sub", "mul", "real_div")),
    *((op, {"x": X, "y": spread(3, 4) + 0.03}, 18) for op in ("maximum", "minimum")),
    ("mod", {"x": X, "y": 1.7}, 18),
    ("pow", {"x": POSITIVE, "y": within(0.5, 2.5, 3)}, 18),
    ("gelu", {"x": X, "mode": "TANH_APPROXIMATION"}, 18),
    ("gelu", {"x": X, "mode": "SIGMOID_APPROXIMATION"}, 18),
    ("clip", {"x": X, "alpha": -0.5, "beta": 0.7}, 18),
    ("threshold", {"x": X, "alpha": 0.2}, 18),
    ("thresholded_relu", {"x": X, "alpha": 0.2}, 18),
    ("clamped_relu", {"x": X, "alpha": 0.2, "beta": 0.8}, 18),
    ("leaky_relu", {"x": X, "alpha": 0.2}, 18),
    ("elu", {"x": X, "alpha": 0.7}, 18),
    ("linear_activation", {"x": X, "alpha": 0.7, "beta": 0.2}, 18),
    ("scaled_tanh", {"x": X, "alpha": 0.7, "beta": 0.2}, 18),
    ("sigmoid_hard", {"x": X, "alpha": 0.4, "beta": 0.5}, 18),
    ("prelu", {"x": X, "alpha": normal(3)}, 18),
    ("softplus_parametric", {"x": X, "alpha": normal(3), "beta": normal(3)}, 18),
    ("cast", {"x": X, "dtype": "fp32"}, 18),
    *(
        (f"reduce_{name}", {"x": within(0.5, 2.0, 2, 3, 4), "axes": [1], "keep_dims": keep}, 18)
        for name in ("sum", "mean", "l1_norm", "l2_norm", "log_sum", "log_sum_exp", "prod")
        for keep in (True, False)
    ),
    *((f"reduce_{name}", {"x": X, "axes": [0, 2]}, 18) for name in ("max", "min", "sum_square")),
    ("linear", {"x": normal(2, 3), "weight": normal(4, 3), "bias": normal(4)}, 18),
    ("matmul", {"x": normal(2, 3, 4), "y": normal(4, 5)}, 18),
    (
        "matmul",
        {"x": normal(4, 3), "y": normal(5, 4), "transpose_x": True, "transpose_y": True},
        18,
    ),
    ("einsum", {"values": (normal(2, 3, 4), normal(4, 3, 2)), "equation": "chw,whu->chu"}, 18),
    ("conv", {"x": IMAGE, "weight": normal(3, 2, 3, 3), "bias": normal(3), "pad_type": "same"}, 18),
    ("conv", {"x": IMAGE, "weight": normal(4, 1, 2, 2), "groups": 2, "pad_type": "same_lower"}, 18),
    ("conv", {"x": normal(1, 2, 9), "weight": normal(3, 2, 3), "strides": [2]}, 18),
    ("conv_transpose", {"x": IMAGE, "weight": normal(2, 3, 3, 3), "bias": normal(3)}, 18),
    ("conv_transpose", {"x": IMAGE, "weight": normal(2, 3, 4, 4), "pad_type": "same"}, 18),
    (
        "conv_quantized",
        {
            "x": IMAGE,
            "weight": RNG.integers(0, 9, (3, 2, 3, 3)).astype(np.uint8),
            "quantization_type": "linear",
            "quant_scale": 0.1,
            "quant_bias": 0.2,
        },
        13,
    ),
    ("max_pool", POOL, 18),
    ("avg_pool", POOL, 18),
    ("l2_pool", POOL, 18),
    ("batch_norm", {"x": IMAGE, "mean": MEAN, "variance": VARIANCE}, 18),
    (
        "batch_norm",
        {"x": IMAGE, "mean": MEAN, "variance": VARIANCE, "gamma": normal(2), "beta": normal(2)},
        18,
    ),
    ("instance_norm", {"x": IMAGE, "gamma": normal(2), "beta": normal(2)}, 18),
    ("layer_norm", {"x": X, "axes": [2], "gamma": normal(4), "beta": normal(4)}, 18),
    ("layer_norm", {"x": X, "axes": [1], "gamma": normal(3), "beta": normal(3)}, 18),
    ("l2_norm", {"x": X, "epsilon": 1e-6}, 18),
    (
        "local_response_norm",
        {"x": normal(1, 5, 2, 2), "size": 3, "alpha": 0.5, "beta": 0.7, "k": 1.0},
        18,
    ),
    ("rnn", {**SEQUENCE, "weight_ih": normal(5, 4), "weight_hh": normal(5, 5)}, 18),
    (
        "rnn",
        {**SEQUENCE, "weight_ih": normal(5, 4), "weight_hh": normal(5, 5), "activation": "sigmoid"},
        18,
    ),
    ("lstm", LSTM, 18),
    ("lstm", {**LSTM, "clip": 1.0}, 18),
    ("lstm", {**LSTM, "peephole": normal(15)}, 18),
    ("lstm", BOTH, 18),
    ("gru", GRU, 13),
    ("gru", {**GRU, "reset_after": True, "input_bias": normal(15)}, 18),
    ("gru", {**GRU, "activation": "sigmoid"}, 18),
    (
        "scaled_dot_product_attention",
        {
            "query": normal(2, 3, 4),
            "key": normal(2, 5, 4),
            "value": normal(2, 5, 2),
            "attn_mask": normal(3, 5),
        },
        18,
    ),
    ("gather", {**ROWS, "axis": 0}, 13),
    ("gather", {**ROWS, "axis": 0}, 16),
    ("gather", {**ROWS, "axis": 0, "validate_indices": False}, 18),
    ("gather_nd", {"x": spread(3, 4, 2), "indices": ints([0, 1], [2, 3])}, 13),
    ("gather_nd", {"x": spread(3, 4, 2), "indices": ints([0, 1], [2, 3])}, 18),
    (
        "gather_along_axis",
        {"x": spread(3, 4), "indices": ints([0, 1], [1, 1], [2, 0]), "axis": 1},
        13,
    ),
    (
        "gather_along_axis",
        {"x": spread(3, 4), "indices": ints([0, 1], [1, 1], [2, 0]), "axis": 1},
        18,
    ),
    *(
        ("scatter", {**DATA, "updates": spread(2, 3) + 0.05, "axis": 0, "mode": mode}, 18)
        for mode in ("add", "sub", "mul", "div", "max", "min", "update")
    ),
    (
        "scatter_along_axis",
        {**DATA, "indices": ints([0, 1, 3]), "updates": spread(1, 3), "axis": 0, "mode": "add"},
        18,
    ),
    ("scatter_nd", {**DATA, "indices": ints([2], [0]), "updates": spread(2, 3), "mode": "add"}, 18),
    ("slice_by_index", {"x": X, "begin": [0, 1, 0], "end": [2, 3, 3], "stride": [1, 1, 2]}, 18),
    ("slice_by_size", {"x": X, "begin": [0, 1, 0], "size": [2, 1, 3]}, 18),
    (
        "slice_update",
        {"x": X, "update": normal(2, 2, 4), "begin": [0, 1, 0], "end": [2, 3, 4]},
        18,
    ),
    ("concat", {"values": (normal(2, 3), normal(2, 1)), "axis": 1}, 18),
    ("stack", {"values": (normal(2, 3), normal(2, 3)), "axis": 1}, 18),
    ("split", {"x": X, "num_splits": 3, "axis": 1}, 18),
    ("select", {"cond": X > 0, "a": normal(2, 3, 4), "b": normal(2, 3, 4)}, 18),
    ("topk", {"x": X, "k": 2, "axis": 2}, 13),
    ("topk", {"x": X, "k": 2, "axis": 2}, 16),
    ("topk", {"x": X, "k": 2, "axis": 2}, 18),
    ("pad", {"x": X, "pad": [1, 0, 0, 2], "constant_val": 0.5}, 18),
    ("pad", {"x": X, "pad": [1, 1, 2, 1], "mode": "reflect"}, 18),
    ("pad", {"x": X, "pad": [1, 1, 2, 1], "mode": "replicate"}, 18),
    ("tile", {"x": X, "reps": [2, 1, 2]}, 18),
    ("transpose", {"x": X, "perm": [2, 0, 1]}, 18),
    ("reshape", {"x": X, "shape": [4, -1]}, 13),
    ("reshape", {"x": X, "shape": [4, -1]}, 18),
    (
        "reshape_like",
        {
            "x": X,
            "ref_tensors": (ints(*range(24)).reshape(6, 4),),
            "begins": [0],
            "ends": [2],
            "end_masks": [False],
        },
        18,
    ),
    ("expand_dims", {"x": X, "axes": [1]}, 18),
    ("squeeze", {"x": normal(1, 3, 1), "axes": [0]}, 18),
    ("reverse", {"x": X, "axes": [1]}, 18),
    ("reverse_sequence", {"x": X, "lengths": ints(2, 3), "seq_axis": 1, "batch_axis": 0}, 18),
    ("cumsum", {"x": X, "axis": 1, "exclusive": True, "reverse": True}, 18),
    ("band_part", {"x": X, "lower": 1, "upper": 0}, 18),
    ("sliding_windows", {"x": X, "axis": 2, "size": 2}, 18),
    ("depth_to_space", {"x": normal(1, 4, 2, 2), "block_size": 2}, 18),
    ("space_to_depth", {"x": normal(1, 1, 4, 4), "block_size": 2}, 18),
    ("pixel_shuffle", {"x": normal(1, 4, 2, 2), "upscale_factor": 2}, 18),
    ("pixel_unshuffle", {"x": normal(1, 1, 4, 4), "downscale_factor": np.uint32(2)}, 18),
    (
        "batch_to_space",
        {"x": normal(4, 1, 2, 2), "block_shape": [2, 2], "crops": ints([0, 0], [0, 0])},
        18,
    ),
    (
        "space_to_batch",
        {"x": normal(1, 1, 4, 4), "block_shape": [2, 2], "paddings": ints([0, 0], [0, 0])},
        18,
    ),
    ("crop", {"x": IMAGE, "crop_height": [1, 1], "crop_width": [0, 2]}, 18),
    (
        "crop_resize",
        {"x": IMAGE, "roi": BOX.reshape(1, 1, 5, 1, 1), "target_height": 3, "target_width": 3},
        13,
    ),
    (
        "crop_resize",
        {"x": IMAGE, "roi": BOX.reshape(1, 1, 5, 1, 1), "target_height": 3, "target_width": 3},
        16,
    ),
    ("crop_resize", {**CROP, "boxes": BOX[:, 1:]}, 18),
    ("resample", RESAMPLE, 18),
    ("resample", {**RESAMPLE, "padding_value": 1.0}, 18),
    (
        "affine",
        {
            "x": IMAGE,
            "transform_matrix": np.asarray([[0.9, 0.1, 0.05, -0.1, 0.8, 0.02]]),
            "output_height": 4,
            "output_width": 4,
            "sampling_mode": "bilinear",
            "padding_mode": "constant",
            "padding_value": 0.0,
            "coordinates_mode": "normalized_minus_one_to_one",
            "align_corners": True,
        },
        18,
    ),
    ("resize", {"x": IMAGE, "shape": [4, 9], "resized_dims": 2}, 18),
    ("resize_bilinear", {"x": IMAGE, "target_size_height": 4, "target_size_width": 9}, 18),
    ("resize_nearest_neighbor", {"x": IMAGE, "target_size_height": 4, "target_size_width": 9}, 18),
    ("upsample_bilinear", {"x": IMAGE, "scale_factor_height": 2}, 13),
    ("upsample_bilinear", {"x": IMAGE, "scale_factor_height": 2, "half_pixel_centers": False}, 18),
    ("upsample_nearest_neighbor", {"x": IMAGE, "scale_factor_height": 2}, 18),
    ("upsample_nearest_neighbor", {"x": IMAGE, "scale_factor_height": 1.5}, 18),
]


def kernel_of(op, opset=18):
    """The kernel of an op under torch, given its arguments as a program holds them."""
    function, kinds = find_kernel(op, opset, "torch"), find_kinds(op, opset, "torch")
    return lambda xp, **arguments: function(xp, **read(kinds, arguments))


def placed(value):
    """An argument as a kernel gets it under torch."""
    if isinstance(value, tuple):
        return tuple(map(placed, value))
    if value is None or isinstance(value, str):
        return value
    return torch.from_numpy(np.array(value))


def floats(arguments):
    """The places of float data: (parameter, place among several or None)."""
    for name, value in arguments.items():
        for place, part in enumerate(value if isinstance(value, tuple) else (value,)):
            if isinstance(part, np.ndarray) and part.dtype.kind == "f":
                yield name, place if isinstance(value, tuple) else None


def with_parts(arguments, places, parts):
    """Arguments with others in those places."""
    now = dict(arguments)
    for (name, place), part in zip(places, parts, strict=True):
        now[name] = part if place is None else (*now[name][:place], part, *now[name][place + 1 :])
    return now
