"""What a last polish gives at the same bytes: tiny_lm in small forms, bits a byte on held-out text.

    python benchmarks/bench_polish.py --json polish.json

Each form is solved for by SparseGPT on windows of the Brown corpus, then polished on the same
windows, towards the dense model. Both are judged on text that neither saw (see models_tiny.py).
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

import mlpass
from mlpass import Palette, Percentile, Quantized
from mlpass.finetune import Polish, polish

FORMS: dict[str, tuple[Percentile, Any]] = {
    "2-bit palette": (Percentile(0.0), Palette(bits=2)),
    "3-bit palette": (Percentile(0.0), Palette(bits=3)),
    "50% + 4 bits": (Percentile(0.5), Quantized("int4")),
    "50%, fp16": (Percentile(0.5), None),
}


def main() -> None:
    """Prunes, polishes, judges, prints a row a form, and writes JSON where asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--forms", nargs="+", default=[*FORMS], choices=[*FORMS])
    parser.add_argument("--samples", type=int, default=256, help="windows of 64 bytes")
    parser.add_argument("--steps", type=int, default=256)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--json", metavar="FILE", help="write all figures")
    options = parser.parse_args()

    dense, samples = models_tiny.package(18), models_tiny.calibration(options.samples)
    training = Polish(steps=options.steps, learning_rate=options.learning_rate, logits="logits")
    print(f"dense: {bits_a_byte(dense):.4f} bits a byte", flush=True)
    print("| form | bytes | before | polished | seconds |\n| --- | ---: | ---: | ---: | ---: |")
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for name in options.forms:
            mode, storage = FORMS[name]
            solved, done = Path(folder, "solved.mlpackage"), Path(folder, "done.mlpackage")
            given = {"storage": storage, "sample_data": samples, "target": "own"}
            mlpass.prune(dense, solved, mode, force=True, **given)
            began = time.perf_counter()
            report = polish(solved, done, dense, samples, training, force=True)
            row = {
                "form": name,
                "bytes": report.bytes_after,
                "before": bits_a_byte(solved),
                "polished": bits_a_byte(done),
                "seconds": time.perf_counter() - began,
                "notes": report.notes,
            }
            print(
                f"| {name} | {row['bytes']} | {row['before']:.4f} | {row['polished']:.4f} "
                f"| {row['seconds']:.0f} |",
                flush=True,
            )
            results.append(row)
    if options.json:
        content = {"machine": platform.platform(), "options": vars(options), "results": results}
        Path(options.json).write_text(json.dumps(content, indent=2) + "\n")


def bits_a_byte(package: Path) -> float:
    """Returns the cross entropy of a package on held-out text."""
    interpreter = mlpass.Interpreter(package, backend="torch")
    return models_tiny.bits_a_byte(lambda inputs: interpreter.predict(dict(inputs))["logits"])


if __name__ == "__main__":
    main()
