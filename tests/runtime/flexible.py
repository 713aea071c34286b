"""A small language model, converted by coremltools from torch, for texts of several lengths."""

from __future__ import annotations

from pathlib import Path

import coremltools as ct
import numpy as np
import torch
from torch import Tensor, nn

WIDTH, HEADS, VOCABULARY, LONGEST = 32, 2, 64, 24
LENGTHS = {
    "ranged": ct.RangeDim(2, LONGEST, default=16),
    "enumerated": ct.EnumeratedShapes([(1, 8), (1, 16), (1, LONGEST)], default=(1, 16)),
}


class Layer(nn.Module):
    """Causal attention, then an MLP."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.joint = nn.Linear(WIDTH, 3 * WIDTH)
        self.out = nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        batch, length, _ = x.shape
        query, key, value = (
            one.view(batch, length, HEADS, WIDTH // HEADS).transpose(1, 2)
            for one in self.joint(self.first(x)).chunk(3, dim=-1)
        )
        scores = query @ key.transpose(-1, -2) * (WIDTH // HEADS) ** -0.5 + mask
        mixed = (scores.softmax(-1) @ value).transpose(1, 2).reshape(batch, length, WIDTH)
        x = x + self.out(mixed)
        return x + self.down(nn.functional.gelu(self.up(self.second(x))))


class Model(nn.Module):
    """Logits (1, length, vocabulary) of tokens (1, length)."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.places = nn.Parameter(torch.randn(1, LONGEST, WIDTH) / 4)
        self.layers = nn.ModuleList(Layer() for _ in range(2))
        self.head = nn.Linear(WIDTH, VOCABULARY, bias=False)
        self.register_buffer("mask", torch.full((LONGEST, LONGEST), -1e4).triu(1))

    def forward(self, tokens: Tensor) -> Tensor:
        length = tokens.shape[1]
        x = self.embedding(tokens) + self.places[:, :length]
        for layer in self.layers:
            x = layer(x, self.mask[:length, :length])
        return self.head(x)


def convert(kind: str, path: Path) -> tuple[Path, Model]:
    """Writes the model as a package whose lengths are "ranged" or "enumerated"."""
    torch.manual_seed(0)
    model = Model().eval()
    traced = torch.jit.trace(model, torch.zeros(1, 16, dtype=torch.int32))
    lengths = LENGTHS[kind]
    shape = lengths if kind == "enumerated" else ct.Shape((1, lengths))
    converted = ct.convert(
        traced,
        inputs=[ct.TensorType("tokens", shape, np.int32)],
        outputs=[ct.TensorType("logits")],
        minimum_deployment_target=ct.target.iOS18,
        skip_model_load=True,
    )
    converted.save(str(path))
    return path, model


def texts(*lengths: int) -> list[dict[str, np.ndarray]]:
    """Returns samples of those lengths, of few words that follow one another."""
    draw = np.random.default_rng(3)
    starts = draw.integers(0, VOCABULARY, len(lengths))
    walks = [np.cumsum(draw.integers(1, 4, (1, length)), axis=1) for length in lengths]
    return [
        {"tokens": ((start + walk) % VOCABULARY).astype(np.int32)}
        for start, walk in zip(starts, walks, strict=True)
    ]
