"""EfficientNet-Lite0: the fixture, and the same weights converted for another iOS version.

python benchmarks/models_efficientnet.py       # converts it for iOS18, and compares the two
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import runtime_models
import torch
from bench_cache import made, versioned

FIXTURE = runtime_models.ROOT / "fixtures/efficientnet_lite0.mlpackage"


def package(ios: int = 17) -> Path:
    """Returns the `.mlpackage`: fp16, `image` (1, 3, 224, 224) to `logits`."""
    if ios == 17:
        return FIXTURE
    return made(versioned("efficientnet_lite0", ios), lambda target: _convert(target, ios))


def _convert(target: Path, ios: int) -> None:
    """Writes the package."""
    module = runtime_models.efficientnet().eval()
    runtime_models.fill(module, FIXTURE)
    x = torch.zeros(1, 3, 224, 224)
    names = ("image", "logits")
    runtime_models.convert(module, x, target, precision="float16", ios=ios, names=names)


def main() -> None:
    """Prints how far the package for iOS18 is from the fixture, on the fixture's own image."""
    import mlpass

    image = np.load(FIXTURE.with_suffix(".npz"))["input:image"]
    first, second = (
        mlpass.Interpreter(package(ios), backend="torch").predict({"image": image})["logits"]
        for ios in (17, 18)
    )
    largest, difference = np.abs(first).max(), np.abs(first - second).max()
    print(f"largest logit {largest:.3f}, largest difference {difference:.6f}")


if __name__ == "__main__":
    main()
