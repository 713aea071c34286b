"""Under torch, gradients flow through convolution, pooling, resizing, recurrence and attention."""

import numpy as np
import pytest
import torch
from array_api_compat import torch as xp
from harness import given_to

from mlpass.runtime.kernels.registry import find_kernel

RNG = np.random.default_rng(7)


def normal(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


GRU = {
    "x": normal(3, 2, 4),
    "initial_h": normal(2, 5),
    "weight_ih": normal(15, 4),
    "weight_hh": normal(15, 5),
    "bias": normal(15),
}
LSTM = {
    "x": normal(3, 2, 4),
    "initial_h": normal(2, 5),
    "initial_c": normal(2, 5),
    "weight_ih": normal(20, 4),
    "weight_hh": normal(20, 5),
}
IMAGE = {"x": normal(1, 2, 6, 6)}
POOL = {**IMAGE, "kernel_sizes": [3, 3], "strides": [2, 2], "pad_type": "same"}
# Between pixels: at a pixel the result has a kink.
PIXELS = RNG.integers(0, 5, (1, 3, 3, 2)) + RNG.uniform(0.3, 0.7, (1, 3, 3, 2))
BETWEEN = (2 * PIXELS / 5 - 1).astype(np.float32)
CASES = [
    ("conv", {**IMAGE, "weight": normal(3, 2, 3, 3), "bias": normal(3), "pad_type": "same"}, 18),
    ("conv", {**IMAGE, "weight": normal(3, 2, 2, 2), "pad_type": "same_lower"}, 18),
    ("conv_transpose", {**IMAGE, "weight": normal(2, 3, 3, 3), "pad_type": "same"}, 18),
    ("conv_transpose", {**IMAGE, "weight": normal(2, 3, 4, 4), "pad_type": "same"}, 18),
    ("max_pool", POOL, 18),
    ("avg_pool", POOL, 18),
    ("l2_pool", POOL, 18),
    ("upsample_nearest_neighbor", {**IMAGE, "scale_factor_height": 2}, 18),
    ("upsample_nearest_neighbor", {**IMAGE, "scale_factor_height": 1.5}, 18),
    ("resize_nearest_neighbor", {**IMAGE, "target_size_height": 4, "target_size_width": 9}, 18),
    ("upsample_bilinear", {**IMAGE, "scale_factor_height": 2}, 13),
    ("upsample_bilinear", {**IMAGE, "scale_factor_height": 2, "half_pixel_centers": False}, 18),
    ("resize", {**IMAGE, "shape": [4, 9], "resized_dims": 2}, 17),
    ("crop", {**IMAGE, "crop_height": [1, 1], "crop_width": [0, 2]}, 18),
    (
        "crop_resize",
        {
            **IMAGE,
            "boxes": np.asarray([[0.2, 0.3, 3.1, 4.7]], np.float32),
            "target_height": 3,
            "target_width": 3,
        },
        18,
    ),
    *(
        (
            "resample",
            {
                **IMAGE,
                "coordinates": BETWEEN,
                "sampling_mode": "bilinear",
                "padding_mode": "constant",
                "padding_value": value,
                "coordinates_mode": "normalized_minus_one_to_one",
                "align_corners": True,
            },
            18,
        )
        for value in (0.0, 1.0)
    ),
    ("gru", GRU, 13),
    ("gru", {**GRU, "reset_after": True}, 18),
    ("gru", {**GRU, "activation": "sigmoid"}, 18),
    ("lstm", LSTM, 18),
    ("lstm", {**LSTM, "clip": 1.0}, 18),
    (
        "rnn",
        {
            "x": normal(3, 2, 4),
            "initial_h": normal(2, 5),
            "weight_ih": normal(5, 4),
            "weight_hh": normal(5, 5),
        },
        18,
    ),
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
]


@pytest.mark.parametrize(("op", "arguments", "opset"), CASES)
def test_gradients_are_those_of_small_changes(op, arguments, opset):
    kernel = find_kernel(op, opset, "torch")

    def loss(**given):
        results = kernel(xp, **given)
        results = results if isinstance(results, tuple) else (results,)
        return sum((result.double() ** 2).sum() for result in results)

    given = given_to(op, arguments, "torch", opset)
    for name, value in arguments.items():
        if not isinstance(value, np.ndarray):
            continue
        part = given[name].clone().requires_grad_()
        loss(**{**given, name: part}).backward()
        assert part.grad is not None, name
        step = torch.from_numpy(normal(*value.shape))
        step *= 1e-2 / step.norm()
        change = loss(**{**given, name: given[name] + step}) - loss(
            **{**given, name: given[name] - step}
        )
        wanted = float(2 * (part.grad * step).sum())
        assert float(change) == pytest.approx(wanted, rel=2e-2, abs=1e-4), name
