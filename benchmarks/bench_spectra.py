"""Methods over spectra: the error that ADMM and swaps leave, and their time, on one layer each.

    python benchmarks/bench_spectra.py --size 1024

The layer has `size` inputs and outputs and normal weights. Its inputs are white; weakly correlated
(N (I + 0.3 R) with column scales in [0, 2], R normal over the root of the width); or strongly:
those of bench_solver.py, with variances falling as k^-decay. Seconds are of the processor's time,
over all threads, the least of `--runs`: they stand still on a machine that others use too. Errors
are relative square output errors, in fp64, beside those of an ALPS-like search (Meng et al. 2024,
arXiv 2406.07831, in plain numpy: unit columns, penalties from 0.1 up by 1.1 to 1.3 every third
iteration until the mask stands still, at most 300, then 10 conjugate gradients).
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
from bench_solver import layer, mode_of
from numpy.typing import NDArray

from mlpass.solvers.admm import ADMM
from mlpass.solvers.gram import accumulate
from mlpass.solvers.problem import Method
from mlpass.solvers.solve import solve
from mlpass.solvers.sparsegpt import SparseGPT
from mlpass.solvers.wanda import Wanda
from mlpass.sparsity.layout import matrix_layout
from mlpass.sparsity.mode import Mode

SPECTRA = ("white", "weak", "0.5", "1", "2")  # numbers: the decay
METHODS: dict[str, Method] = {
    "Wanda, refit": Wanda(refit=True),
    "Wanda, swaps": Wanda(swaps=2),
    "SparseGPT, refit": SparseGPT(refit=True),
    "SparseGPT, swaps": SparseGPT(swaps=2),
    "ADMM": ADMM(),
    "ADMM, 96 iterations": ADMM(iterations=96),
}


def main() -> None:
    """Prints a row for each spectrum and mode."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--spectra", nargs="+", default=list(SPECTRA), choices=SPECTRA)
    parser.add_argument("--modes", nargs="+", default=["0.5", "0.7", "2:4"], help="F or N:M")
    parser.add_argument("--runs", type=int, default=2)
    options = parser.parse_args()
    names = ["ALPS-like", *METHODS]
    print("| inputs | mode |", " | ".join(names), "|")
    print("| --- | --- |", " | ".join("---" for _ in names), "|")
    for name in options.spectra:
        weight, inputs = problem(name, options.size)
        gram = accumulate(None, inputs)[0]
        for mode in map(mode_of, options.modes):
            found = [alps(weight, gram, mode)]
            for method in METHODS.values():
                seconds = []
                for _ in range(options.runs):
                    start = time.process_time()
                    pruned = solve(weight, gram, mode, method=method).weight
                    seconds.append(time.process_time() - start)
                found.append((pruned, min(seconds)))
            cells = [f"{error(weight, each, gram):.5f} ({took:.2f} s)" for each, took in found]
            print(f"| {name} | {mode} |", " | ".join(cells), "|", flush=True)


def problem(name: str, size: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Returns a weight (size, size) and its inputs (4 size, size), of one spectrum."""
    if name not in ("white", "weak"):
        return layer(size, 4 * size, float(name))
    rng = np.random.default_rng(size)
    root = np.float32(size**0.5)
    weight = rng.standard_normal((size, size), np.float32) / root
    mixing = rng.standard_normal((size, size), np.float32) / root
    inputs = rng.standard_normal((4 * size, size), np.float32)
    if name == "weak":
        inputs = inputs @ (np.eye(size, dtype=np.float32) + np.float32(0.3) * mixing)
        inputs *= rng.uniform(0, 2, size).astype(np.float32)
    return weight, inputs


def error(weight: NDArray[Any], pruned: NDArray[Any], gram: NDArray[Any]) -> float:
    """Returns the relative square output error, in fp64."""
    start, square = weight.astype(np.float64), gram.astype(np.float64)
    change = pruned - start
    return float(np.vdot(change @ square, change) / np.vdot(start @ square, start))


def alps(weight: NDArray[Any], gram: NDArray[Any], mode: Mode) -> tuple[NDArray[Any], float]:
    """Returns what the ALPS-like search makes of a weight, and the seconds it took."""
    begin, layout = time.process_time(), matrix_layout(*weight.shape)
    scale = np.sqrt(np.diagonal(gram))
    square = (gram / np.outer(scale, scale)).astype(np.float64)
    np.einsum("ii->i", square)[:] += 0.01
    values, vectors = np.linalg.eigh(square)
    target, penalty, solver = weight * scale, 0.1, None
    free, drift = target, np.zeros_like(target)
    keep = last = mode.keep(np.abs(target), layout)
    split = target * keep
    for step in range(300):
        if step % 3 == 0:
            solver = ((vectors * (penalty / (values + penalty))) @ vectors.T).astype(np.float32)
        free = target + (split - drift - target) @ solver
        keep = mode.keep(np.abs(free + drift), layout)
        split = (free + drift) * keep
        drift = drift + free - split
        if step % 3 == 2:
            changed, last = np.count_nonzero(keep != last) / np.count_nonzero(keep), keep
            if changed == 0:
                break
            growth = 1.3 if changed >= 0.1 else 1.2 if changed >= 0.005 else 1.1
            penalty, drift = penalty * growth, drift / np.float32(growth)
    dampened = square.astype(np.float32)
    residual = ((target - split) @ dampened) * keep
    step_to, power = residual, np.sum(residual**2, axis=1, keepdims=True)
    for _ in range(10):
        image = (step_to @ dampened) * keep
        length = power / np.maximum(np.sum(step_to * image, axis=1, keepdims=True), 1e-30)
        split, residual = split + length * step_to, residual - length * image
        before, power = power, np.sum(residual**2, axis=1, keepdims=True)
        step_to = residual + power / np.maximum(before, 1e-30) * step_to
    return split / scale, time.process_time() - begin


if __name__ == "__main__":
    main()
