"""Regions of tiny_lm tuned by mlpass, and in its torch module by a loop of plain torch.

    python benchmarks/bench_regions_torch.py

The network is pruned by ADMM with the dense model as its target, on windows of the Brown corpus.
Then the same regions are tuned twice on the same windows, in the same order: by `mlpass tune`, from
package to package, and by the loop (peer_regions.py), in memory, on as many threads. Both are
judged on text that neither saw (see models_tiny.py).
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import models_tiny
import numpy as np
import peer_regions
import torch
from bench_polish import bits_a_byte

import mlpass
from mlpass import ADMM, NM, Percentile
from mlpass.finetune import Regions, tune
from mlpass.runtime.backends.threads import fixed_threads

FORMS = {"2:4": NM(2, 4), "50%": Percentile(0.5)}


def main() -> None:
    """Prunes, tunes twice, judges, and prints a row a form."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--forms", nargs="+", default=[*FORMS], choices=[*FORMS])
    parser.add_argument("--samples", type=int, default=256, help="windows of 64 bytes")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    options = parser.parse_args()

    dense, samples = models_tiny.package(18), models_tiny.calibration(options.samples)
    regions = Regions(options.epochs, options.batch_size, options.learning_rate)
    tokens = torch.from_numpy(np.concatenate([sample["tokens"] for sample in samples])).long()
    torch.optim.Adam([torch.zeros(1, requires_grad=True)])  # which imports much, once
    print("bits a byte; seconds of the processor in brackets")
    print("| form | before | mlpass | torch | times torch's |")
    print("| --- | ---: | ---: | ---: | ---: |", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        solved, tuned = Path(folder, "solved.mlpackage"), Path(folder, "tuned.mlpackage")
        given: dict[str, Any] = {"sample_data": samples, "method": ADMM(), "target": "dense"}
        for form in options.forms:
            mlpass.prune(dense, solved, FORMS[form], force=True, **given)
            ours = seconds(lambda: tune(solved, tuned, dense, samples, regions, force=True))
            module, teacher = (peer_regions.module_of(package) for package in (solved, dense))
            with fixed_threads():
                theirs = seconds(
                    lambda: peer_regions.tune(module, teacher, tokens, regions)  # noqa: B023
                )
            bits = models_tiny.bits_a_byte(
                lambda inputs: logits(module, inputs["tokens"])  # noqa: B023
            )
            print(
                f"| {form} | {bits_a_byte(solved):.4f} | {bits_a_byte(tuned):.4f} ({ours:.1f}) | "
                f"{bits:.4f} ({theirs:.1f}) | {ours / theirs:.2f} |",
                flush=True,
            )


@torch.no_grad()
def logits(module: Any, tokens: Any) -> Any:
    """Returns what the network gives."""
    return module(torch.from_numpy(np.ascontiguousarray(tokens)).long()).numpy()


def seconds(work: Callable[[], object]) -> float:
    """Returns the processor's seconds that a call takes."""
    began = time.process_time()
    work()
    return time.process_time() - began


if __name__ == "__main__":
    main()
