"""The best model at the same bytes: coremltools' data-free forms beside mlpass' calibrated ones.

Each form of bytes_forms.py is made of a dense fp16 package for iOS18 by a process of its own
(bytes_worker.py), and judged on images and texts that no solve saw, by mlpass' own interpreter:

- fashion: a residual CNN on Fashion-MNIST, one seed, top-1 on its 10,000 test images.
- tiny_lm: the fixture, bits a byte on held-out text.
- efficientnet: EfficientNet-Lite0, signal to noise against the dense model, on 160 crops of photos.
- minilm: all-MiniLM-L6-v2, retrieval among 1,000 passages.
- smollm2: SmolLM2-135M-Instruct, perplexity. Its weights come from a 4-bit file, in blocks of 32,
  which flatters int4 in blocks of 32.

Both tools store every weight of more than 2,048 elements in the form. In forms with zeros,
embeddings, stems and depthwise convolutions are in the form, but keep all their elements. Sizes are
those of the packages' weight files, as written, bits per weight 16 times their share of the dense
file. The last table says, at each share of the dense bytes, which of coremltools' forms is the best
of those that fit, and what mlpass picks by itself: it must not be below, take 98% of the budget at
least and never more, and its summed error must be within 10% of the predicted. Otherwise this exits
with 1.

    python benchmarks/bench_bytes.py --json bytes.json             # goes on where it was stopped
    python benchmarks/bench_bytes.py --models tiny_lm --forms int8 int4 --json bytes.json

A form that takes longer than `--limit` seconds is left out, and named in the table. coremltools'
k-means needs scikit-learn: pip install -e '.[bench]'
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench_cases import CASES, SAMPLES
from bench_runs import markdown, run
from bytes_forms import BUDGETS, FORMS, SHARES, text

MODELS = {  # and their cases
    "fashion": "fashion-0",
    "tiny_lm": "tiny_lm",
    "efficientnet": "efficientnet",
    "minilm": "minilm",
    "smollm2": "smollm2",
}
TITLES = {
    "fashion": "Residual CNN, Fashion-MNIST",
    "tiny_lm": "tiny_lm",
    "efficientnet": "EfficientNet-Lite0",
    "minilm": "all-MiniLM-L6-v2",
    "smollm2": "SmolLM2-135M-Instruct (weights from a 4-bit file, in blocks of 32)",
}
TOOLS = ("coremltools", "mlpass", "mlpass, no data")
# The figure of a model: title, how many of it are one, its format, and whether less is better.
FIGURES = {
    "top1": ("top-1 (%)", 100, ".2f", False),
    "bits_a_byte": ("bits a byte", 1, ".4f", True),
    "snr_db": ("SNR (dB)", 1, ".1f", False),
    "recall": ("R@1 (%)", 100, ".1f", False),
    "perplexity": ("perplexity", 1, ".1f", True),
}
UNUSED, OFF = 0.02, 0.1  # of a budget, and of the predicted sum of errors: what is allowed
Run = dict[str, Any]


def main() -> None:
    """Measures what is not in the file yet, and prints the tables of all that is."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    forms = [*FORMS, *BUDGETS]
    parser.add_argument("--models", nargs="+", default=[*MODELS], choices=[*MODELS])
    parser.add_argument("--forms", nargs="+", default=forms, choices=forms, metavar="FORM")
    parser.add_argument("--tools", nargs="+", default=[*TOOLS[:2]], choices=TOOLS)
    parser.add_argument("--samples", type=int, default=SAMPLES, help="that mlpass solves on")
    parser.add_argument(
        "--target", choices=("own", "dense"), default="dense", help="that mlpass aims at"
    )
    parser.add_argument("--limit", type=float, default=3600, help="seconds for one form")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", metavar="FILE", help="kept after each run, and gone on with")
    options = parser.parse_args()

    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    done = read(options.json)
    for model in options.models:
        for one in measure(model, options, done):
            done.append(one)
            write(options.json, done)
        runs = [one for one in done if one["model"] == MODELS[model]]
        print(f"\n{TITLES[model]}\n\n{table(runs)}", flush=True)
    print(f"\n{cell_table(done)}")
    if any(failures(peer, pick) for *_, peer, pick in picks(done)):
        raise SystemExit("some cells do not hold")


def measure(model: str, options: argparse.Namespace, done: Sequence[Run]) -> Iterator[Run]:
    """Yields the runs of a model that are not done."""
    name = MODELS[model]
    known = {(one["model"], one["tool"], one["method"]) for one in done}
    wanted = [("mlpass", "fp16")]
    for form in options.forms:
        wanted += [(tool, form) for tool in options.tools if makes(tool, form)]
    for tool, form in wanted:
        if (name, tool, form) in known:
            continue
        CASES[name]().package(18)  # made once, so in no run
        kept = {"worker": "bytes_worker.py", "threads": options.threads, "limit": options.limit}
        try:
            measured = run(name, tool, form, f"{options.samples}:{options.target}", **kept)
        except subprocess.TimeoutExpired:
            measured = {"model": name, "tool": tool, "method": form, "limit": options.limit}
        print(f"{name}, {tool}, {form}: {' '.join(cells(measured))}", file=sys.stderr, flush=True)
        yield measured


def makes(tool: str, form: str) -> bool:
    """Returns whether a tool makes a form."""
    if form in BUDGETS:
        return tool == "mlpass"
    return tool != "coremltools" or not FORMS[form].sparsity


