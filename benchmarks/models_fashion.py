"""A residual CNN of 0.68 M parameters for Fashion-MNIST: trained, and converted.

    python benchmarks/models_fashion.py 0 1 2      # trains each seed (some CPU minutes), checks it

Weights and packages stay in the data folder (see bench_cache.py).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import data_fashion
import numpy as np
import torch
from bench_cache import made, versioned
from torch import Tensor, nn
from torch.nn import functional

WIDTHS, BLOCKS = (16, 32, 64, 128), (1, 1, 2, 2)
EPOCHS, BATCH, PEAK_RATE = 6, 128, 0.15
SEEDS = (0, 1, 2)


def convolution(inputs: int, outputs: int, kernel: int, stride: int = 1) -> list[nn.Module]:
    """Returns a convolution that keeps the size at stride 1, and its batch norm."""
    return [
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
    ]


class Residual(nn.Module):
    """Two convolutions, added to their input or to a projection of it."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        first, second = convolution(inputs, outputs, 3, stride), convolution(outputs, outputs, 3)
        self.layers = nn.Sequential(*first, nn.ReLU(), *second)
        same = stride == 1 and inputs == outputs
        skip = [] if same else convolution(inputs, outputs, 1, stride)
        self.skip = nn.Sequential(*skip)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.layers(x) + self.skip(x))


def network() -> nn.Sequential:
    """Returns the network with random weights: images (batch, 1, 28, 28) to logits (batch, 10)."""
    layers, width = [*convolution(1, WIDTHS[0], 3), nn.ReLU()], WIDTHS[0]
    for stage, (outputs, repeats) in enumerate(zip(WIDTHS, BLOCKS, strict=True)):
        for index in range(repeats):
            layers.append(Residual(width, outputs, 2 if stage and not index else 1))
            width = outputs
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10))


def trained(seed: int) -> nn.Sequential:
    """Returns the network with trained weights, in evaluation mode; trains it where it has none."""
    model = network()
    path = made(f"fashion-{seed}.pt", lambda target: _train(seed, target))
    model.load_state_dict(torch.load(path, weights_only=True))
    return model.eval()


def package(seed: int, ios: int = 17) -> Path:
    """Returns the `.mlpackage`: fp16, `image` (1 to 250, 1, 28, 28) to `logits`."""
    name = versioned(f"fashion-{seed}", ios)
    return made(name, lambda target: _convert(trained(seed), target, ios))


def _train(seed: int, target: Path) -> None:
    """Trains from a seed, on images shifted and mirrored at random."""
    torch.manual_seed(seed)
    pixels, labels = map(torch.from_numpy, data_fashion.images("train"))
    model = network().to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(
        model.parameters(), PEAK_RATE, 0.9, weight_decay=5e-4, nesterov=True
    )
    steps = EPOCHS * (len(pixels) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_RATE, total_steps=steps)
    for epoch in range(EPOCHS):
        began, losses = time.perf_counter(), []
        order = torch.randperm(len(pixels))
        for chosen in order[: len(pixels) // BATCH * BATCH].view(-1, BATCH):
            x = _varied(pixels[chosen]).to(memory_format=torch.channels_last)
            loss = functional.cross_entropy(model(x), labels[chosen], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        seconds = time.perf_counter() - began
        print(f"seed {seed} epoch {epoch}: loss {np.mean(losses):.4f}, {seconds:.0f} s", flush=True)
    torch.save(model.to(memory_format=torch.contiguous_format).state_dict(), target)


def _varied(x: Tensor) -> Tensor:
    """Returns images of which each is mirrored or not, and all shifted by up to two pixels."""
    mirrored = torch.rand(len(x), 1, 1, 1) < 0.5
    x = torch.where(mirrored, x.flip(3), x)
    down, right = torch.randint(5, (2,)).tolist()
    padded = functional.pad(x, (2, 2, 2, 2), value=-data_fashion.MEAN / data_fashion.DEVIATION)
    return padded[:, :, down : down + 28, right : right + 28]


def _convert(model: nn.Module, target: Path, ios: int) -> None:
    """Writes the package."""
    import coremltools as ct

    trace: Callable[..., object] = torch.jit.trace
    with torch.no_grad():
        traced = trace(model, torch.zeros(2, 1, 28, 28))
    batch = ct.RangeDim(1, 250, default=1)
    converted = ct.convert(
        traced,
        convert_to="mlprogram",
        minimum_deployment_target=ct.target[f"iOS{ios}"],
        inputs=[ct.TensorType("image", (batch, 1, 28, 28), dtype=np.float32)],
        outputs=[ct.TensorType("logits", dtype=np.float32)],
        skip_model_load=True,
    )
    converted.save(str(target))


def top1(predict: Callable[[np.ndarray], np.ndarray], batch: int = 250) -> float:
    """Returns the share of the 10,000 test images whose best logit is their label's.

    Args:
        predict: images (batch, 1, 28, 28) to logits (batch, 10).
        batch: images a call.
    """
    pixels, labels = data_fashion.images("t10k")
    starts = range(0, len(pixels), batch)
    best = [predict(pixels[start : start + batch]).argmax(axis=1) for start in starts]
    return float(np.mean(np.concatenate(best) == labels))


def main() -> None:
    """Trains and converts each seed, and prints torch's top-1 and the package's."""
    import mlpass

    for seed in map(int, sys.argv[1:] or SEEDS):
        model = trained(seed)
        with torch.inference_mode():
            truth = top1(lambda x: model(torch.from_numpy(x)).numpy())  # noqa: B023
        interpreter = mlpass.Interpreter(package(seed), backend="torch")
        ours = top1(lambda x: interpreter.predict({"image": x})["logits"])  # noqa: B023
        print(f"seed {seed}: torch {truth:.4f}, package {ours:.4f}", flush=True)


if __name__ == "__main__":
    main()
