"""The accuracy tables of README: what each algorithm leaves of real models, and their sizes.

Every row is pruned from package to package by a process of its own (bench_worker.py), on 128
samples that the evaluation has nothing of, except for magnitude, which needs none. Nothing is kept
from one run to the next but data, and the dense models themselves.

- fashion: a residual CNN on Fashion-MNIST, top-1 on its 10,000 test images; one network a seed,
  the mean and the standard deviation over them.
- efficientnet: EfficientNet-Lite0, signal to noise and top-1 agreement with the dense model on 160
  crops of photos. Its stem and depthwise convolutions stay dense.
- minilm: all-MiniLM-L6-v2, retrieval among 1,000 passages of Brown. Its embedding table, half of
  the model, stays dense.
- smollm2: SmolLM2-135M-Instruct, perplexity of Brown. Embedding and head stay dense.
- mobilenetv2, mobilenetv3-small, resnet50: compression ratios alone, beside those that Core ML
  Tools published (accuracy_ratios.py).

A compression ratio is the bytes of the dense fp16 package's weight file over those of the pruned
package's. Weights of up to 2,048 elements stay dense. n:m has n zeros in every m.

    python benchmarks/accuracy.py                                  # all tables; hours
    python benchmarks/accuracy.py --models minilm --json minilm.json
    python benchmarks/accuracy.py --models mobilenetv2 mobilenetv3-small resnet50

What the data is and how it is fetched: data_*.py and models_*.py. finetune_fashion.py has what
fine-tuning wins back.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from accuracy_ratios import NETWORKS, Ratio, ratios
from bench_cases import CASES
from bench_runs import AIMED, JOINT, METHODS, cases, markdown, run

TITLES = {
    "fashion": "Residual CNN, Fashion-MNIST",
    "efficientnet": "EfficientNet-Lite0",
    "minilm": "all-MiniLM-L6-v2",
    "smollm2": "SmolLM2-135M-Instruct",
}
ALGORITHMS = {
    "dense": "n/a",
    "magnitude": "Magnitude, no data",
    "wanda": "Wanda",
    "sparsegpt": "SparseGPT",
    "sparsegpt+refit": "SparseGPT, refit",
    "admm": "ADMM",
    "sparsegpt+dense": "SparseGPT, dense target",
    "admm+dense": "ADMM, dense target",
    "sparsegpt+int4": "SparseGPT",
    "sparsegpt+palette4": "SparseGPT",
}
JOINT_CONFIG = "0.5"  # the one that is quantized or palettized, too
JOINT_TEXTS = {"sparsegpt+int4": ", int4", "sparsegpt+palette4": ", 4-bit palette"}
FIGURES = {  # of a run: title, how many of it are one, and how it is written
    "top1": ("Top-1 (%)", 100, ".2f"),
    "snr_db": ("SNR (dB)", 1, ".1f"),
    "agreement": ("Top-1 agreement (%)", 100, ".1f"),
    "recall": ("R@1 (%)", 100, ".1f"),
    "perplexity": ("Perplexity", 1, ".1f"),
}


def main() -> None:
    """Measures, prints the tables, and writes JSON where asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    models, methods = [*TITLES, *NETWORKS], [*METHODS, *AIMED, *JOINT]
    parser.add_argument("--models", nargs="+", default=models, choices=models)
    parser.add_argument(
        "--methods", nargs="+", default=[*METHODS, "sparsegpt+int4"], choices=methods
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], choices=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", metavar="FILE", help="write all measurements")
    options = parser.parse_args()

    # Nothing is timed, so threads that wait may as well leave the cores to others.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    runs: list[dict[str, Any]] = []
    for model in (name for name in TITLES if name in options.models):
        measured = list(measure(model, options))
        runs += measured
        print(f"\n{table(TITLES[model], measured)}", flush=True)
    sizes: list[Ratio] = []
    for name in (name for name in NETWORKS if name in options.models):
        progress(f"{name}, compression ratios")
        sizes += ratios(name)
    if sizes:
        print(f"\n{ratio_table(sizes)}")
    if options.json:
        content = {
            "machine": platform.platform(),
            "cores": os.cpu_count(),
            "options": vars(options),
            "runs": runs,
            "ratios": [asdict(one) for one in sizes],
        }
        Path(options.json).write_text(json.dumps(content, indent=2) + "\n")


def measure(model: str, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yields the runs of a model: as it is, then by config and algorithm, each on every seed."""
    names = cases(model, sorted(set(options.seeds)))
    methods = [name for name in ALGORITHMS if name in options.methods]
    wanted = [("dense", "dense")]
    for config in CASES[names[0]]().configs:
        joint = config == JOINT_CONFIG
        wanted += [(config, method) for method in methods if joint or method not in JOINT]
    for config, method in wanted:
        for name in names:
            CASES[name]().package(18 if method in JOINT else 17)  # made once, so in no run
            measured = run(name, "mlpass", method, config, threads=options.threads)
            figures = [
                f"{title} {measured[key] * scale:{form}}"
                for key, (title, scale, form) in FIGURES.items()
                if key in measured
            ]
            progress(f"{name}, {config}, {method}: {', '.join(figures)}")
            yield measured


def progress(line: str) -> None:
    """Says on stderr how far it is."""
    print(line, file=sys.stderr, flush=True)


def table(title: str, runs: Sequence[dict[str, Any]]) -> str:
    """Returns a Markdown table of a model's runs: a row a config and algorithm."""
    rows: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for one in runs:
        rows.setdefault((one["config"], one["method"]), []).append(one)
    figures = [key for key in FIGURES if any(key in one for one in runs)]
    head = [
        "Model",
        "Config",
        "Algorithm",
        "Compression ratio",
        *(FIGURES[key][0] for key in figures),
    ]
    lines = [head, ["---"] * 3 + ["---:"] * (1 + len(figures))]
    for (config, method), members in rows.items():
        ratio = mean(one.get("weights_before", 1) / one.get("weights_after", 1) for one in members)
        cells = [spread(key, members) for key in figures]
        text = config_text(config) + JOINT_TEXTS.get(method, "")
        lines.append([title, text, ALGORITHMS[method], f"{ratio:.2f}", *cells])
    return markdown(lines)


def spread(key: str, members: Sequence[dict[str, Any]]) -> str:
    """Returns the mean of a figure, and its standard deviation where there are seeds."""
    _, scale, form = FIGURES[key]
    values = [one[key] * scale for one in members if key in one]
    if len(values) < 2:
        return format(values[0], form) if values else "n/a"
    return f"{mean(values):{form}} ± {stdev(values):{form}}"


def config_text(config: str) -> str:
    """Returns a config as Core ML Tools' tables name it."""
    if config == "dense":
        return "Float16"
    return f"{config} sparsity" if ":" in config else f"Unstructured sparsity {float(config):.0%}"


def ratio_table(sizes: Sequence[Ratio]) -> str:
    """Returns a Markdown table of compression ratios, the nearest to the published in bold."""
    lines = [
        ["Model", "Config", "Pruned", "Share of weights", "Weight file", "Package", "Published"],
        ["---"] * 3 + ["---:"] * 4,
    ]
    for one in sizes:
        mark = "**" if one.nearest else ""
        lines.append(
            [
                one.network,
                config_text(str(one.sparsity)),
                one.selection,
                f"{one.share:.1%}",
                f"{one.weights:.2f}",
                f"{mark}{one.package:.2f}{mark}",
                f"{one.published:.2f}",
            ]
        )
    return markdown(lines)


if __name__ == "__main__":
    main()
