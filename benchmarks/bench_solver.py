"""One layer: time and error of every method, against coremltools' torch SparseGPT.

    python benchmarks/bench_solver.py --sizes 512 2048 --modes 0.5 2:4 --json solver.json

The layer has `size` inputs and outputs and normal weights; its inputs are correlated: normal
samples over a random basis, variances falling as k^-decay, on channels of different loudness. Both
tools get the same weight and inputs, in turns, in one process; the best of `--runs` counts. The
Gram (coremltools: Hessian) is timed by itself, since one serves several layers. mlpass' times
include its report of the output error, which coremltools does not make: "sparsegpt, unreported" is
without it.

Masks are compared at one count: coremltools prunes an element more of each block of columns than
its target, which by itself changes some 0.1% of the choices after it in 4096 columns. Where a
choice is near, the last bits of the Gram decide it, in both tools: `--orders 5` compares them with
the samples in five orders, and tells what each order changes in coremltools' own mask.

    python benchmarks/bench_solver.py --block

times all seven weights of a SmolLM2-135M block instead: q, k and v on one Gram, gate and up on
another.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlpass.blas import one_blas_thread
from mlpass.solvers.admm import ADMM
from mlpass.solvers.gram import Gram, accumulate, output_power
from mlpass.solvers.problem import Method
from mlpass.solvers.solve import make_problem, solve
from mlpass.solvers.sparsegpt import SparseGPT
from mlpass.solvers.wanda import Magnitude, Wanda
from mlpass.sparsity.modes import NM, Block, Channel, Mode, Percentile

METHODS: dict[str, Method] = {
    "sparsegpt": SparseGPT(),
    "sparsegpt+refit": SparseGPT(refit=True),
    "admm": ADMM(),
    "wanda": Wanda(),
    "wanda+refit": Wanda(refit=True),
    "magnitude": Magnitude(),
}
# Rows of the weights that read one activation, and its columns.
SMOLLM2_BLOCK = [((576, 192, 192), 576), ((576,), 576), ((1536, 1536), 576), ((576,), 1536)]
PEER_COLUMNS = 128  # of a block whose mask coremltools' class decides at once
OTHER_MODES = {"block": Block(0.5, 4), "channel": Channel(0.5)}


def main() -> None:
    """Measures, prints a row for each size, mode and method, and writes JSON where asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=[512, 1024, 2048])
    parser.add_argument(
        "--modes", nargs="+", default=["0.5", "0.7", "2:4"], help="F, N:M, block..."
    )
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--samples", type=float, default=4.0, help="per input")
    parser.add_argument("--decay", type=float, default=0.5, help="of the inputs' spectrum")
    parser.add_argument("--dampening", type=float, default=0.01)
    parser.add_argument("--runs", type=int, default=3, help="of each, in turns")
    parser.add_argument("--orders", type=int, default=1, help="of the samples, to compare masks in")
    parser.add_argument("--json", metavar="FILE", help="write all measurements")
    parser.add_argument("--block", action="store_true", help="time a transformer block's weights")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    if options.block:
        measure_block(options)
        return

    results = []
    for size in options.sizes:
        weight, inputs = layer(size, int(size * options.samples), options.decay)
        for name in options.modes:
            row = measure(weight, inputs, name, options)
            results.append(row)
            show(row)
    if options.json:
        content = {
            "machine": platform.platform(),
            "cores": os.cpu_count(),
            "options": vars(options),
            "results": results,
        }
        Path(options.json).write_text(json.dumps(content, indent=2) + "\n")


def layer(size: int, samples: int, decay: float) -> tuple[NDArray[Any], NDArray[Any]]:
    """Returns a weight (size, size) and its inputs (samples, size)."""
    rng = np.random.default_rng(size)
    weight = rng.standard_normal((size, size), np.float32) / np.float32(size**0.5)
    spread = np.arange(1, size + 1, dtype=np.float32) ** np.float32(-decay / 2)
    basis = rng.standard_normal((size, size), np.float32)
    inputs = (rng.standard_normal((samples, size), np.float32) * spread) @ basis
    inputs *= np.exp(rng.standard_normal(size, np.float32) * np.float32(0.3))
    inputs /= np.float32(np.sqrt(np.mean(np.square(inputs))))
    return weight, inputs