def read(path: str | None) -> list[Run]:
    """Returns the runs that a file holds; none where there is no file."""
    if path is None or not Path(path).exists():
        return []
    runs: list[Run] = json.loads(Path(path).read_text())["runs"]
    return runs


def write(path: str | None, runs: Sequence[Run]) -> None:
    """Writes the runs, whole or not at all."""
    if path is None:
        return
    content = {"machine": platform.platform(), "cores": os.cpu_count(), "runs": runs}
    partial = Path(f"{path}.partial")
    partial.write_text(json.dumps(content, indent=2) + "\n")
    partial.rename(path)


def figure(one: Run) -> float | None:
    """Returns a run's figure, larger where the model is better; None where it was not finished."""
    for key, (*_, less) in FIGURES.items():
        if key in one:
            return float(-one[key] if less else one[key])
    return None


def written(one: Run) -> str:
    """Returns a run's figure as text."""
    for key, (_, scale, form, _) in FIGURES.items():
        if key in one:
            return f"{one[key] * scale:{form}}"
    return "n/a" if "limit" not in one else f"over {one['limit']:.0f} s"


def cells(one: Run) -> list[str]:
    """Returns the share of the dense bytes, bits per weight and the figure."""
    if "weight_bytes" not in one:
        return ["", "", written(one)]
    share = one["weight_bytes"] / one["dense_bytes"]
    return [f"{share:.3f}x", f"{16 * share:.2f}", written(one)]


def table(runs: Sequence[Run]) -> str:
    """Returns a Markdown table of a model's runs: a row a form, each tool's columns beside."""
    tools = [tool for tool in TOOLS if any(one["tool"] == tool for one in runs)]
    titles = (FIGURES[key][0] for key in FIGURES if any(key in one for one in runs))
    title = next(titles, "figure")
    head = ["Form"] + [
        f"{tool}: {part}" for tool in tools for part in ("bytes", "bits per weight", title)
    ]
    lines = [head, ["---"] + ["---:"] * (len(head) - 1)]
    for form in ("fp16", *FORMS, *BUDGETS):
        found = {one["tool"]: one for one in runs if one["method"] == form}
        if found:
            row = [cells(found[tool]) if tool in found else [""] * 3 for tool in tools]
            name = "fp16, dense" if form == "fp16" else text(form)
            lines.append([name, *(cell for each in row for cell in each)])
    return markdown(lines)


def cell_table(done: Sequence[Run]) -> str:
    """Returns a Markdown table: mlpass' own pick at each share of each model, beside coremltools'.

    The last column says what does not hold of a cell, as `failures`.
    """
    head = ["Model", "At most", "coremltools' best form", "bytes", "figure", "mlpass' own pick"]
    head += ["bytes", "figure", "of the budget", "predicted", "measured", "does not hold"]
    lines = [head, ["---", "---:", "---", "---:", "---:", "---", *["---:"] * 5, "---"]]
    for model, share, peer, pick in picks(done):
        budget = pick["budget"]
        line = [model, f"{share}x"]
        line += ["none fits", "", ""] if peer is None else [text(peer["method"]), *_judged(peer)]
        line += [form_of(budget), *_judged(pick), f"{used(budget):.1%}"]
        line += [f"{budget['predicted']:.3g}", f"{budget['measured']:.3g}"]
        lines.append([*line, ", ".join(failures(peer, pick)) or "-"])
    return markdown(lines)


def _judged(one: Run) -> list[str]:
    """Returns the bytes and the figure of a run."""
    title = next(title for key, (title, *_) in FIGURES.items() if key in one)
    return [f"{one['weight_bytes']:,}", f"{written(one)} {title}"]


def picks(done: Sequence[Run]) -> Iterator[tuple[str, float, Run | None, Run]]:
    """Yields model, share, the best of coremltools' runs that fit, None without, and the pick."""
    for model, case in MODELS.items():
        runs = [one for one in done if one["model"] == case]
        for share in SHARES:
            peers = [one for one in runs if one["tool"] == "coremltools"]
            for pick in (one for one in runs if one["method"] == f"budget-{share}"):
                if "budget" in pick:
                    yield model, share, best(peers, share), pick


def best(runs: Sequence[Run], share: float) -> Run | None:
    """Returns the best run of those whose files fit a share of the dense ones'; None without."""
    fitting = [
        (value, number)
        for number, one in enumerate(runs)
        if (value := figure(one)) is not None and one["weight_bytes"] <= share * one["dense_bytes"]
    ]
    return runs[max(fitting)[1]] if fitting else None


def form_of(budget: Mapping[str, Any]) -> str:
    """Returns what was written: the first of those that were judged on samples kept back."""
    if budget["judged"] is None:
        return "a form for each weight"
    told = re.findall(r"([-\d.e]+) with (.+?)(?=, [-\d.e]+ with |$)", budget["judged"])
    return str(told[0][1])


def used(budget: Mapping[str, Any]) -> float:
    """Returns the share of a budget that the weight files take."""
    return float(budget["used"] / budget["nbytes"])


def failures(peer: Run | None, pick: Run) -> list[str]:
    """Returns what does not hold of a pick: all of it does where there is nothing."""
    budget, found = pick["budget"], []
    ours, theirs = figure(pick), None if peer is None else figure(peer)
    if ours is not None and theirs is not None and ours < theirs:
        found.append("is below")
    if not 1 - UNUSED <= used(budget) <= 1:
        found.append("bytes")
    if abs(budget["measured"] - budget["predicted"]) > OFF * budget["predicted"]:
        found.append("sum of errors")
    return found


if __name__ == "__main__":
    main()
