"""Prunes a decoder of 1.1 billion parameters: every mode without data, then on samples.

The package is written by models_billion.py: 2.2 GB. Every run is a process of its own. Without
data: seconds, processor time, and the peak of memory above the imports. On 32 windows of 128
tokens, by SparseGPT and ADMM at 50% and 2:4 and with tables of 16 values: also the share of the
processor's time that is matrix products, and their rate beside the machine's peak, which the same
process measures first (see blas_meter.py). `--kill SECONDS` kills each calibrated run once after so
long, as `kill -9` does, and resumes it.

    python benchmarks/bench_billion.py                                  # all of it: hours
    python benchmarks/bench_billion.py --layers 2 --width 512 --hidden 1408 --words 4000
    python benchmarks/bench_billion.py --cases sparsegpt-0.5 --folder /var/tmp/billion --kill 600
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import blas_meter
from bench_prune import machine
from models_billion import Size, write

DATA_FREE = {
    "percentile": "mlpass.Percentile(0.5)",
    "global": 'mlpass.Percentile(0.5, scope="global")',
    "threshold": "mlpass.Threshold(0.01, 0.1)",
    "2:4": "mlpass.NM(2, 4)",
    "block": "mlpass.Block(0.5, 4)",
    "channel": "mlpass.Channel(0.5)",
    "int4": 'storage=mlpass.Quantized("int4", block_size=32)',
    "palette": "storage=mlpass.Palette(4)",
}
CALIBRATED = {
    f"{method}-{name}": f"{config}, method=mlpass.{kind}()"
    for method, kind in (("sparsegpt", "SparseGPT"), ("admm", "ADMM"))
    for name, config in (
        ("0.5", "mlpass.Percentile(0.5)"),
        ("2:4", "mlpass.NM(2, 4)"),
        ("palette", "storage=mlpass.Palette(4)"),
    )
}
CASES = DATA_FREE | CALIBRATED
LIMIT = 6 << 30  # bytes

MEASURE = """
import json, resource, sys, time
import blas_meter
from models_billion import Size, windows
import mlpass
mlpass.prune, mlpass.SparseGPT

def memory():
    status = open("/proc/self/status").read()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024

source, target, size, samples, resume = sys.argv[1], sys.argv[2], *map(eval, sys.argv[3:])
top = blas_meter.peak()
open("/proc/self/clear_refs", "w").write("5")  # the peak of memory is what it is now
given = dict(sample_data=windows(samples, size), resume=resume, target="own") if samples else {{}}
before, began = memory(), time.perf_counter()
cpu, products = time.process_time(), blas_meter.products()
report = mlpass.prune(source, target, {config}, force=True, **given)
after, metered = time.process_time(), blas_meter.products()
errors = [layer.error for layer in report.layers if layer.error is not None]
print(json.dumps({{
    "seconds": time.perf_counter() - began,
    "cpu": after - cpu,
    "bytes": memory() - before,
    "peak": top,
    "products": metered.seconds - products.seconds,
    "operations": metered.operations - products.operations,
    "layers": sum(layer.skipped is None for layer in report.layers),
    "sparsity": report.sparsity,
    "error": sum(errors) / len(errors) if errors else None,
    "nbytes": report.bytes_after,
}}))
"""


def main() -> None:
    """Writes the package where it is not there yet, runs the cases, and prints a line for each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, value in vars(Size()).items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--samples", type=int, default=32, help="windows of 128 tokens")
    parser.add_argument("--kill", type=float, metavar="SECONDS", help="kill, then resume")
    parser.add_argument("--folder", type=Path, help="where packages are kept; else they are not")
    parser.add_argument("--json", metavar="FILE", help="write all measurements")
    options = parser.parse_args()
    size = Size(*(getattr(options, name) for name in vars(Size())))

    print(machine(), f"{size.parameters:,} parameters", sep="; ")
    results = []
    with tempfile.TemporaryDirectory() as passing:
        folder = options.folder or Path(passing)
        folder.mkdir(parents=True, exist_ok=True)
        source = folder / f"decoder_{'_'.join(str(each) for each in vars(size).values())}.mlpackage"
        if not (source / "Manifest.json").exists():
            shutil.rmtree(source, ignore_errors=True)
            began = time.perf_counter()
            write(source, size)
            print(f"written in {time.perf_counter() - began:.0f} s", flush=True)
        environment = os.environ | blas_meter.build(Path(passing))
        for case in options.cases:
            samples = options.samples if case in CALIBRATED else 0
            target = folder / "pruned.mlpackage"
            found = run(CASES[case], source, target, size, samples, environment, options.kill)
            results.append({"case": case, **found})
            print(line(results[-1]), flush=True)
    if options.json:
        content = {"machine": machine(), "size": vars(size), "results": results}
        Path(options.json).write_text(json.dumps(content, indent=2) + "\n")


def run(
    config: str,
    source: Path,
    target: Path,
    size: Size,
    samples: int,
    environment: dict[str, str],
    kill: float | None,
) -> dict[str, Any]:
    """Returns the measurements of one run, the second half of it where it was killed."""
    code = MEASURE.format(config=config)

    def command(resume: bool) -> list[str]:
        arguments = [source, target, size, samples, resume]
        return [sys.executable, "-W", "ignore", "-c", code, *map(str, arguments)]

    environment = environment | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    killed = None
    if kill is not None and samples:
        began = time.perf_counter()
        first = subprocess.Popen(
            command(False), env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        try:
            first.wait(kill)
        except subprocess.TimeoutExpired:
            first.kill()
            first.wait()
            killed = time.perf_counter() - began
    done = subprocess.run(
        command(killed is not None), env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return {**found, "killed": killed}


def line(result: dict[str, Any]) -> str:
    """Returns a result as a row of text."""
    fits = "" if result["bytes"] < LIMIT else ", ABOVE 6 GB"
    row = (
        f"{result['case']:17s} {result['seconds']:7.1f} s {result['cpu']:7.1f} s of CPU "
        f"{result['bytes'] / 2**20:6.0f} MB{fits}  {result['layers']} weights, "
        f"sparsity {result['sparsity']:.3f}, {result['nbytes'] / 1e6:.0f} MB"
    )
    if result["error"] is not None:
        rate = result["operations"] / result["products"] / 1e9
        row += (
            f"  error {result['error']:.4f}  products {result['products'] / result['cpu']:.0%} of "
            f"CPU at {rate:.0f} GFLOP/s a core, {rate * 1e9 / result['peak']:.0%} of the peak"
        )
    if result["killed"] is not None:
        row += f"  (resumed, after a kill at {result['killed']:.0f} s)"
    return row


if __name__ == "__main__":
    main()
