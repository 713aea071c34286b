"""Layers to solve: weights, and inputs that are correlated, as real ones are."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlpass.solvers.admm import ADMM
from mlpass.solvers.gram import accumulate
from mlpass.solvers.problem import Method
from mlpass.solvers.sparsegpt import SparseGPT
from mlpass.solvers.wanda import Magnitude, Wanda
from mlpass.sparsity.layout import Layout, matrix_layout
from mlpass.sparsity.modes import NM, Block, Channel, Kernel, Mode, Percentile, Threshold
from mlpass.weights.ops.convolutions import conv_layout

MODES: list[Mode] = [
    Threshold(0.07, 0.0),
    Percentile(0.5),
    Percentile(0.37, scope="row"),
    NM(2, 4),
    NM(1, 3),
    NM(2, 4, dim=0),
    Block(0.5, 4),
    Block(0.3, 3, dim=1),
    Kernel(0.5),
    Channel(0.25),
]
METHODS: list[Method] = [
    Magnitude(),
    Magnitude(refit=True),
    Wanda(),
    Wanda(refit=True),
    SparseGPT(),
    SparseGPT(block_size=20, refit=True),
    ADMM(),
]
LAYOUTS: list[Layout] = [
    matrix_layout(48, 70),
    conv_layout((24, 14, 3, 3), 1),
    conv_layout((24, 7, 5), 2),
]


def layer(
    rows: int, columns: int, samples: int = 0, decay: float = 0.5, seed: int = 0
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Returns a weight (rows, columns) and inputs (samples, columns)."""
    rng = np.random.default_rng(seed)
    weight = rng.standard_normal((rows, columns), np.float32) / np.float32(columns**0.5)
    spread = np.arange(1, columns + 1, dtype=np.float32) ** np.float32(-decay / 2)
    basis = rng.standard_normal((columns, columns), np.float32)
    inputs = (rng.standard_normal((samples or 4 * columns, columns), np.float32) * spread) @ basis
    return weight, inputs / np.float32(np.sqrt(np.mean(np.square(inputs))))


def stored(layout: Layout, seed: int = 0) -> tuple[NDArray[np.float32], NDArray[Any]]:
    """Returns a weight in the shape of `layout`, and its Gram (groups, columns, columns)."""
    groups, rows, channels, positions = layout.sizes
    columns = channels * positions
    parts = [layer(rows, columns, seed=seed + group) for group in range(groups)]
    weight = np.stack([part[0] for part in parts]).reshape(layout.sizes)
    gram = accumulate(None, np.stack([part[1] for part in parts]))
    return np.ascontiguousarray(layout.join(weight)), gram


def fits(mode: Mode, layout: Layout) -> bool:
    """Returns whether a mode fits a layout: kernels need one."""
    return not isinstance(mode, Kernel) or bool(layout.axes[3])


def exact_error(weight: Any, pruned: Any, gram: Any, layout: Layout) -> float:
    """Returns the relative output error, in fp64, from its definition."""
    groups, rows, channels, positions = layout.sizes
    shape = (groups, rows, channels * positions)
    start = layout.split(weight).reshape(shape).astype(np.float64)
    change = layout.split(pruned).reshape(shape) - start
    double = np.asarray(gram, np.float64).reshape(groups, shape[2], shape[2])
    return float(np.sum((change @ double) * change) / np.sum((start @ double) * start))
