"""What regions give at the same bytes: tiny_lm in small forms, bits a byte on held-out text.

    python benchmarks/bench_regions.py --json regions.json

Each form is solved for by ADMM on windows of the Brown corpus: each layer alone, then with the
dense model as its target. Then its regions are tuned, and then all of it is polished, on the same
windows. All are judged on text that none saw (see models_tiny.py).
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from pathlib import Path
from typing import Any

import models_tiny
from bench_polish import bits_a_byte

import mlpass
from mlpass import ADMM, NM, Palette, Percentile
from mlpass.finetune import Polish, Regions, polish, tune

FORMS: dict[str, tuple[Any, Any]] = {
    "2:4": (NM(2, 4), None),
    "50%": (Percentile(0.5), None),
    "3-bit palette": (Percentile(0.0), Palette(bits=3)),
}


def main() -> None:
    """Solves, tunes, polishes, judges, prints a row a form, and writes JSON where asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--forms", nargs="+", default=[*FORMS], choices=[*FORMS])
    parser.add_argument("--samples", type=int, default=256, help="windows of 64 bytes")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--steps", type=int, default=256, help="of the polish")
    parser.add_argument("--json", metavar="FILE", help="write all figures")
    options = parser.parse_args()

    dense, samples = models_tiny.package(18), models_tiny.calibration(options.samples)
    training = Polish(steps=options.steps, learning_rate=options.learning_rate, logits="logits")
    regions = Regions(epochs=options.epochs, learning_rate=options.learning_rate)
    print(f"dense: {bits_a_byte(dense):.4f} bits a byte; seconds in brackets", flush=True)
    print("| form | ADMM | + dense target | + regions | + polish | polish without regions |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    results = []
    with tempfile.TemporaryDirectory() as folder:
        own, aimed, tuned, done, alone = (Path(folder, f"{n}.mlpackage") for n in range(5))
        for name in options.forms:
            mode, storage = FORMS[name]
            given: dict[str, Any] = {"sample_data": samples, "method": ADMM(), "force": True}
            cells = [
                measured(mlpass.prune, own, dense, own, mode, storage=storage, **given),
                measured(
                    mlpass.prune,
                    aimed,
                    dense,
                    aimed,
                    mode,
                    storage=storage,
                    target="dense",
                    **given,
                ),
                measured(tune, tuned, aimed, tuned, dense, samples, regions, force=True),
                measured(polish, done, tuned, done, dense, samples, training, force=True),
                measured(polish, alone, aimed, alone, dense, samples, training, force=True),
            ]
            texts = (f"{cell['bits']:.4f} ({cell['seconds']:.0f})" for cell in cells)
            print(f"| {name} | {' | '.join(texts)} |", flush=True)
            results.append({"form": name, "steps": cells})
    if options.json:
        content = {"machine": platform.platform(), "options": vars(options), "results": results}
        Path(options.json).write_text(json.dumps(content, indent=2) + "\n")


def measured(function: Any, package: Path, *arguments: Any, **options: Any) -> dict[str, Any]:
    """Returns the bits a byte of the package that a call writes, its seconds and its notes."""
    began = time.perf_counter()
    report = function(*arguments, **options)
    seconds = time.perf_counter() - began
    return {"bits": bits_a_byte(package), "seconds": seconds, "notes": report.notes}


if __name__ == "__main__":
    main()
