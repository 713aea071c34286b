"""Label-free fine-tuning of EfficientNet-Lite0, from a SparseGPT result at the same sparsity.

    python benchmarks/finetune_distill.py --target-sparsity 0.5 --steps 200 --json distill.json

SparseGPT prunes the fixture on crops of photos; the result then trains on the same crops, with its
zeros kept, towards the dense model's outputs. Both are compared with the dense model on crops of
other photos (see data_images.py, which says where the photos are to be had).
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from pathlib import Path

import data_images
import torch

import mlpass
from mlpass import Config, Percentile
from mlpass.finetune import finetune
from mlpass.report.comparison import Comparison

MODEL = Path(__file__).parents[1] / "fixtures" / "efficientnet_lite0.mlpackage"


def main() -> None:
    """Prunes, trains, compares, prints a row for each, and writes JSON where asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--target-sparsity", type=float, default=0.5)
    parser.add_argument("--samples", type=int, default=128, help="crops to prune and train on")
    parser.add_argument("--evaluation", type=int, default=100, help="crops to compare on")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--learning-rate", type=float, default=3e-4)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", metavar="FILE", help="write all figures")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    samples = data_images.calibration(options.samples)
    evaluation = data_images.evaluation(options.evaluation)
    config = Config(global_config=Percentile(options.target_sparsity))
    results = []
    with tempfile.TemporaryDirectory() as folder:
        pruned, tuned = Path(folder, "pruned.mlpackage"), Path(folder, "tuned.mlpackage")
        began = time.perf_counter()
        report = mlpass.prune(MODEL, pruned, config, sample_data=samples, target="own")
        results.append(row("SparseGPT", pruned, evaluation, report.sparsity, began))
        began = time.perf_counter()
        report = finetune(
            pruned,
            tuned,
            None,
            samples,
            dense=MODEL,
            steps=options.steps,
            batch_size=options.batch_size,
            learning_rate=options.learning_rate,
        )
        results.append(row("and fine-tuned", tuned, evaluation, report.sparsity, began))
    if options.json:
        content = {"machine": platform.platform(), "options": vars(options), "results": results}
        Path(options.json).write_text(json.dumps(content, indent=2) + "\n")


def row(
    name: str, model: Path, samples: list[dict[str, object]], sparsity: float, began: float
) -> dict[str, object]:
    """Returns how near a model is to the dense one, and prints it."""
    seconds = time.perf_counter() - began
    comparison: Comparison = mlpass.compare(MODEL, model, samples, backend="torch")
    (output,) = comparison.outputs
    print(
        f"{name:16} sparsity {sparsity:.3f}  SNR {output.snr:6.2f} dB  "
        f"top-1 agreement {output.top1:.3f}  {seconds:.0f} s",
        flush=True,
    )
    return {
        "name": name,
        "sparsity": sparsity,
        "snr": output.snr,
        "top1": output.top1,
        "seconds": seconds,
    }


if __name__ == "__main__":
    main()