def mode_of(name: str) -> Mode:
    """Returns the mode that an option names: a sparsity, n:m, or one of the others."""
    if name in OTHER_MODES:
        return OTHER_MODES[name]
    if ":" in name:
        zeros, group = map(int, name.split(":"))
        return NM(zeros, group)
    return Percentile(float(name))


def measure(
    weight: NDArray[Any], inputs: NDArray[Any], name: str, options: argparse.Namespace
) -> dict[str, Any]:
    """Returns best times and errors of all methods, and of the peer where it has the mode."""
    mode = mode_of(name)
    gram = accumulate(None, inputs)[0]
    seconds: dict[str, list[float]] = {"gram": []}
    solutions: dict[str, Any] = {}
    peer_weight = None
    for _ in range(options.runs):
        if name not in OTHER_MODES:
            peer_weight, times = peer(weight, inputs, mode, options.dampening)
            for key, value in times.items():
                seconds.setdefault(key, []).append(value)
        seconds["gram"].append(timed(lambda: accumulate(None, inputs))[1])
        for key in options.methods:
            method = METHODS[key]
            if key.startswith("sparsegpt"):
                method = SparseGPT(options.dampening, refit=key.endswith("refit"))
            solution, taken = timed(lambda m=method: solve(weight, gram, mode, method=m))
            solutions[key] = solution
            seconds.setdefault(key, []).append(taken)
        unreported = timed(lambda: prune_only(weight, gram, mode, options.dampening))[1]
        seconds.setdefault("sparsegpt, unreported", []).append(unreported)
    row: dict[str, Any] = {
        "size": len(weight),
        "mode": str(mode),
        "seconds": seconds,
        "errors": {key: solution.error for key, solution in solutions.items()},
    }
    if peer_weight is not None:
        problem = make_problem(weight, gram, mode, None)
        whole = output_power(problem.weight, problem.gram)
        change = (peer_weight - weight)[None]
        row["errors"]["coremltools"] = output_power(change, problem.gram) / whole
        row["masks"] = mask_differences(weight, inputs, mode, peer_weight != 0, options)
    return row


def mask_differences(
    weight: NDArray[Any],
    inputs: NDArray[Any],
    mode: Mode,
    first: NDArray[Any],
    options: argparse.Namespace,
) -> list[dict[str, float]]:
    """Returns the share of the mask that differs, for each order of the samples.

    "from coremltools" is what differs between the tools, "of itself" between coremltools' masks of
    this order and of the first, which is given.
    """
    target, theirs, found = mode, first, []
    if isinstance(mode, Percentile):
        size = len(weight) * min(PEER_COLUMNS, weight.shape[1])
        target = Percentile((int(size * mode.target_sparsity) + 1) / size)
    for order in range(options.orders):
        samples = inputs
        if order:
            samples = inputs[np.random.default_rng(order).permutation(len(inputs))]
            theirs = peer(weight, samples, mode, options.dampening)[0] != 0
        gram = accumulate(None, samples)[0]
        keep = solve(weight, gram, target, method=SparseGPT(options.dampening)).keep
        differing = {"from coremltools": keep != theirs, "of itself": theirs != first}
        found.append({key: float(np.mean(values)) for key, values in differing.items()})
    return found


