"""coremltools' own SparseGPT, on the same weight, inputs, mode and dampening."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from coremltools.optimize.torch.layerwise_compression.algorithms import (
    ModuleSparseGPTConfig,
)
from coremltools.optimize.torch.layerwise_compression.algorithms import (
    SparseGPT as Peer,
)

from mlpass.solvers.gram import accumulate
from mlpass.solvers.solve import solve
from mlpass.solvers.sparsegpt import SparseGPT
from mlpass.sparsity.layout import matrix_layout
from mlpass.sparsity.modes import NM, Percentile
from mlpass.weights.ops.convolutions import conv_layout

from .layers import exact_error, layer


def peer_weight(module, inputs, mode, dampening):
    """Returns what coremltools makes of a module's weight."""
    config = ModuleSparseGPTConfig(
        target_sparsity=getattr(mode, "target_sparsity", 0.5),
        n_m_ratio=(mode.n, mode.m) if isinstance(mode, NM) else None,
        weight_dtype="float32",
        hessian_dampening=dampening,
    )
    with torch.no_grad():
        algorithm = Peer(module, config)
        algorithm.add_batch(inputs, module(inputs))
        algorithm.compress()
    return module.weight.detach().numpy()


@pytest.mark.slow_but_every(5)
@pytest.mark.parametrize("dampening", [0.01, 0.1])
@pytest.mark.parametrize("mode", [Percentile(0.5), Percentile(0.7), NM(2, 4), NM(1, 4)], ids=str)
@pytest.mark.parametrize(("rows", "columns"), [(96, 256), (256, 200), (384, 512)])
def test_a_linear_layer_comes_out_as_coremltools_has_it(rows, columns, mode, dampening):
    weight, inputs = layer(rows, columns)
    linear = torch.nn.Linear(columns, rows, bias=False)
    linear.weight.data = torch.from_numpy(weight.copy())
    theirs = peer_weight(linear, torch.from_numpy(inputs), mode, dampening)
    gram = accumulate(None, inputs)
    ours = solve(weight, gram, mode, method=SparseGPT(dampening))
    # coremltools zeroes one element more in each block of 128 columns.
    off_by_one = 0 if isinstance(mode, NM) else -(-columns // 128)
    differing = np.count_nonzero(ours.keep != (theirs != 0)) - off_by_one
    assert differing <= 1e-3 * weight.size
    layout = matrix_layout(rows, columns)
    assert ours.error <= 1.01 * exact_error(weight, theirs, gram, layout)
    same = ours.keep == (theirs != 0)
    assert np.median(np.abs(ours.weight - theirs)[same]) < 1e-4


def test_an_unstructured_convolution_comes_out_as_coremltools_has_it():
    weight = layer(48, 16 * 9)[0].reshape(48, 16, 3, 3)
    image = torch.from_numpy(layer(1, 16, samples=2 * 20 * 20)[1]).reshape(2, 20, 20, 16)
    image = image.permute(0, 3, 1, 2).contiguous()
    conv = torch.nn.Conv2d(16, 48, 3, bias=False)
    conv.weight.data = torch.from_numpy(weight.copy())
    theirs = peer_weight(conv, image, Percentile(0.5), 0.01)
    patches = torch.nn.functional.unfold(image, 3).permute(0, 2, 1).reshape(-1, 144).numpy()
    layout = conv_layout(weight.shape, 1)
    ours = solve(
        weight, accumulate(None, patches), Percentile(0.5), method=SparseGPT(), layout=layout
    )
    assert np.count_nonzero(ours.keep != (theirs != 0)) - 2 <= 1e-3 * weight.size


def test_nm_of_a_convolution_runs_over_positions_in_coremltools_and_over_channels_here():
    weight = layer(8, 8 * 9)[0].reshape(8, 8, 3, 3)
    image = torch.from_numpy(layer(1, 8, samples=400)[1]).reshape(1, 20, 20, 8)
    image = image.permute(0, 3, 1, 2).contiguous()
    conv = torch.nn.Conv2d(8, 8, 3, bias=False)
    conv.weight.data = torch.from_numpy(weight.copy())
    theirs = peer_weight(conv, image, NM(2, 4), 0.01) != 0
    patches = torch.nn.functional.unfold(image, 3).permute(0, 2, 1).reshape(-1, 72).numpy()
    ours = solve(
        weight,
        accumulate(None, patches),
        NM(2, 4),
        method=SparseGPT(),
        layout=conv_layout(weight.shape, 1),
    ).keep

    def holds(keep):
        return bool(np.all(np.moveaxis(keep, 1, -1).reshape(-1, 4).sum(axis=1) == 2))

    assert holds(ours) and not holds(theirs)
