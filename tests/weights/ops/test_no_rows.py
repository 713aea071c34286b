"""No rows: nothing meets a weight where no token of a sample reaches it, which is not an error."""

from __future__ import annotations

import numpy as np
import pytest

from tests.weights.ops.law import (
    NAMESPACES,
    chunks_of,
    given,
    kernel_of,
    matrix_of,
    normal,
    over_namespaces,
)

LSTM = {
    "x": normal(5, 0, 4),
    "initial_h": normal(0, 6),
    "initial_c": normal(0, 6),
    "weight_ih": normal(24, 4),
    "weight_hh": normal(24, 6),
    "bias": normal(24),
    "direction": "forward",
    "output_sequence": True,
}
GRU = {**LSTM, "weight_ih": normal(18, 4), "weight_hh": normal(18, 6), "bias": normal(18)}
del GRU["initial_c"]
RNN = {**GRU, "weight_ih": normal(6, 4), "weight_hh": normal(6, 6), "bias": normal(6)}
CASES = {
    "linear": ("linear", "weight", {"x": normal(0, 4), "weight": normal(3, 4)}),
    "linear of images": ("linear", "weight", {"x": normal(2, 0, 4), "weight": normal(3, 4)}),
    "matmul": ("matmul", "y", {"x": normal(0, 4), "y": normal(4, 3)}),
    "matmul in heads": ("matmul", "y", {"x": normal(2, 0, 4), "y": normal(2, 4, 3)}),
    "matmul, weight first": ("matmul", "x", {"x": normal(3, 4), "y": normal(4, 0)}),
    "einsum": (
        "einsum",
        "values",
        {"values": (normal(1, 5, 0, 4), normal(1, 4, 0, 3)), "equation": "nchw,nwhu->nchu"},
    ),
    "conv": ("conv", "weight", {"x": normal(0, 4, 8, 8), "weight": normal(3, 4, 3, 3)}),
    "pointwise": ("conv", "weight", {"x": normal(0, 4, 8, 8), "weight": normal(3, 4, 1, 1)}),
    "depthwise": (
        "conv",
        "weight",
        {"x": normal(0, 4, 8, 8), "weight": normal(4, 1, 3, 3), "groups": 4},
    ),
    "conv_transpose": (
        "conv_transpose",
        "weight",
        {"x": normal(0, 4, 8), "weight": normal(4, 3, 3), "strides": np.array([2])},
    ),
    "gather": ("gather", "x", {"x": normal(9, 4), "indices": np.zeros((0,), np.int32), "axis": 0}),
    "lstm": ("lstm", "weight_ih", LSTM),
    "lstm's states": ("lstm", "weight_hh", LSTM),
    "gru": ("gru", "weight_ih", GRU),
    "gru's states": ("gru", "weight_hh", GRU),
    "rnn": ("rnn", "weight_ih", RNN),
    "rnn's states": ("rnn", "weight_hh", RNN),
}


@over_namespaces
@pytest.mark.parametrize("case", CASES)
def test_no_rows_meet_a_weight(case, namespace):
    op_type, parameter, arguments = CASES[case]
    if "indices" in arguments and namespace == "torch":
        arguments = {**arguments, "indices": NAMESPACES["torch"][1](arguments["indices"])}
    if "indices" in arguments and namespace == "strict":
        arguments = {**arguments, "indices": NAMESPACES["strict"][1](arguments["indices"])}
    xp, own = NAMESPACES[namespace][0], given(arguments, namespace)
    kernel = kernel_of(op_type, namespace)
    position = 1 if op_type == "einsum" else 0
    for chunk in chunks_of(op_type, parameter, own, xp, kernel, position):
        if op_type == "gather":
            assert np.asarray(chunk).sum() == 0
        elif op_type != "einsum":  # whose rows are still there, of groups that are not
            assert 0 in tuple(chunk.shape)
            assert chunk.shape[2] == matrix_of(op_type, parameter, arguments, position).shape[2]
    made = kernel(xp, **own)
    for result in made if isinstance(made, tuple) else (made,):
        assert 0 in tuple(result.shape)
