"""What regions give at the same bytes: tiny_lm in small forms, bits a byte on held-out text.

    python benchmarks/bench_regions.py --json regions.json

Each form is solved for by ADMM on windows of the Brown corpus: each layer alone, then with the
dense model as its target. Then its regions are tuned, and then all of it is polished, on the same
windows. All are judged on text that none saw (see models_tiny.py). Where nothing but zeros is
stored of a form, the same regions are tuned in the source model as well, by a loop of plain torch
(peer_regions.py): with --peer that is all that is done.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import models_tiny
import numpy as np
import peer_regions
import torch
from bench_polish import bits_a_byte

import mlpass
from mlpass import ADMM, NM, Palette, Percentile
from mlpass.finetune import Polish, Regions, polish, tune
from mlpass.runtime.backends.threads import fixed_threads

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
    parser.add_argument("--batch-size", type=int, default=8, help="of the regions")
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--steps", type=int, default=256, help="of the polish")
    parser.add_argument("--peer", action="store_true", help="only mlpass's tuning beside torch's")
    parser.add_argument("--json", metavar="FILE", help="write all figures")
    options = parser.parse_args()

    dense, samples = models_tiny.package(18), models_tiny.calibration(options.samples)
    training = Polish(steps=options.steps, learning_rate=options.learning_rate, logits="logits")
    regions = Regions(options.epochs, options.batch_size, options.learning_rate)
    print(f"dense: {bits_a_byte(dense):.4f} bits a byte; seconds in brackets", flush=True)
    if options.peer:
        beside_torch(options.forms, dense, samples, regions)
        return
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


def beside_torch(
    forms: list[str], dense: Path, samples: list[dict[str, Any]], regions: Regions
) -> None:
    """Prints what tuning gives in mlpass, from package to package, and in a loop of plain torch."""
    torch.optim.Adam([torch.zeros(1, requires_grad=True)])  # which imports much, once
    tokens = torch.from_numpy(np.concatenate([sample["tokens"] for sample in samples])).long()
    print("| form | before | mlpass | torch | seconds of the processor, mlpass to torch |")
    print("| --- | ---: | ---: | ---: | ---: |")
    with tempfile.TemporaryDirectory() as folder:
        solved, tuned = Path(folder, "solved.mlpackage"), Path(folder, "tuned.mlpackage")
        for name in forms:
            mode, storage = FORMS[name]
            if storage is not None:
                continue
            given: dict[str, Any] = {"sample_data": samples, "method": ADMM(), "force": True}
            mlpass.prune(dense, solved, mode, target="dense", **given)
            ours = measured(tune, tuned, solved, tuned, dense, samples, regions, force=True)
            module, teacher = (peer_regions.module_of(package) for package in (solved, dense))
            began, ticks = time.perf_counter(), time.process_time()
            with fixed_threads():
                peer_regions.tune(module, teacher, tokens, regions)
            seconds, ticks = time.perf_counter() - began, time.process_time() - ticks
            bits = models_tiny.bits_a_byte(partial(predicted, module))
            cells = [f"{bits_a_byte(solved):.4f}", f"{ours['bits']:.4f} ({ours['seconds']:.0f})"]
            cells += [f"{bits:.4f} ({seconds:.0f})", f"{ours['ticks'] / ticks:.2f}"]
            print(f"| {name} | {' | '.join(cells)} |", flush=True)


@torch.no_grad()
def predicted(module: Any, inputs: Any) -> Any:
    """Returns the logits that the network gives."""
    return module(torch.from_numpy(np.ascontiguousarray(inputs["tokens"])).long()).numpy()


def measured(function: Any, package: Path, *arguments: Any, **options: Any) -> dict[str, Any]:
    """Returns the bits a byte of what a call writes, its seconds, the processor's, its notes."""
    began, ticks = time.perf_counter(), time.process_time()
    report = function(*arguments, **options)
    times = {"seconds": time.perf_counter() - began, "ticks": time.process_time() - ticks}
    return {"bits": bits_a_byte(package), **times, "notes": report.notes}


if __name__ == "__main__":
    main()
