"""What regions and a last polish give at the same bytes, on held-out text.

    python benchmarks/bench_regions.py --json regions.json
    python benchmarks/bench_regions.py --model smollm2 --forms 2:4 50% \\
        --samples 128 --learning-rate 2e-4 --steps 64 --polish-rate 5e-5
    python benchmarks/bench_regions.py --only dense regions --target dense mix own best --window 1 2

Each form is solved for by ADMM on windows of the Brown corpus: each layer alone, then with the
dense model as its target. Then its regions are tuned, and then all of it is polished, on the same
windows. Of several targets or windows of regions each has a column, and the first is polished. All
are judged on text that none saw: tiny_lm by bits a byte (see models_tiny.py), SmolLM2 by
perplexity, its embedding and head dense (see models_smollm2.py).
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

import mlpass
from mlpass import ADMM, NM, Palette, Percentile
from mlpass.finetune import Polish, Regions, polish, tune

FORMS: dict[str, tuple[Any, Any]] = {
    "2:4": (NM(2, 4), None),
    "50%": (Percentile(0.5), None),
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
    spared: str | None


def tiny_lm(samples: int) -> Model:
    """Returns the fixture."""
    import models_tiny
    from bench_polish import bits_a_byte

    given = models_tiny.calibration(samples)
    return Model(models_tiny.package(18), given, bits_a_byte, "bits a byte", None)


def smollm2(samples: int) -> Model:
    """Returns SmolLM2-135M."""
    import models_smollm2

    def perplexity(package: Path) -> float:
        predict = mlpass.Interpreter(package, backend="torch").predict
        found = models_smollm2.perplexity(
            lambda tokens: predict({"input_ids": tokens})["logits"], models_smollm2.evaluation()
        )
        return float(found)

    given = [{"input_ids": window[None]} for window in models_smollm2.calibration(samples)]
    return Model(models_smollm2.package(18), given, perplexity, "perplexity", "embed_")


MODELS = {"tiny_lm": tiny_lm, "smollm2": smollm2}


def main() -> None:
    """Solves, tunes, polishes, judges, prints a row a form, and writes JSON where asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="tiny_lm", choices=[*MODELS])
    parser.add_argument("--forms", nargs="+", default=[*FORMS], choices=[*FORMS])
    parser.add_argument("--only", nargs="+", default=[*STEPS], choices=[*STEPS])
    parser.add_argument("--samples", type=int, default=256, help="windows")
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
    layers = [layer.name for layer in mlpass.inspect(model.package).layers]
    spared = {name: None for name in layers if model.spared and name.startswith(model.spared)}
    config = mlpass.Config(global_config=mode, op_name_configs=spared)
    given: dict[str, Any] = {"sample_data": model.samples, "method": ADMM(), "storage": storage}
    numbers = {"epochs": options.epochs, "learning_rate": options.learning_rate}
    ways = [
        Regions(target=target, window=window, **numbers)
        for window in options.window
        for target in options.target
    ]
    rate = options.polish_rate or options.learning_rate
    training = Polish(steps=options.steps, learning_rate=rate, logits="logits")
    trained = (model.package, model.samples)
    with tempfile.TemporaryDirectory() as folder:
        tuned = {name: Path(folder, f"{name}.mlpackage") for name in columns("regions", options)}
        own, dense, done, alone = (
            Path(folder, f"{name}.mlpackage") for name in STEPS if name != "regions"
        )
        first = next(iter(tuned.values()))
        steps: dict[str, tuple[Path, Callable[[], Any]]] = {
            "own": (own, lambda: mlpass.prune(model.package, own, config, **given)),
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
