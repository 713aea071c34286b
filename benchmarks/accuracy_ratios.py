"""What pruning does to the size of networks whose trained weights are not needed to tell.

MobileNetV2, MobileNetV3-small and ResNet50 have random weights here, converted to fp16 and pruned
without data: `Percentile` zeroes an exact count, whatever the values, so the sizes are those of
trained weights. Published are those of Core ML Tools' guide, "Pruning: Performance", of the same
networks by its MagnitudePruner; which layers it pruned is not said there. So each selection of
weights is tried, of those above mlpass' default threshold of 2,048 elements.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import runtime_models
import torch
from bench_cache import weight_bytes
from models_mobilenetv3 import mobilenetv3
from torch import nn

import mlpass
from mlpass.report.records import LayerRecord

SHAPE = (2, 3, 224, 224)
SPARSITIES = (0.5, 0.75)


@dataclass(frozen=True)
class Network:
    """A network.

    Attributes:
        title: its name.
        make: returns it in torch.
        published: its compression ratios at SPARSITIES.
    """

    title: str
    make: Callable[[], nn.Module]
    published: tuple[float, float]


@dataclass(frozen=True)
class Ratio:
    """A network pruned.

    Attributes:
        network: its title.
        sparsity: of what was selected.
        selection: of weights.
        share: of the weights' bytes that was selected.
        weights: bytes of the weight file before, over those after.
        package: the same of the whole package.
        published: of Core ML Tools.
        nearest: whether no other selection's `package` is nearer to that.
    """

    network: str
    sparsity: float
    selection: str
    share: float
    weights: float
    package: float
    published: float
    nearest: bool = False


NETWORKS = {
    "mobilenetv2": Network("MobileNetV2", runtime_models.mobilenet, (1.37, 1.73)),
    "mobilenetv3-small": Network("MobileNetV3-small", mobilenetv3, (1.73, 3.06)),
    "resnet50": Network("ResNet50", runtime_models.resnet, (1.77, 3.17)),
}


def _depthwise(layer: LayerRecord) -> bool:
    return layer.op_type == "conv" and layer.shape[1] == 1


SELECTIONS: dict[str, Callable[[LayerRecord], bool]] = {
    "all weights": lambda _: True,
    "all but depthwise": lambda layer: not _depthwise(layer),
    "convolutions": lambda layer: layer.op_type == "conv",
    "pointwise convolutions": lambda layer: layer.op_type == "conv" and layer.shape[2:] == (1, 1),
}


def ratios(name: str) -> list[Ratio]:
    """Returns what each sparsity and selection gives on a network."""
    network = NETWORKS[name]
    found = []
    with tempfile.TemporaryDirectory() as folder:
        dense = Path(folder, "dense.mlpackage")
        torch.manual_seed(0)
        module, x = network.make(), torch.randn(SHAPE)
        runtime_models.settle(module, x)
        runtime_models.convert(module, x, dense, precision="float16")
        for sparsity, published in zip(SPARSITIES, network.published, strict=True):
            tried = [_pruned(network, dense, sparsity, each, published) for each in SELECTIONS]
            best = min(tried, key=lambda one: abs(one.package - one.published))
            found += [replace(one, nearest=one is best) for one in tried]
    return found


def _pruned(
    network: Network, dense: Path, sparsity: float, selection: str, published: float
) -> Ratio:
    """Returns what pruning a selection of weights gives."""
    chosen = SELECTIONS[selection]
    layers = mlpass.inspect(dense).layers
    spared = {layer.name: None for layer in layers if not chosen(layer)}
    config = mlpass.Config(global_config=mlpass.Percentile(sparsity), op_name_configs=spared)
    output = dense.with_name("pruned.mlpackage")
    report = mlpass.prune(dense, output, config, force=True)
    pruned = sum(layer.bytes_before for layer in report.layers if layer.mode)
    return Ratio(
        network.title,
        sparsity,
        selection,
        share=pruned / weight_bytes(dense),
        weights=weight_bytes(dense) / weight_bytes(output),
        package=report.bytes_before / report.bytes_after,
        published=published,
    )
