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
from mlpass.sparsity.layout import (
    Layout,
    conv_layout,
    conv_transpose_layout,
    matmul_layout,
    matrix_layout,
)
from mlpass.sparsity.modes import NM, Block, Channel, Kernel, Mode, Percentile, Threshold

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
GROUPED: list[Layout] = [  # whose columns of different groups are compared
    conv_layout((96, 1, 3, 3), 96),
    conv_layout((48, 1, 5, 5), 48),
    conv_layout((64, 8, 3, 3), 8),
    conv_transpose_layout((48, 2, 3), 24),
    matmul_layout((5, 24, 12), left=False, transposed=False),
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


def stored(
    layout: Layout, seed: int = 0, samples: float = 4, decay: float = 0.5, loudness: float = 0
) -> tuple[NDArray[np.float32], NDArray[Any]]:
    """Returns a weight in the shape of `layout`, and its Gram (groups, columns, columns).

    Args:
        layout: of the weight.
        seed: of the first group.
        samples: for each column.
        decay: of the inputs' spectrum.
        loudness: by how much groups differ: the spread of the logarithm of their scale.
    """
    groups, rows, channels, positions = layout.sizes
    columns = channels * positions
    count = max(2, int(samples * columns))
    parts = [layer(rows, columns, count, decay, seed + group) for group in range(groups)]
    scales = np.exp(loudness * np.random.default_rng(seed).standard_normal(groups))
    inputs = [inputs * np.float32(scale) for (_, inputs), scale in zip(parts, scales, strict=True)]
    weight = np.stack([part[0] for part in parts]).reshape(layout.sizes)
    return np.ascontiguousarray(layout.join(weight)), accumulate(None, np.stack(inputs))


def fits(mode: Mode, layout: Layout) -> bool:
    """Returns whether a mode fits a layout: kernels need one, groups and blocks enough channels."""
    groups, rows, channels, _ = layout.sizes
    if isinstance(mode, NM | Block):
        size = mode.m if isinstance(mode, NM) else mode.block_size
        return size <= (channels if mode.dim == 1 else groups * rows)
    return not isinstance(mode, Kernel) or bool(layout.axes[3])


def exact_error(weight: Any, pruned: Any, gram: Any, layout: Layout) -> float:
    """Returns the relative output error, in fp64, from its definition."""
    groups, rows, channels, positions = layout.sizes
    shape = (groups, rows, channels * positions)
    start = layout.split(weight).reshape(shape).astype(np.float64)
    change = layout.split(pruned).reshape(shape) - start
    double = np.asarray(gram, np.float64).reshape(groups, shape[2], shape[2])
    return float(np.sum((change @ double) * change) / np.sum((start @ double) * start))
