"""One run of bench_runs.py: prunes, measures that alone, evaluates, and prints JSON.

python benchmarks/bench_worker.py MODEL TOOL METHOD CONFIG BACKEND
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from bench_cache import weight_bytes
from bench_cases import CASES, SAMPLES, Case

import mlpass
from mlpass.runtime.backends.base import open_backend

METHODS = {
    "magnitude": mlpass.Magnitude(),
    "wanda": mlpass.Wanda(),
    "sparsegpt": mlpass.SparseGPT(),
    "sparsegpt+refit": mlpass.SparseGPT(refit=True),
    "admm": mlpass.ADMM(),
}
AIMED = {f"{name}+dense": METHODS[name] for name in ("sparsegpt", "admm")}  # target="dense"
JOINT: dict[str, dict[str, Any]] = {
    "sparsegpt+int4": {"storage": "int4"},
    "sparsegpt+palette4": {"storage": {"palettize": 4}},
}


def main() -> None:
    """Runs what the arguments say."""
    name, tool, method, config, backend = sys.argv[1:]
    case = CASES[name]()
    given = (case, method, config)
    print(json.dumps(own(*given, backend) if tool == "mlpass" else peer(tool, *given)))


def own(case: Case, method: str, config: str, backend: str) -> dict[str, Any]:
    """Returns measurements of mlpass; of the dense package where the method is "dense"."""
    result: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        package = case.package(18 if method in JOINT else 17)
        if method != "dense":
            layers = mlpass.inspect(package).layers
            spared = {layer.name: None for layer in layers if case.spared(layer)}
            chosen = mlpass.Config(global_config=mode_of(config), op_name_configs=spared)
            calibrated: dict[str, Any] = {}
            if method != "magnitude":
                calibrated = {"sample_data": case.samples(SAMPLES), "backend": backend}
                calibrated["target"] = "dense" if method in AIMED else "own"
                if method in AIMED:
                    calibrated["method"] = AIMED[method]
                else:
                    calibrated |= JOINT.get(method) or {"method": METHODS[method]}
            output = Path(folder, "pruned.mlpackage")
            open_backend(backend)
            prune = mlpass.prune  # imported here: that is not part of the run
            before = cleared()
            began = time.perf_counter()
            report = prune(package, output, chosen, **calibrated)
            result = {"seconds": time.perf_counter() - began, "bytes": peak() - before}
            result |= summary(report, spared)
            result["weights_before"] = weight_bytes(package)
            result["weights_after"] = weight_bytes(output)
            package = output
        interpreter = mlpass.Interpreter(package, backend="torch")
        return result | case.figures(interpreter.predict)


def peer(name: str, case: Case, method: str, config: str) -> dict[str, Any]:
    """Returns measurements of the peer."""
    assert case.peer
    torch.manual_seed(0)
    before = cleared()
    timed, figures = case.peer(name, method, mode_of(config))
    return {**timed, "bytes": peak() - before, **figures()}


def summary(report: mlpass.Report, spared: dict[str, None]) -> dict[str, Any]:
    """Returns what a report says of the whole model."""
    pruned = [layer for layer in report.layers if layer.mode]
    errors = [layer.error for layer in pruned if layer.error is not None]
    sizes = [torch.Size(layer.shape).numel() for layer in pruned]
    zeros = sum(layer.zeros or 0 for layer in pruned)
    made: dict[str, Any] = {
        "sparsity": zeros / sum(sizes),
        "pruned": len(pruned),
        "skipped": sum(layer.skipped is not None for layer in report.layers) - len(spared),
        "size_before": report.bytes_before,
        "size_after": report.bytes_after,
    }
    return made | ({"error": sum(errors) / len(errors)} if errors else {})


def mode_of(text: str) -> mlpass.Percentile | mlpass.NM:
    """Returns the mode that "0.5" or "2:4" means; n of n:m is the number of zeros."""
    if ":" in text:
        zeros, group = map(int, text.split(":"))
        return mlpass.NM(zeros, group)
    return mlpass.Percentile(float(text))


def cleared() -> int:
    """Returns the peak of this process' memory in bytes, from now on where that can be told."""
    clear = Path("/proc/self/clear_refs")
    if clear.exists():
        clear.write_text("5")  # the peak of the imports does not count
    return peak()


def peak() -> int:
    """Returns the peak of this process' memory in bytes."""
    status = Path("/proc/self/status")
    if status.exists():  # of this process alone: ru_maxrss begins at its parent's
        found = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(found.split()[1]) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    main()
