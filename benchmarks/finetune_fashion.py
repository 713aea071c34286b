"""Fine-tuning with labels: what of the accuracy that pruning lost comes back, on Fashion-MNIST.

    python benchmarks/finetune_fashion.py --seeds 0 1 2 --json fashion.json

For each seed a trained network (models_fashion.py) is pruned without data, and pruned while its
converted program trains for some epochs. Both packages, as written, are run by the Interpreter on
the 10,000 test images. Recovered is (fine-tuned - pruned) / (dense - pruned).
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from pathlib import Path

import data_fashion
import models_fashion
import numpy as np
import torch
from torch.nn import functional
from tqdm import tqdm

import mlpass
from mlpass import Config, Percentile
from mlpass.finetune import MagnitudePruner, PolynomialDecay, to_module

BATCH, UPDATES = 128, 20


def main() -> None:
    """Measures each seed, prints a row for each and the mean, and writes JSON where asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=list(models_fashion.SEEDS))
    parser.add_argument("--target-sparsity", type=float, default=0.75)
    parser.add_argument("--epochs", type=float, default=1.0)
    parser.add_argument("--learning-rate", type=float, default=0.02, help="of SGD, falling to 0")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", metavar="FILE", help="write all figures")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    results = []
    for seed in options.seeds:
        result = measure(seed, options)
        results.append(result)
        print(
            f"seed {seed}: dense {result['dense']:.4f}  pruned {result['pruned']:.4f}  "
            f"fine-tuned {result['tuned']:.4f}  recovered {result['recovered']:.3f}  "
            f"sparsity {result['sparsity']:.3f}  {result['seconds']:.0f} s",
            flush=True,
        )
    recovered = [result["recovered"] for result in results]
    spread = float(np.std(recovered, ddof=1)) if len(recovered) > 1 else 0.0
    print(f"recovered {np.mean(recovered):.3f} +- {spread:.3f}, {len(recovered)} seeds")
    if options.json:
        content = {"machine": platform.platform(), "options": vars(options), "results": results}
        Path(options.json).write_text(json.dumps(content, indent=2) + "\n")


def measure(seed: int, options: argparse.Namespace) -> dict[str, float]:
    """Returns the top-1 accuracies of one seed: dense, pruned, and pruned while it trains."""
    package = models_fashion.package(seed)
    config = Config(global_config=Percentile(options.target_sparsity))
    with tempfile.TemporaryDirectory() as folder:
        pruned, tuned = Path(folder, "pruned.mlpackage"), Path(folder, "tuned.mlpackage")
        mlpass.prune(package, pruned, config)
        began = time.perf_counter()
        sparsity = train(package, tuned, config, seed, options)
        seconds = time.perf_counter() - began
        dense, lost, back = map(accuracy, (package, pruned, tuned))
    return {
        "seed": seed,
        "dense": dense,
        "pruned": lost,
        "tuned": back,
        "recovered": (back - lost) / (dense - lost),
        "sparsity": sparsity,
        "seconds": seconds,
    }


def train(
    package: Path, output: Path, config: Config, seed: int, options: argparse.Namespace
) -> float:
    """Writes the package pruned while it trains, and returns its sparsity."""
    generator = torch.Generator().manual_seed(seed)
    pixels, labels = map(torch.from_numpy, data_fashion.images("train"))
    steps = max(2, int(options.epochs * (len(pixels) // BATCH)))
    module = to_module(package)
    updates = sorted({1 + steps // 2 * number // UPDATES for number in range(UPDATES)})
    pruner = MagnitudePruner(module, config, PolynomialDecay(updates))
    pruner.prepare()
    optimizer = torch.optim.SGD(module.parameters(), options.learning_rate, 0.9, weight_decay=5e-4)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    order = torch.cat(
        [torch.randperm(len(pixels), generator=generator) for _ in range(int(options.epochs) + 1)]
    )
    for step in tqdm(range(steps), desc=f"seed {seed}", disable=None):
        chosen = order[step * BATCH : (step + 1) * BATCH]
        logits = module(image=pixels[chosen])["logits"]
        loss = functional.cross_entropy(logits, labels[chosen], label_smoothing=0.05)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        decay.step()
        pruner.step()
    return pruner.finalize(output).sparsity


def accuracy(package: Path) -> float:
    """Returns the top-1 accuracy of a package on the test images."""
    interpreter = mlpass.Interpreter(package, backend="torch")
    return models_fashion.top1(lambda images: interpreter.predict({"image": images})["logits"])


if __name__ == "__main__":
    main()
