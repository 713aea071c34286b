"""Small torch models of different kinds, and their conversion with coremltools."""

from __future__ import annotations

import logging
import warnings
from typing import Any, NamedTuple

import coremltools as ct
import numpy as np
import torch
from torch import nn

STATE = (1, 4, 32)


class Convolutions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 32, 3, padding=1)
        self.norm = nn.BatchNorm2d(32)
        self.second = nn.Conv2d(32, 32, 3, stride=2)
        self.head = nn.Linear(32, 80)

    def forward(self, x):
        x = torch.relu(self.norm(self.first(x)))
        return self.head(torch.relu(self.second(x)).mean((2, 3)))


class TiedTransformer(nn.Module):
    """One block; the embedding is the head, too."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(100, 48)
        self.q, self.k, self.v, self.out = (nn.Linear(48, 48) for _ in range(4))
        self.norm = nn.LayerNorm(48)
        self.up, self.down = nn.Linear(48, 96), nn.Linear(96, 48)

    def forward(self, tokens):
        x = self.embedding(tokens)
        y = self.norm(x)
        scores = self.q(y) @ self.k(y).transpose(-1, -2) / 48**0.5
        x = x + self.out(torch.softmax(scores, -1) @ self.v(y))
        x = x + self.down(nn.functional.gelu(self.up(x)))
        return nn.functional.linear(x, self.embedding.weight)


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(24, 40, batch_first=True, bidirectional=True)
        self.head = nn.Linear(80, 40)

    def forward(self, x):
        return self.head(self.lstm(x)[0])


class _Branches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.then = nn.Linear(64, 64)
        self.other = nn.Linear(64, 64)

    def forward(self, x):
        return self.then(x) if bool(x.mean() > 0) else self.other(x) + 1


class Conditional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.branches = torch.jit.script(_Branches())
        self.head = nn.Linear(64, 64)

    def forward(self, x):
        return self.head(self.branches(x))


class Stateful(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("cache", torch.zeros(STATE, dtype=torch.float16))
        self.into = nn.Linear(64, 32)
        self.back = nn.Linear(32, 80)

    def forward(self, x):
        total = self.cache + self.into(x).to(torch.float16)
        self.cache[:] = total
        return self.back(total.to(torch.float32))


class Kind(NamedTuple):
    """A model, an input of it, whether torch.export can take it, and the lowest target."""

    module: type[nn.Module]
    sample: Any
    exported: bool
    target: Any


GENERATOR = np.random.default_rng(0)
KINDS = {
    "cnn": Kind(Convolutions, GENERATOR.random((1, 3, 12, 12), np.float32), True, ct.target.iOS16),
    "transformer": Kind(
        TiedTransformer, GENERATOR.integers(0, 96, (1, 7)).astype(np.int32), True, ct.target.iOS16
    ),
    "lstm": Kind(Recurrent, GENERATOR.random((1, 5, 24), np.float32), False, ct.target.iOS16),
    "cond": Kind(Conditional, GENERATOR.random((1, 64), np.float32), False, ct.target.iOS16),
    "stateful": Kind(Stateful, GENERATOR.random((1, 4, 64), np.float32), True, ct.target.iOS18),
}


def source_of(name: str, *, export: bool = False, module: nn.Module | None = None) -> Any:
    """Returns a model as coremltools takes it, traced or exported; with the same weights always."""
    kind = KINDS[name]
    torch.manual_seed(0)
    module = (module or kind.module()).eval()
    sample = torch.from_numpy(kind.sample)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch deprecates parts of itself
        if export:
            return torch.export.export(module, (sample,)).run_decompositions({})
        return torch.jit.trace(module, sample)


def converted(name: str, source: Any, **options: Any) -> Any:
    """Returns a source converted to an ML Program, its input called "x" where that can be said."""
    kind = KINDS[name]
    settings: dict[str, Any] = {
        "convert_to": "mlprogram",
        "minimum_deployment_target": kind.target,
        "skip_model_load": True,
        **options,
    }
    if isinstance(source, torch.jit.ScriptModule):
        settings["inputs"] = [
            ct.TensorType("x", shape=kind.sample.shape, dtype=kind.sample.dtype.type)
        ]
    if name == "stateful":
        wrapped = ct.TensorType(shape=STATE, dtype=np.float16)
        settings["states"] = [ct.StateType(wrapped, name="cache")]
    logging.getLogger("coremltools").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch and coremltools have much to say
        return ct.convert(source, **settings)
