"""What regions and a last polish give at the same bytes, on held-out text.

    python benchmarks/bench_regions.py --json regions.json
    python benchmarks/bench_regions.py --model smollm2 --forms 2:4 50% \\
        --samples 128 --learning-rate 2e-4 --steps 64 --polish-rate 5e-5
    python benchmarks/bench_regions.py --model efficientnet --forms 50% 75% --samples 128
    python benchmarks/bench_regions.py --only dense regions --target dense mix own best --window 1 2

Each form is solved for by ADMM on samples: each layer alone, then with the dense model as its
target. Then its regions are tuned, and then all of it is polished, on the same samples. Of several
targets or windows of regions each has a column, and the first is polished. All are judged on what
none saw: tiny_lm by bits a byte, the others as bench_cases.py says, which leaves some of their
weights dense.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from bench_cases import CASES

import mlpass
from mlpass import ADMM, NM, Palette, Percentile
from mlpass.finetune import Polish, Regions, polish, tune

FORMS: dict[str, tuple[Any, Any]] = {
    "2:4": (NM(2, 4), None),
    "50%": (Percentile(0.5), None),
    "75%": (Percentile(0.75), None),
    "90%": (Percentile(0.9), None),
    "3-bit palette": (Percentile(0.0), Palette(bits=3)),
}
STEPS = {
    "own": "ADMM",
    "dense": "+ dense target",
    "regions": "+ regions",
    "polish": "+ polish",
    "alone": "polish without regions",
}


class Model(NamedTuple):
    """A dense package, samples, what a package is worth and in what, and weights left dense."""

    package: Path
    samples: list[dict[str, Any]]
    figure: Callable[[Path], float]
    unit: str
    spared: Callable[[Any], bool]
    logits: str | None


def tiny_lm(samples: int) -> Model:
    """Returns the fixture, of which no weight is left dense."""
    import models_tiny
    from bench_polish import bits_a_byte

    given = models_tiny.calibration(samples)
    package = models_tiny.package(18)
    return Model(package, given, bits_a_byte, "bits a byte", lambda _: False, "logits")


def case(name: str, figure: str, unit: str, logits: str | None, samples: int) -> Model:
    """Returns a model of bench_cases.py, with one of its figures."""
    found = CASES[name]()

    def worth(package: Path) -> float:
        return found.figures(mlpass.Interpreter(package, backend="torch").predict)[figure]

    given = found.samples(samples)
    return Model(found.package(18), given, worth, unit, found.spared, logits)


MODELS: dict[str, Callable[[int], Model]] = {
    "tiny_lm": tiny_lm,
    "smollm2": partial(case, "smollm2", "perplexity", "perplexity", "logits"),
    "efficientnet": partial(case, "efficientnet", "agreement", "agreement", "logits"),
    "minilm": partial(case, "minilm", "recall", "R@1", None),
    **{
        f"fashion-{seed}": partial(case, f"fashion-{seed}", "top1", "top-1", "logits")
        for seed in range(3)
    },
}


def main() -> None:
    """Solves, tunes, polishes, judges, prints a row a form, and writes JSON where asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="tiny_lm", choices=[*MODELS])
    parser.add_argument(
        "--forms", nargs="+", default=["2:4", "50%", "3-bit palette"], choices=[*FORMS]
    )
    parser.add_argument("--only", nargs="+", default=[*STEPS], choices=[*STEPS])
    parser.add_argument("--samples", type=int, default=256, help="to solve and train on")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--target", nargs="+", default=["dense"], help="of the regions")
    parser.add_argument("--window", nargs="+", type=int, default=[1], help="regions together")
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--steps", type=int, default=256, help="of the polish")
    parser.add_argument("--polish-rate", type=float, help="by default that of the regions")
    parser.add_argument("--json", metavar="FILE", help="write all figures")
    options = parser.parse_args()

    model = MODELS[options.model](options.samples)
    figure = model.figure(model.package)
    print(f"dense: {figure:.4f} {model.unit}; seconds of the processor in brackets")
    head = [title for name in options.only for title in columns(name, options).values()]
    print(f"| form | {' | '.join(head)} |")
    print(f"| --- |{' ---: |' * len(head)}", flush=True)
    results = []
    for form in options.forms:
        cells = measured(model, form, options)
        texts = (f"{cell['figure']:.4f} ({cell['seconds']:.0f})" for cell in cells.values())
        print(f"| {form} | {' | '.join(texts)} |", flush=True)
        results.append({"form": form, "steps": cells})
    if options.json:
        content = {"machine": platform.platform(), "options": vars(options), "results": results}
        Path(options.json).write_text(json.dumps(content, indent=2) + "\n")


def columns(step: str, options: argparse.Namespace) -> dict[str, str]:
    """Returns the titles of the columns of a step: of the regions one each target and window."""
    if step != "regions":
        return {step: STEPS[step]}
    ways = [(target, window) for window in options.window for target in options.target]
    if len(ways) == 1:
        return {step: STEPS[step]}
    return {
        f"{step}-{target}-{window}": f"{target}, {window}" if window > 1 else target
        for target, window in ways
    }


def measured(model: Model, form: str, options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Returns the figure, seconds and notes of each step that is asked for, on one form."""
    mode, storage = FORMS[form]
    layers = mlpass.inspect(model.package).layers
    spared = {layer.name: None for layer in layers if model.spared(layer)}
    config = mlpass.Config(global_config=mode, op_name_configs=spared)
    given: dict[str, Any] = {"sample_data": model.samples, "method": ADMM(), "storage": storage}
    numbers = {"epochs": options.epochs, "learning_rate": options.learning_rate}
    ways = [
        Regions(target=target, window=window, logits=model.logits, **numbers)
        for window in options.window
        for target in options.target
    ]
    rate = options.polish_rate or options.learning_rate
    training = Polish(steps=options.steps, learning_rate=rate, logits=model.logits)
    trained = (model.package, model.samples)
    with tempfile.TemporaryDirectory() as folder:
        tuned = {name: Path(folder, f"{name}.mlpackage") for name in columns("regions", options)}
        own, dense, done, alone = (
            Path(folder, f"{name}.mlpackage") for name in STEPS if name != "regions"
        )
        first = next(iter(tuned.values()))
        steps: dict[str, tuple[Path, Callable[[], Any]]] = {
            "own": (own, lambda: mlpass.prune(model.package, own, config, target="own", **given)),
            "dense": (
                dense,
                lambda: mlpass.prune(model.package, dense, config, target="dense", **given),
            ),
            **{
                name: (path, partial(tune, dense, path, *trained, way))
                for (name, path), way in zip(tuned.items(), ways, strict=True)
            },
            "polish": (done, lambda: polish(first, done, *trained, training)),
            "alone": (alone, lambda: polish(dense, alone, *trained, training)),
        }
        found = {}
        named = {
            name: title for step in options.only for name, title in columns(step, options).items()
        }
        for name, title in named.items():
            package, step = steps[name]
            began = time.process_time()
            report = step()
            seconds = time.process_time() - began
            figure = model.figure(package)
            print(
                f"{form}, {title}: {figure:.4f} {model.unit} ({seconds:.0f} s)",
                file=sys.stderr,
                flush=True,
            )
            found[name] = {"figure": figure, "seconds": seconds, "notes": report.notes}
    return found


if __name__ == "__main__":
    main()
