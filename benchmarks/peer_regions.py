"""What bench_regions_torch.py compares with: the same regions of tiny_lm tuned in its torch module.

A loop as one writes it for one's own network: half a layer at a time, attention or the gated MLP,
on what the tuned ones before it make, towards what the dense network has there. Loss, Adam, its
rate, the order of the samples and the choice of an epoch are those of `mlpass tune`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import runtime_models
import torch
from torch import Tensor, nn

from mlpass.finetune import Regions
from mlpass.finetune.training import divided

Half = Callable[[Any, Tensor], Tensor]  # of a layer: from the stream before it to that after it


def module_of(package: Path) -> Any:
    """Returns the network with a package's weights, and biases where the conversion made them."""
    module: Any = runtime_models.tiny_lm()
    runtime_models.fill(module, package)
    for layer in module.layers:
        for linear in (layer.query, layer.key, layer.value, layer.out, layer.down):
            linear.bias = nn.Parameter(torch.zeros(linear.out_features))
    return module


def tune(module: Any, dense: Any, tokens: Tensor, options: Regions) -> None:
    """Trains the halves of a pruned network's layers, one after another; zeros stay.

    Args:
        module: to train, in place.
        dense: to come close to.
        tokens: (samples, positions).
        options: of the training.
    """
    held, drawn = divided(len(tokens), options.held_out, options.seed)
    with torch.no_grad():
        stream, goal = module.embedding(tokens), dense.embedding(tokens)
    number = 1  # the first region is the embedding, which the head shares
    for layer, like in zip(module.layers, dense.layers, strict=True):
        for half, parts in _halves(module):
            with torch.no_grad():
                goal = half(like, goal)
            parameters = [each for name in parts for each in getattr(layer, name).parameters()]
            order = np.random.default_rng([options.seed, number])

            def loss(numbers: Any, half: Half = half, layer: Any = layer) -> Tensor:
                return _error(half(layer, stream[numbers]), goal[numbers])  # noqa: B023

            _train(parameters, loss, held, drawn, order, options)
            with torch.no_grad():
                stream = half(layer, stream)
            number += 1


def _halves(module: Any) -> Iterator[tuple[Half, tuple[str, ...]]]:
    """Yields the halves of a layer, each with the names of what trains in it."""

    def attention(layer: Any, x: Tensor) -> Tensor:
        query, key, value = layer.heads(x, module.cosine, module.sine)
        mask = torch.full(2 * (x.shape[1],), -1e4).triu(1)
        scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5 + mask
        attended = scores.softmax(-1) @ value
        made: Tensor = x + layer.out(attended.transpose(1, 2).reshape(x.shape))
        return made

    def mlp(layer: Any, x: Tensor) -> Tensor:
        inner = layer.mlp_norm(x)
        gated = nn.functional.silu(layer.gate(inner)) * layer.up(inner)
        made: Tensor = x + layer.down(gated)
        return made

    yield attention, ("query", "key", "value", "out")
    yield mlp, ("gate", "up", "down")


def _train(
    parameters: list[nn.Parameter],
    loss: Callable[[Any], Tensor],
    held: list[int],
    drawn: list[int],
    order: np.random.Generator,
    options: Regions,
) -> None:
    """Trains some parameters, and leaves them in fp16 as they were after the best epoch."""
    masks = [parameter != 0 if parameter.ndim > 1 else None for parameter in parameters]
    hooks = [
        parameter.register_hook(lambda gradient, mask=mask: gradient * mask)
        for parameter, mask in zip(parameters, masks, strict=True)
        if mask is not None
    ]
    steps = options.epochs * ceil(len(drawn) / options.batch_size)
    adam = torch.optim.Adam(parameters, options.learning_rate, betas=(0.9, 0.95))
    warm = ceil(steps / 8)
    rate = torch.optim.lr_scheduler.LambdaLR(
        adam, lambda step: min((step + 1) / warm, 1) * (steps - step) / steps
    )
    least, best = _judged(parameters, loss, held)
    for _ in range(options.epochs):
        numbers = [drawn[place] for place in order.permutation(len(drawn))]
        for start in range(0, len(numbers), options.batch_size):
            adam.zero_grad()
            loss(numbers[start : start + options.batch_size]).backward()  # type: ignore[no-untyped-call]
            adam.step()
            rate.step()
        found, values = _judged(parameters, loss, held)
        if found < least:
            least, best = found, values
    for hook in hooks:
        hook.remove()
    _set(parameters, best)


@torch.no_grad()
def _judged(
    parameters: list[nn.Parameter], loss: Callable[[Any], Tensor], held: list[int]
) -> tuple[float, list[Tensor]]:
    """Returns the loss of what would be written, and that."""
    masters = [parameter.clone() for parameter in parameters]
    rounded = [master.half().float() for master in masters]
    _set(parameters, rounded)
    found = float(loss(held))
    _set(parameters, masters)
    return found, rounded


@torch.no_grad()
def _set(parameters: list[nn.Parameter], values: list[Tensor]) -> None:
    for parameter, value in zip(parameters, values, strict=True):
        parameter.copy_(value)


def _error(made: Tensor, wanted: Tensor) -> Tensor:
    """Returns the mean over tokens of the squared error, relative to each one's own size."""
    power = wanted.square().sum(-1)
    error = (made - wanted).square().sum(-1)
    return (error / (power + 1e-3 * power.mean())).mean()
