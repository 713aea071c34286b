"""What bench_sparsegpt.py compares with: calibrated pruning of the torch models.

SmolLM2 goes through a loop over its blocks, as `LayerwiseCompressor` does it (which takes
sequential models only, with no more than the residual stream between blocks): hooks collect a
Hessian for each linear layer of a block, each is pruned, and the block runs again with its new
weights to make the next one's inputs. Hessian and SparseGPT are coremltools' own class. The CNN is
sequential, and goes through `LayerwiseCompressor` itself.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Any

import torch
from coremltools.optimize.torch import layerwise_compression
from coremltools.optimize.torch.layerwise_compression import algorithms
from torch import Tensor, nn

from mlpass.sparsity.modes import NM, Mode, Percentile

METHODS = ("magnitude", "wanda", "sparsegpt")


@torch.no_grad()
def prune_blocks(
    blocks: Sequence[nn.Module],
    streams: Sequence[Tensor],
    shared: tuple[Tensor, ...],
    method: str,
    mode: Mode,
) -> dict[str, float]:
    """Prunes the linear layers of blocks in place, and returns the seconds of each part.

    Args:
        blocks: each takes the output of the one before, and what they share.
        streams: inputs of the first block, (samples, positions, channels) each; they run one after
            another, as `LayerwiseCompressor` runs what its loader yields.
        shared: the further arguments of every block.
        method: one of METHODS.
        mode: `Percentile` or `NM`.
    """
    logging.disable(logging.WARNING)
    solving = 0.0
    began = time.perf_counter()
    for block in blocks:
        layers = [layer for layer in block.modules() if isinstance(layer, nn.Linear)]
        solvers = [algorithms.SparseGPT(layer, _options(mode)) for layer in layers]
        hooks = [_feed(layer, solver) for layer, solver in zip(layers, solvers, strict=True)]
        for stream in streams if method != "magnitude" else ():
            block(stream, *shared)
        for hook in hooks:
            hook.remove()
        start = time.perf_counter()
        for layer, solver in zip(layers, solvers, strict=True):
            if method == "sparsegpt":
                solver.compress()
            else:
                norms = solver._hessian.diagonal().sqrt()
                score = layer.weight.abs() * (norms if method == "wanda" else 1.0)
                layer.weight.mul_(_keep(score, mode, by_row=method == "wanda"))
            solver.cleanup()
        solving += time.perf_counter() - start
        streams = [block(stream, *shared) for stream in streams]
    return {"seconds": time.perf_counter() - began, "solver_seconds": solving}


def compress(
    model: nn.Sequential, samples: Sequence[Tensor], mode: Mode, threshold: int
) -> tuple[nn.Module, dict[str, float]]:
    """Returns what `LayerwiseCompressor` makes of a sequential model, and its seconds.

    Args:
        model: of convolutions and linear layers.
        samples: its inputs, each with a batch axis.
        mode: `Percentile` or `NM`.
        threshold: a weight of so many elements or fewer stays as it is.
    """
    logging.disable(logging.WARNING)
    kinds = (nn.Conv2d, nn.Linear)
    small = [
        name
        for name, layer in model.named_modules()
        if isinstance(layer, kinds) and layer.weight.numel() <= threshold
    ]
    config = layerwise_compression.LayerwiseCompressorConfig(
        layers=[name for name, _ in model.named_children()],
        global_config=_options(mode),
        module_name_configs=dict.fromkeys(small),
        calibration_nsamples=len(samples),
    )
    began = time.perf_counter()
    compressor = layerwise_compression.LayerwiseCompressor(model, config)
    pruned = compressor.compress(samples, device="cpu")
    return pruned, {"seconds": time.perf_counter() - began}


def sparsity(module: nn.Module, threshold: int = 0) -> float:
    """Returns the share of zeros among the weights of linear and convolution layers."""
    weights = [
        layer.weight
        for layer in module.modules()
        if isinstance(layer, nn.Linear | nn.Conv2d) and layer.weight.numel() > threshold
    ]
    return float(sum((w == 0).sum() for w in weights) / sum(w.numel() for w in weights))


def _options(mode: Mode) -> Any:
    """Returns coremltools' config for a mode."""
    return algorithms.ModuleSparseGPTConfig(
        target_sparsity=mode.target_sparsity if isinstance(mode, Percentile) else 0.5,
        n_m_ratio=(mode.n, mode.m) if isinstance(mode, NM) else None,
        weight_dtype="float32",
    )


def _feed(layer: nn.Module, solver: Any) -> Any:
    """Returns the handle of a hook that feeds a layer's inputs to its solver."""
    return layer.register_forward_hook(lambda _, given, out: solver.add_batch(given[0], out))


def _keep(score: Tensor, mode: Mode, by_row: bool) -> Tensor:
    """Returns the keep mask of a score (rows, columns): the least are zeroed, in every row or all.

    Args:
        score: not negative.
        mode: `NM` groups run along the columns.
        by_row: whether each row has its own share of zeros.
    """
    if isinstance(mode, NM):
        groups, zeros = score.reshape(-1, mode.m), mode.n
    else:
        assert isinstance(mode, Percentile)
        groups = score if by_row else score.reshape(1, -1)
        zeros = int(groups.shape[1] * mode.target_sparsity)
    least = groups.argsort(dim=1, stable=True)[:, :zeros]
    return torch.ones_like(groups).scatter_(1, least, 0.0).view_as(score)
