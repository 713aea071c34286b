"""What a form would cost a weight, told without solving for it."""

from __future__ import annotations

import numpy as np
import pytest

from mlpass import SparseGPT
from mlpass.solvers.estimate import estimated, excerpt
from mlpass.solvers.gram import Gram
from mlpass.solvers.solve import solve
from mlpass.sparsity.layout import matrix_layout
from mlpass.sparsity.modes import Percentile
from mlpass.storage.palette import Palette
from mlpass.storage.quantized import Quantized
from mlpass.weights.ops.convolutions import conv_layout


@pytest.mark.parametrize("storage", [Palette(3), Palette(6), Quantized("int4"), Quantized("int8")])
@pytest.mark.parametrize("correlated", [False, True])
def test_what_columns_make_up_for_is_in_the_estimate(correlated, storage):
    """By plain rounding, correlated inputs seem to cost many times as much."""
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((64, 128)).astype(np.float32)
    inputs = rng.standard_normal((2048, 128))
    if correlated:
        inputs = inputs @ rng.standard_normal((128, 128)) * np.geomspace(1, 30, 128)
        inputs += 20 * rng.standard_normal((2048, 1))
    gram = Gram(np.float32(inputs.T @ inputs))
    layout, mode = matrix_layout(64, 128), Percentile(0.0)
    some = excerpt(weight, None, layout, gram)
    assert some.picked is None
    solved = solve(weight, gram, mode, method=SparseGPT(), storage=storage).error
    found = estimated(some, gram, mode, storage)
    assert found.error == pytest.approx(solved, rel=0.35)
    assert (found.alone > 1.5 * solved) == correlated


def test_columns_without_inputs_cost_nothing():
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((64, 128)).astype(np.float32)
    inputs = rng.standard_normal((2048, 128))
    inputs[:, ::2] = 0
    found = []
    for part, share in ((slice(None), 0.75), (slice(1, None, 2), 0.5)):
        used, x = np.ascontiguousarray(weight[:, part]), inputs[:, part]
        gram, layout = Gram(np.float32(x.T @ x)), matrix_layout(*used.shape)
        some = excerpt(used, None, layout, gram)
        found.append(estimated(some, gram, Percentile(share), None).error)
    assert found[0] == pytest.approx(found[1], rel=0.01)


@pytest.mark.parametrize("storage", [Palette(3), Quantized("int4")])
def test_groups_have_inputs_of_their_own(storage):
    """Those of the second do not correlate, so that nothing makes up for what is lost there."""
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((64, 64, 1, 1)).astype(np.float32)
    inputs = rng.standard_normal((2, 2048, 64))
    inputs[0] += 20 * rng.standard_normal((2048, 1))
    inputs[0] *= np.geomspace(1, 30, 64)
    gram, layout = Gram(np.float32(inputs.mT @ inputs)), conv_layout(weight.shape, 2)
    mode = Percentile(0.0)
    some = excerpt(weight, None, layout, gram)
    solved = solve(weight, gram, mode, method=SparseGPT(), storage=storage, layout=layout).error
    assert estimated(some, gram, mode, storage).error == pytest.approx(solved, rel=0.35)
