"""Times one calibrated run divided among processes, and counts the bytes that go between them.

    python benchmarks/bench_cluster.py                  # a small language model of the fixtures
    python benchmarks/bench_cluster.py MODEL SAMPLES.npz

Prints seconds and bytes of each part, seen; then, ON PAPER, from rates that are stated, what a
model of 8 billion parameters would take on 1, 4 and 16 machines.
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np

import mlpass
from mlpass.calibrate import cluster
from mlpass.calibrate.layers import _Pruning
from mlpass.calibrate.wire import Moved

FIXTURES = Path(__file__).resolve().parent.parent / "fixtures"
COLUMNS = (4096, 4096, 4096, 14336)  # inputs that have a Gram in a block of 8 billion parameters
BLOCKS = 32
PARAMETERS = 8e9
ROWS = 128 * 2048  # windows of tokens


def measured(model: Path, samples: list[dict[str, np.ndarray]], workers: int) -> tuple[Moved, str]:
    """Returns the bytes that moved, and a line of seconds."""
    moved, solving = Moved(), [0.0]
    divided, solve = cluster.walk_divided, _Pruning.solve

    def timed(*given: object) -> object:
        begun = time.perf_counter()
        try:
            return solve(*given)
        finally:
            solving[0] += time.perf_counter() - begun

    with (
        tempfile.TemporaryDirectory() as folder,
        ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as executor,
    ):
        cluster.walk_divided, _Pruning.solve = partial(divided, moved=moved), timed
        begun = time.perf_counter()
        try:
            out = Path(folder) / "out.mlpackage"
            mlpass.prune(model, out, mlpass.Percentile(0.5), sample_data=samples, executor=executor)
        finally:
            cluster.walk_divided, _Pruning.solve = divided, solve
        whole = time.perf_counter() - begun
    return (
        moved,
        f"{whole:.1f} s, of it solving {solving[0]:.1f} s, all else {whole - solving[0]:.1f} s",
    )


def on_paper(machines: int, rate: float, network: float) -> str:
    """Returns what 8 billion parameters would take, computed, not measured.

    Args:
        machines: that the samples are divided among.
        rate: multiplications and additions a second of one machine, two for each product.
        network: bytes a second into the machine that adds and solves.
    """
    replay = 2 * PARAMETERS * ROWS / machines / rate
    sums = BLOCKS * sum(columns**2 for columns in COLUMNS) * ROWS / machines / rate
    # The factor of each Gram, and rows of about 4 times 4096 weights swept by blocks of columns.
    solves = BLOCKS * sum(columns**3 + 4 * 4096 * columns**2 for columns in COLUMNS) / rate
    cohorts = max(16, machines) if machines > 1 else 0
    grams = BLOCKS * sum(4 * columns**2 for columns in COLUMNS) * 2 * cohorts
    weights = (
        2 * PARAMETERS * machines * 2 if machines > 1 else 0
    )  # the model, and what comes of it
    moving = (grams + weights) / network
    return (
        f"{machines:3d} machines: replay {replay / 60:.0f} min, Grams {sums / 60:.0f} min, solving "
        f"{solves / 60:.0f} min, moving {(grams + weights) / 1e9:.0f} GB {moving / 60:.0f} min, "
        f"together {(replay + sums + solves + moving) / 60:.0f} min"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", type=Path, default=FIXTURES / "tiny_lm.mlpackage")
    parser.add_argument("samples", nargs="?", type=Path)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rate", type=float, default=1e12, help="of a machine, on paper")
    parser.add_argument("--network", type=float, default=1.25e9, help="bytes a second, on paper")
    options = parser.parse_args()
    if options.samples is None:
        draw = np.random.default_rng(0)
        with np.load(FIXTURES / "tiny_lm.npz") as truth:
            like = truth["input:tokens"]
        samples = [{"tokens": draw.integers(32, 127, like.shape, like.dtype)} for _ in range(64)]
    else:
        with np.load(options.samples) as stored:
            count = len(stored[stored.files[0]])
            samples = [{key: stored[key][n] for key in stored.files} for n in range(count)]
    for workers in options.workers:
        moved, seconds = measured(options.model, samples, workers)
        told = ", ".join(f"{name} {value / 1e6:.2f} MB" for name, value in vars(moved).items())
        print(f"{workers} workers on this machine: {seconds}; {told}", flush=True)
    print(
        f"\nCOMPUTED ON PAPER, not measured: 8 billion parameters, {ROWS} rows, "
        f"{options.rate:.3g} operations and {options.network:.3g} bytes a second"
    )
    for machines in (1, 4, 16):
        print(on_paper(machines, options.rate, options.network))


if __name__ == "__main__":
    main()
