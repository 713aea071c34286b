"""Runs of the whole-model benchmarks: each a process of its own, which is bench_worker.py."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench_cases import ROOT

METHODS = ("magnitude", "wanda", "sparsegpt", "sparsegpt+refit", "admm")
JOINT = ("sparsegpt+int4", "sparsegpt+palette4")
MODELS = {  # and the cases of each
    "smollm2": ("smollm2",),
    "fashion": ("fashion-0", "fashion-1", "fashion-2"),
    "efficientnet": ("efficientnet",),
    "minilm": ("minilm",),
    "tiny_lm": ("tiny_lm",),
}


def run(
    name: str,
    tool: str,
    method: str,
    config: str,
    *,
    backend: str = "numpy",
    threads: int = 2,
    worker: str = "bench_worker.py",
    limit: float | None = None,
) -> dict[str, Any]:
    """Returns the measurements of one process.

    Args:
        name: of the case.
        tool: "mlpass", or one of the peers of the case.
        method: one of METHODS or JOINT, or "dense", which prunes nothing.
        config: a sparsity, or N:M.
        backend: of mlpass.
        threads: of each library.
        worker: the script that is run, which prints its measurements as JSON last.
        limit: seconds after which it is stopped; None for no limit.

    Raises:
        SystemExit: it failed.
        subprocess.TimeoutExpired: it took longer than `limit`.
    """
    environment = dict(os.environ)
    for library in ("OMP", "MKL", "OPENBLAS"):
        environment[f"{library}_NUM_THREADS"] = str(threads)
    paths = (str(ROOT), str(ROOT / "benchmarks"), os.environ.get("PYTHONPATH"))
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    script = str(Path(__file__).with_name(worker))
    command = [sys.executable, "-W", "ignore", script, name, tool, method, config, backend]
    ended = subprocess.run(
        command, capture_output=True, text=True, env=environment, check=False, timeout=limit
    )
    if ended.returncode:
        raise SystemExit(f"{' '.join(command[3:])} failed:\n{ended.stderr}")
    made: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return {"model": name, "tool": tool, "method": method, "config": config, **made}


def cases(model: str, seeds: list[int]) -> tuple[str, ...]:
    """Returns the names of a model's cases: one a seed where it has seeds."""
    names = MODELS[model]
    return tuple(names[seed] for seed in seeds) if len(names) > 1 else names


def markdown(lines: Sequence[Sequence[str]]) -> str:
    """Returns rows of cells as a Markdown table."""
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
