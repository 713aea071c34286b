"""What few samples come to: SNR on inputs that no run saw, by method and number of samples.

    python benchmarks/bench_few_samples.py --models tiny_lm vit --samples 1 2 8 --json few.json
    python benchmarks/bench_few_samples.py --models efficientnet_lite0 --target-sparsity 0.3

tiny_lm reads windows of the Brown corpus, and so do a small Llama and a small Qwen2 of random
weights (pip install transformers==5.24.0); EfficientNet-Lite0 and a small ViT of random weights
read photos; others of each judge (see models_tiny.py and data_images.py). A run is never to be
below pruning by magnitude, which needs no samples, by more than noise.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import coremltools as ct
import data_images
import models_efficientnet
import models_tiny
import numpy as np
import runtime_models
import torch

import mlpass
from mlpass import ADMM, Percentile, SparseGPT, Wanda

METHODS = {"wanda": Wanda(), "sparsegpt": SparseGPT(), "admm": ADMM()}
MODELS = ("tiny_lm", "efficientnet_lite0", "vit", "llama", "qwen2")
JUDGES = 24  # samples


class Case(NamedTuple):
    """A model, samples to calibrate on, and others to judge by."""

    package: Path
    samples: Sequence[dict[str, Any]]
    judges: Sequence[dict[str, Any]]


def main() -> None:
    """Prints a table a model, and writes JSON where asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=MODELS, choices=MODELS)
    parser.add_argument("--samples", nargs="+", type=int, default=(1, 2, 4, 8, 32, 128))
    parser.add_argument("--target-sparsity", type=float, default=0.5)
    parser.add_argument(
        "--target",
        choices=("own", "dense"),
        help="that layers aim at; the default as a user has it",
    )
    parser.add_argument("--json", metavar="FILE", help="write all figures")
    options = parser.parse_args()
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for model in options.models:
            rows = measure(model, options, Path(folder))
            results.extend(rows)
            print(table(model, rows), flush=True)
    if options.json:
        content = {"platform": platform.platform(), "results": results}
        Path(options.json).write_text(json.dumps(content, indent=1))


def case_of(model: str, count: int, folder: Path) -> Case:
    """Returns a model with so many samples."""
    if model in ("tiny_lm", "llama", "qwen2"):
        text = models_tiny.corpus()[: models_tiny.HELD_OUT].astype(np.int32)
        starts = np.linspace(0, len(text) - models_tiny.CONTEXT, JUDGES).astype(int)
        judges = [{"tokens": text[start : start + models_tiny.CONTEXT][None]} for start in starts]
        package = models_tiny.package() if model == "tiny_lm" else language_model(model, folder)
        return Case(package, models_tiny.calibration(count), judges)
    samples, judges = data_images.calibration(count), data_images.evaluation(JUDGES)
    if model == "efficientnet_lite0":
        return Case(models_efficientnet.package(), samples, judges)
    torch.manual_seed(0)
    module = runtime_models.Transformer(192, 3, 6, 197, 0)
    package = folder / "vit.mlpackage"
    runtime_models.convert(module.eval(), torch.zeros(1, 3, 224, 224), package)
    renamed = [[{"x": next(iter(one.values()))} for one in some] for some in (samples, judges)]
    return Case(package, *renamed)


def language_model(kind: str, folder: Path) -> Path:
    """Returns the package of a small model of transformers, of random weights: bytes to logits."""
    import transformers

    name = {"llama": "Llama", "qwen2": "Qwen2"}[kind]
    config = getattr(transformers, f"{name}Config")(
        vocab_size=256,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=models_tiny.CONTEXT,
        attn_implementation="eager",
    )
    torch.manual_seed(0)
    network = getattr(transformers, f"{name}ForCausalLM")(config).eval()

    class Window(torch.nn.Module):
        """A whole window at once."""

        def __init__(self) -> None:
            super().__init__()
            self.network = network
            size = models_tiny.CONTEXT
            self.register_buffer("mask", torch.full((1, 1, size, size), -1e4).triu(1))
            self.register_buffer("places", torch.arange(size)[None].int())

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            made = self.network(
                tokens, attention_mask=self.mask, position_ids=self.places, use_cache=False
            )
            logits: torch.Tensor = made.logits
            return logits

    package = folder / f"{kind}.mlpackage"
    example = torch.zeros(1, models_tiny.CONTEXT, dtype=torch.int32)
    traced = torch.jit.trace(Window().eval(), example, check_trace=False)
    converted = ct.convert(
        traced,
        inputs=[ct.TensorType("tokens", example.shape, np.int32)],
        outputs=[ct.TensorType("logits")],
        minimum_deployment_target=ct.target.iOS17,
        skip_model_load=True,
    )
    converted.save(str(package))
    return package


def measure(model: str, options: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """Returns a record a run: by magnitude first, then each method with each number of samples."""
    counts, target_sparsity = options.samples, options.target_sparsity
    case = case_of(model, max(counts), folder)
    out, mode = folder / "out.mlpackage", Percentile(target_sparsity)
    given: dict[str, Any] = {"backend": "torch", "target": options.target}

    def judged(name: str, count: int, **how: Any) -> dict[str, Any]:
        began = time.perf_counter()
        report = mlpass.prune(case.package, out, mode, force=True, **how)
        seconds = time.perf_counter() - began
        (output,) = mlpass.compare(case.package, out, case.judges, backend="torch").outputs
        few = sum(layer.samples_wanted is not None for layer in report.layers)
        row = {"model": model, "sparsity": target_sparsity, "method": name, "samples": count}
        row["snr"] = output.snr
        print(row, flush=True)
        return row | {"seconds": seconds, "few": few}

    rows = [judged("magnitude", 0)]
    for count in counts:
        # As many as there are, evenly drawn: text and photos come in order.
        places = np.linspace(0, len(case.samples) - 1, count).astype(int)
        some = [case.samples[place] for place in places]
        for name, method in METHODS.items():
            rows.append(judged(name, count, method=method, sample_data=some, **given))
    return rows


def table(model: str, rows: Sequence[dict[str, Any]]) -> str:
    """Returns a Markdown table of SNR in dB."""
    known = {(row["method"], row["samples"]): row for row in rows}
    lines = [f"\n| {model}, samples | {' | '.join(METHODS)} | too few rows |"]
    lines += ["| ---: | " + "---: | " * (len(METHODS) + 1)]
    for count in sorted({row["samples"] for row in rows} - {0}):
        cells = [f"{known[method, count]['snr']:.2f}" for method in METHODS]
        lines.append(f"| {count} | {' | '.join(cells)} | {known['admm', count]['few']} |")
    return "\n".join([*lines, f"\nby magnitude {known['magnitude', 0]['snr']:.2f} dB"])


if __name__ == "__main__":
    main()
