"""Small networks, as packages and as the torch modules that they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from coremltools.converters.mil.mil import Builder as mb

from tests.runtime.programs import convert, program

FIXTURES = Path(__file__).parents[2] / "fixtures"


def layers() -> torch.nn.ModuleDict:
    """Layers of all kinds that coremltools prunes, with random weights."""
    torch.manual_seed(5)
    return torch.nn.ModuleDict(
        {
            "first": torch.nn.Conv2d(8, 16, 3, padding=1),
            "grouped": torch.nn.Conv2d(16, 24, 3, padding=1, groups=2),
            "row": torch.nn.Conv1d(16, 8, 5, padding=2),
            "head": torch.nn.Linear(32, 16),
        }
    )


def save_layers(modules: torch.nn.ModuleDict, path: Path, **options: Any) -> Path:
    """Writes a package that reads the weights of `layers`, under the names of its modules."""
    weights = {name: module.weight.detach().numpy() for name, module in modules.items()}
    biases = {name: module.bias.detach().numpy() for name, module in modules.items()}

    def read(name):
        return {
            "weight": mb.const(val=weights[name], name=f"{name}_weight"),
            "bias": mb.const(val=biases[name], name=f"{name}_bias"),
            "name": name,
        }

    def build(image, line, features):
        first = mb.relu(x=mb.conv(x=image, pad_type="same", **read("first")))
        grouped = mb.conv(x=first, pad_type="same", groups=2, **read("grouped"))
        row = mb.conv(x=line, pad_type="same", **read("row"))
        return grouped, row, mb.linear(x=features, **read("head"))

    source = program(build, (1, 8, 6, 6), (1, 16, 9), (1, 32))
    convert(source, **options).save(str(path))
    return path


def digits(module: Any) -> torch.nn.Sequential:
    """The torch network that the digits fixtures were made from, with the weights of a module."""
    convolutions = []
    for inputs, outputs in ((1, 32), (32, 64), (64, 128)):
        convolution = torch.nn.Conv2d(inputs, outputs, 3, padding=1)
        convolutions += [convolution, torch.nn.ReLU(), torch.nn.MaxPool2d(2)]
    head = [torch.nn.Linear(128 * 3 * 3, 256), torch.nn.ReLU(), torch.nn.Linear(256, 10)]
    network = torch.nn.Sequential(*convolutions, torch.nn.Flatten(), *head)
    weights = iter(by_rank(module, 2))
    biases = iter(by_rank(module, 1))
    for layer in network:
        if hasattr(layer, "weight"):
            layer.weight.data = module.get_parameter(next(weights)).detach().clone()
            layer.bias.data = module.get_parameter(next(biases)).detach().clone()
    return network


def by_rank(module: Any, rank: int) -> list[str]:
    """Names of the parameters of rank 1, or of more, in the order of the program."""
    return [name for name, p in module.named_parameters() if (p.ndim == 1) == (rank == 1)]


def images(count: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Images that differ by class, and their classes."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(10, (count,), generator=generator)
    pixels = torch.randn(count, 1, 28, 28, generator=generator)
    for image, label in zip(pixels, labels.tolist(), strict=True):
        image[0, 2 * label : 2 * label + 4] += 2
    return pixels, labels
