"""Programs that tests prune by passes, and what has become of them."""

from __future__ import annotations

import coremltools as ct
import numpy as np
from coremltools.converters.mil.mil import Builder as mb

from tests.runtime.programs import program


def dense(x):
    weight = np.random.default_rng(0).standard_normal((64, 64), np.float32)
    return mb.linear(x=x, weight=weight, name="y")


def live(opset=ct.target.iOS17):
    """Returns a pymil program with one weight of 64 x 64."""
    return program(dense, (1, 64), opset=opset)


def zeros_of(made):
    """Returns the share of zeros in the sparse weight of a pymil program; 0 where it has none."""
    found = made.functions["main"].find_ops(op_type="constexpr_sparse_to_dense")
    if not found:
        return 0.0
    (op,) = found
    return 1 - op.nonzero_data.val.size / np.prod(op.shape.val)