def measure_block(options: argparse.Namespace) -> None:
    """Prints the time that each method takes for the seven weights of a block, in turns."""
    rng = np.random.default_rng(0)
    grams = {
        columns: accumulate(None, layer(columns, 4 * columns, options.decay)[1])
        for columns in (576, 1536)
    }
    block = [
        ([rng.standard_normal((each, columns), np.float32) for each in rows], grams[columns])
        for rows, columns in SMOLLM2_BLOCK
    ]

    def prune_all(key: str, mode: Mode) -> None:
        for weights, gram in block:
            shared = Gram(gram)
            for weight in weights:
                solve(weight, shared, mode, method=METHODS[key])

    for mode in map(mode_of, options.modes):
        seconds: dict[str, list[float]] = {key: [] for key in options.methods}
        for _ in range(options.runs):
            for key in options.methods:
                taken = timed(lambda k=key, m=mode: prune_all(k, m))[1]
                seconds[key].append(taken)
        print(f"seven weights of a block, {mode}")
        for key, each in seconds.items():
            print(f"  {key:16s} best {min(each):6.3f} s, median {np.median(each):6.3f} s")


@one_blas_thread()
def prune_only(weight: NDArray[Any], gram: NDArray[Any], mode: Mode, dampening: float) -> None:
    """Prunes with SparseGPT as `solve` does, as far as coremltools' class goes."""
    SparseGPT(dampening).prune(make_problem(weight, gram, mode, None))


def peer(
    weight: NDArray[Any], inputs: NDArray[Any], mode: Mode, dampening: float
) -> tuple[NDArray[Any], dict[str, float]]:
    """Returns what coremltools' class makes of the layer, and its times for Hessian and solve."""
    import torch
    from coremltools.optimize.torch.layerwise_compression import algorithms

    linear = torch.nn.Linear(*weight.shape[::-1], bias=False)
    linear.weight.data = torch.from_numpy(weight.copy())
    config = algorithms.ModuleSparseGPTConfig(
        target_sparsity=getattr(mode, "target_sparsity", 0.5),
        n_m_ratio=(mode.n, mode.m) if isinstance(mode, NM) else None,
        weight_dtype="float32",
        hessian_dampening=dampening,
    )
    algorithm = algorithms.SparseGPT(linear, config)
    samples = torch.from_numpy(inputs)
    with torch.no_grad():
        _, gram_seconds = timed(lambda: algorithm._compute_hessian(samples, samples))
        algorithm._inp1, algorithm._out1 = samples[:1], linear(samples[:1])  # for its debug line
        _, seconds = timed(algorithm._compress_impl)
    return linear.weight.data.numpy(), {"coremltools gram": gram_seconds, "coremltools": seconds}


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """Returns what `work` returns, and how many seconds it took."""
    start = time.perf_counter()
    result = work()
    return result, time.perf_counter() - start


def show(row: dict[str, Any]) -> None:
    """Prints one size and mode."""
    best = {key: min(values) for key, values in row["seconds"].items()}
    errors = row["errors"]
    print(f"{row['size']} x {row['size']}  {row['mode']}", end="")
    if "masks" in row:
        print(f"  masks differ in {shares(row['masks'], 'from coremltools')}", end="")
    print(f"  Gram {best['gram']:.3f} s", end="")
    print(f" (coremltools {best['coremltools gram']:.3f})" if "coremltools gram" in best else "")
    if "coremltools" in best:
        own, bare = best.get("sparsegpt"), best["sparsegpt, unreported"]
        print(f"  sparsegpt is {best['coremltools'] / bare:.2f} times as fast", end="")
        print(f", {best['coremltools'] / own:.2f} with its report" if own else "")
        if row["masks"][1:]:
            print("  coremltools' masks of other orders differ from its first in", end=" ")
            print(shares(row["masks"][1:], "of itself"))
    base_error, base_time = errors.get("sparsegpt"), best.get("sparsegpt")
    for key, error in errors.items():
        line = f"  {key:16s} error {error:.5f}  {best[key]:7.3f} s"
        if base_error and base_time:
            line += (
                f"  {error / base_error:6.3f} of sparsegpt's error, {best[key] / base_time:5.2f}"
            )
            line += " of its time"
        print(line, flush=True)


def shares(masks: list[dict[str, float]], key: str) -> str:
    """Returns one of the shares of each order, as text."""
    return ", ".join(f"{each[key]:.4%}" for each in masks)


if __name__ == "__main__":
    main()
