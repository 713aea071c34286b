"""The fixture tiny_lm, a language model over bytes, and the same weights for another iOS version.

Its training (fixtures/make/tiny_lm.py) saw nothing of the first 100,000 bytes of the Brown corpus
(see data_brown.py): they judge it, and the rest calibrates.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import data_brown
import numpy as np
import runtime_models
import torch
from bench_cache import made, versioned
from numpy.typing import NDArray
from torch.nn import functional

FIXTURE = runtime_models.ROOT / "fixtures/tiny_lm.mlpackage"
CONTEXT, HELD_OUT, WINDOWS = 64, 100_000, 400

Array = NDArray[Any]


def package(ios: int = 17) -> Path:
    """Returns the `.mlpackage`: fp16, `tokens` (1, 64) to `logits`."""
    if ios == 17:
        return FIXTURE
    return made(versioned("tiny_lm", ios), lambda target: _convert(target, ios))


def _convert(target: Path, ios: int) -> None:
    """Writes the package."""
    module = runtime_models.tiny_lm().eval()
    runtime_models.fill(module, FIXTURE)
    x = torch.zeros(1, CONTEXT, dtype=torch.int32)
    names = ("tokens", "logits")
    runtime_models.convert(module, x, target, precision="float16", ios=ios, names=names)


def corpus() -> NDArray[np.uint8]:
    """Returns the bytes of the corpus as the model knows them: a sentence a line."""
    lines = [
        " ".join(word.rpartition("/")[0] for word in line.split())
        for text in data_brown.tagged_texts()
        for line in text.splitlines()
        if line.strip()
    ]
    return np.frombuffer("\n".join(lines).encode(), np.uint8)


def calibration(count: int) -> list[dict[str, Array]]:
    """Returns windows of what is not held out, drawn evenly, as `sample_data`."""
    text = corpus()[HELD_OUT:].astype(np.int32)
    starts = np.linspace(0, len(text) - CONTEXT, count).astype(int)
    return [{"tokens": text[start : start + CONTEXT][None]} for start in starts]


def bits_a_byte(predict: Callable[[Mapping[str, Array]], Array]) -> float:
    """Returns the mean cross entropy in bits over windows of the held-out text."""
    text = corpus()[:HELD_OUT].astype(np.int32)
    losses = []
    for start in np.linspace(0, HELD_OUT - CONTEXT - 1, WINDOWS).astype(int):
        window = text[start : start + CONTEXT + 1]
        logits = torch.from_numpy(predict({"tokens": window[None, :-1]}))[0].float()
        losses.append(functional.cross_entropy(logits, torch.from_numpy(window[1:]).long()).item())
    return float(np.mean(losses) / np.log(2))
