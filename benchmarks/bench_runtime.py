"""Runs models with mlpass and with torch eager, on the same weights and inputs.

Every tool is a process of its own, which imports first, then opens the model and runs it when it
is told to: the tools take turns, so that all meet the same machine. Time is the median over the
turns; memory is the peak above the imports, weights included. MobileNetV2, ResNet50, ViT and GPT
are random weights in the usual architectures, converted in fp32; the rest are fixtures, whose
torch equal takes its weights from the package.

    python benchmarks/bench_runtime.py                      # all models
    python benchmarks/bench_runtime.py --models vit gpt --runs 9 --json bench.json
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from runtime_models import FIXTURES, RANDOM, ROOT

WORKER = """
import statistics, sys, time
from pathlib import Path
import numpy as np
{imports}

def peak():
    status = Path("/proc/self/status")
    if status.exists():  # of this process alone: ru_maxrss begins at its parent's
        found = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(found.split()[1]) * 1024
    import resource
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

package, module, given, target = sys.argv[1:]
inputs = dict(np.load(given))
clear = Path("/proc/self/clear_refs")
if clear.exists():
    clear.write_text("5")  # the peak of the imports does not count
before = peak()
{work}
outputs = call()
after = peak()
np.savez(target, **outputs)
print("ready", flush=True)
for line in sys.stdin:
    time.sleep(0.1)  # the threads of the tool before spin for a while, waiting for more
    call()
    seconds, began = [], time.perf_counter()
    while not seconds or time.perf_counter() - began < 0.2:
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    print(statistics.median(seconds), max(after, peak()) - before, flush=True)
"""

MLPASS = {
    "imports": """
import mlpass
from mlpass.runtime.backends.base import open_backend
mlpass.Interpreter
open_backend("{backend}")
""",
    "work": """
interpreter = mlpass.Interpreter(package, backend="{backend}")
def call():
    return interpreter.predict(inputs)
""",
}
TORCH = {
    "imports": "import torch; import runtime_models",
    "work": """
network = torch.load(module, weights_only=False)
def call():
    with torch.inference_mode():
        return {"output": network(*map(torch.from_numpy, inputs.values())).numpy()}
""",
}
TOOLS = {
    "torch eager": TORCH,
    "numpy": {key: code.replace("{backend}", "numpy") for key, code in MLPASS.items()},
    "torch": {key: code.replace("{backend}", "torch") for key, code in MLPASS.items()},
}


class Worker:
    """A tool in a process of its own, with the model open and run once."""

    def __init__(self, tool: str, package: Path, folder: Path) -> None:
        code = WORKER.format(**TOOLS[tool])
        self.target = folder / f"{tool}.npz"
        files = (package, folder / "module.pt", folder / "inputs.npz", self.target)
        self.process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", code, *map(str, files)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.runs: list[dict[str, float]] = []
        self.answer()

    def answer(self) -> str:
        assert self.process.stdout
        if not (said := self.process.stdout.readline()):
            raise SystemExit(f"a worker ended with {self.process.wait()}")
        return said

    def turn(self) -> None:
        assert self.process.stdin
        self.process.stdin.write("run\n")
        self.process.stdin.flush()
        seconds, nbytes = self.answer().split()
        self.runs.append({"seconds": float(seconds), "bytes": int(nbytes)})


def measure(name: str, runs: int, folder: Path) -> dict[str, Any]:
    """Returns the runs of every tool on one model, and how far their outputs are from torch's."""
    code = "import sys, runtime_models; runtime_models.build(*sys.argv[1:])"
    command = [sys.executable, "-W", "ignore", "-c", code, name, str(folder)]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    if built.returncode:
        raise SystemExit(built.stderr)
    package = folder / "model.mlpackage"
    package = package if package.exists() else ROOT / f"fixtures/{name}.mlpackage"
    workers = {tool: Worker(tool, package, folder) for tool in TOOLS}
    try:
        for _ in range(runs):
            for worker in workers.values():
                worker.turn()
    finally:
        for worker in workers.values():
            worker.process.communicate()
    (truth,) = np.load(workers["torch eager"].target).values()
    result: dict[str, Any] = {"model": name}
    for tool, worker in workers.items():
        (output,) = np.load(worker.target).values()
        error = float(np.abs(output - truth).max() / np.abs(truth).max())
        if not error < 1e-3:
            raise SystemExit(f"{name}: {tool} is wrong: relative error {error:.1e}")
        result[tool] = {"relative_error": error, "runs": worker.runs}
    return result


def line(result: dict[str, Any]) -> str:
    """Returns a result as a row of text: medians, and their ratios to torch eager's."""

    def median(tool: str, figure: str) -> float:
        values: list[float] = [run[figure] for run in result[tool]["runs"]]
        return statistics.median(values)

    peer_seconds, peer_bytes = median("torch eager", "seconds"), median("torch eager", "bytes")
    row = f"{result['model']:18s} eager {peer_seconds * 1e3:7.1f} ms {peer_bytes / 2**20:4.0f} MB"
    for tool in ("numpy", "torch"):
        seconds, nbytes = median(tool, "seconds"), median(tool, "bytes")
        row += (
            f"  {tool} {seconds * 1e3:7.1f} ms {nbytes / 2**20:4.0f} MB: "
            f"{seconds / peer_seconds:5.2f} x time {nbytes / peer_bytes:5.2f} x memory "
            f"(error {result[tool]['relative_error']:.0e})"
        )
    return row


def main() -> None:
    """Builds the models, measures, prints a table, and writes JSON where asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    models = [*RANDOM, *FIXTURES]
    parser.add_argument("--models", nargs="+", default=models, choices=models)
    parser.add_argument("--runs", type=int, default=7, help="turns of each tool, median shown")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", metavar="FILE", help="write all measurements")
    options = parser.parse_args()

    for library in ("OMP", "MKL", "OPENBLAS"):
        os.environ[f"{library}_NUM_THREADS"] = str(options.threads)
    os.environ["MLPASS_THREADS"] = str(options.threads)
    paths = (str(ROOT), str(ROOT / "benchmarks"), os.environ.get("PYTHONPATH"))
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    machine = {"machine": platform.platform(), "cores": os.cpu_count(), "load": os.getloadavg()}
    results = []
    for name in options.models:
        with tempfile.TemporaryDirectory() as folder:
            results.append(measure(name, options.runs, Path(folder)))
        print(line(results[-1]), flush=True)
    if options.json:
        content = {**machine, "threads": options.threads, "results": results}
        Path(options.json).write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
