"""Are the samples of all benchmarks taken for right? No warning of odd samples may come of them.

python benchmarks/check_samples.py

Every model of which the data is at hand, with calibration and evaluation samples; exit status 1
where a warning came. Data that is not there is told with the command that fetches it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import data_fashion
import data_images
import models_efficientnet
import models_minilm
import models_smollm2
import models_tiny
import numpy as np
import runtime_models

import mlpass
from mlpass.runtime.doubts import doubts

COUNT = 64
FIXTURES = runtime_models.ROOT / "fixtures"
Samples = Sequence[Mapping[str, Any]]


def windows(name: str, texts: Sequence[np.ndarray]) -> Samples:
    """Returns token ids as samples."""
    return [{name: text[None]} for text in texts]


# What the samples are for: a package of those inputs, and the samples.
CASES: dict[str, tuple[Callable[[], Path], Callable[[], Samples]]] = {
    "Fashion-MNIST": (  # digits take what the garments' model takes
        lambda: FIXTURES / "digits_ios15.mlpackage",
        lambda: data_fashion.calibration(COUNT),
    ),
    "crops": (lambda: models_efficientnet.FIXTURE, lambda: data_images.calibration(COUNT)),
    "other crops": (lambda: models_efficientnet.FIXTURE, lambda: data_images.evaluation(COUNT)),
    "MiniLM": (lambda: models_minilm.package(18), lambda: models_minilm.calibration(COUNT)),
    "SmolLM2": (
        lambda: models_smollm2.package(18),
        lambda: windows("input_ids", models_smollm2.calibration(COUNT)),
    ),
    "SmolLM2, evaluation": (
        lambda: models_smollm2.package(18),
        lambda: windows("input_ids", models_smollm2.evaluation()),
    ),
    "tiny_lm": (lambda: models_tiny.FIXTURE, lambda: models_tiny.calibration(COUNT)),
}


def main() -> None:
    """Prints a line for each set of samples."""
    odd = 0
    for name, (package, made) in CASES.items():
        try:
            samples, interpreter = made(), mlpass.Interpreter(package())
        except (SystemExit, ImportError) as missing:
            print(f"{name}: {missing}")
            continue
        found = list(doubts(interpreter, samples))
        odd += len(found)
        print(f"{name}: {len(samples)} samples, {'; '.join(found) or 'nothing odd'}", flush=True)
    raise SystemExit(odd > 0)


if __name__ == "__main__":
    main()
