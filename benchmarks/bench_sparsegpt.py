"""Whole models: pruned by every method from package to package, beside the torch peers.

Every run is a process of its own. It imports, then prunes: the seconds, and the peak of memory
above the imports, are of that alone. Then it evaluates what came out: perplexity of the Brown
corpus (SmolLM2-135M), top-1 on the 10,000 test images (a residual CNN on Fashion-MNIST, three
seeds), signal to noise and top-1 agreement with the dense model on photos not used in calibration
(EfficientNet-Lite0), retrieval of passages of Brown (MiniLM). 128 samples calibrate. Weights of up
to 2,048 elements stay dense, and so do SmolLM2's embedding and head, MiniLM's embedding, and
EfficientNet's stem and depthwise convolutions.

Peers: for SmolLM2 a loop over the torch model's blocks with coremltools' SparseGPT class, a sample
at a time, as LayerwiseCompressor runs what its loader yields, and eight together; for the CNN
coremltools' LayerwiseCompressor, whose n:m of a convolution runs along input channels and kernel
positions together. That takes sequential models alone, so EfficientNet and MiniLM have no
peer. Peers' times are of the loop alone, reading the torch model and converting it not included.

    python benchmarks/bench_sparsegpt.py --models smollm2 --json smollm2.json
    python benchmarks/bench_sparsegpt.py --models fashion efficientnet --methods sparsegpt admm

What the data is and how it is fetched: data_brown.py, data_fashion.py, data_images.py; the models:
models_smollm2.py, models_minilm.py, models_fashion.py (which trains once, some minutes a seed).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from pathlib import Path
from statistics import mean
from typing import Any

from bench_cases import CASES
from bench_runs import METHODS, MODELS, cases, markdown, run

FIGURES = {  # of the report: title, and how it is written
    "perplexity": ("perplexity", "{:.1f}"),
    "top1": ("top-1", "{:.4f}"),
    "snr_db": ("SNR, dB", "{:.1f}"),
    "recall": ("R@1", "{:.3f}"),
    "agreement": ("agreement", "{:.3f}"),
    "error": ("mean layer error", "{:.4f}"),
    "seconds": ("seconds", "{:.1f}"),
    "bytes": ("peak MB", "{:.0f}"),
}


def main() -> None:
    """Measures, prints a table for each model, and writes JSON where asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--configs", nargs="+", help="F or N:M; each model has its own by default")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], choices=[0, 1, 2])
    parser.add_argument("--backend", default="numpy", choices=["numpy", "torch"], help="of mlpass")
    parser.add_argument("--no-peers", action="store_true")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", metavar="FILE", help="write all measurements")
    options = parser.parse_args()

    machine = {"machine": platform.platform(), "cores": os.cpu_count(), "load": os.getloadavg()}
    results: list[dict[str, Any]] = []
    for model in options.models:
        rows = [run for name in cases(model, options.seeds) for run in measure(name, options)]
        results += rows
        print(f"\n### {model}\n\n{table(rows)}", flush=True)
    if options.json:
        content = {**machine, "options": vars(options), "results": results}
        Path(options.json).write_text(json.dumps(content, indent=2) + "\n")


def measure(name: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Returns the runs of one model: as it is, then every config, method and peer in turn."""
    case = CASES[name]()
    case.package(17)  # made once, so in no run's figures
    runs = [("mlpass", "dense", "dense")]
    for config in options.configs or case.configs:
        for method in options.methods:
            runs.append(("mlpass", method, config))
            if method in case.peer_methods and not options.no_peers:
                runs += [(peer, method, config) for peer in case.peers]
    return [
        shown(run(name, *one, backend=options.backend, threads=options.threads)) for one in runs
    ]


def shown(measured: dict[str, Any]) -> dict[str, Any]:
    """Returns the measurements, printed to stderr."""
    print(json.dumps(measured), file=sys.stderr, flush=True)
    return measured


def table(runs: list[dict[str, Any]]) -> str:
    """Returns a Markdown table: a row a config, method and tool; seeds are averaged."""
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for one in runs:
        groups.setdefault((one["config"], one["method"], one["tool"]), []).append(one)
    keys = [key for key in FIGURES if any(key in one for one in runs)]
    titles = ["config", "method", "tool", *(FIGURES[key][0] for key in keys)]
    lines = [titles, ["---"] * 3 + ["---:"] * len(keys)]
    for group, members in groups.items():
        cells = []
        for key in keys:
            values = [one[key] / (2**20 if key == "bytes" else 1) for one in members if key in one]
            cells.append(FIGURES[key][1].format(mean(values)) if values else "")
        lines.append([*group, *cells])
    return markdown(lines)


if __name__ == "__main__":
    main()
