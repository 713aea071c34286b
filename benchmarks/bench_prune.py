"""Prunes stacks of linear layers with mlpass and with coremltools, file to file, beside a copy.

Every measurement is a process of its own, which imports first and then prunes: wall time, processor
time and the peak of memory are those above the imports. The copy reads the whole package, and
writes a file of the size of mlpass' output. All take turns, so that they meet the same machine.

    python benchmarks/bench_prune.py                        # 256 MB, both tools, every mode
    python benchmarks/bench_prune.py --sizes 256 1024 2048 --peer-up-to 256 --json bench.json
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

from mlpass.parallel import thread_count

WIDTH = 4096
LAYER_MB = WIDTH * WIDTH * 2 // 2**20  # fp16

# Name: (mlpass mode, coremltools config or None where it has no such mode), as code.
MODES = {
    "threshold": (
        "mlpass.Threshold(0.0135, 0.3)",
        "cto.OpThresholdPrunerConfig(threshold=0.0135, minimum_sparsity_percentile=0.3)",
    ),
    "percentile": ("mlpass.Percentile(0.5)", "cto.OpMagnitudePrunerConfig(target_sparsity=0.5)"),
    "n:m": ("mlpass.NM(2, 4)", "cto.OpMagnitudePrunerConfig(n_m_ratio=(2, 4))"),
    "block": (
        "mlpass.Block(0.5, 4)",
        "cto.OpMagnitudePrunerConfig(target_sparsity=0.5, block_size=4)",
    ),
    "channel": ("mlpass.Channel(0.5)", None),
    "global": ('mlpass.Percentile(0.5, scope="global")', None),
}

BUILD = """
import sys
import numpy as np
import coremltools as ct
from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.mil import types

layers, width, target = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
rng = np.random.default_rng(0)

@mb.program(
    input_specs=[mb.TensorSpec(shape=(1, width), dtype=types.fp16)],
    opset_version=ct.target.iOS17,
)
def stack(x):
    for index in range(layers):
        weight = rng.standard_normal((width, width), dtype=np.float32) * np.float32(0.02)
        x = mb.linear(x=x, weight=weight.astype(np.float16), name=f"layer_{index}")
    return x

model = ct.convert(
    stack,
    convert_to="mlprogram",
    minimum_deployment_target=ct.target.iOS17,
    pass_pipeline=ct.PassPipeline.EMPTY,
    skip_model_load=True,
)
model.save(target)
"""

MEASURE = """
import json, resource, sys, time
from pathlib import Path
{imports}

def peak():
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit

source, target = sys.argv[1:3]
before, start, cpu = peak(), time.perf_counter(), time.process_time()
{work}
seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
written = sum(file.stat().st_size for file in Path(target).rglob("*") if file.is_file())
figures = {{"seconds": seconds, "cpu": cpu, "bytes": peak() - before, "written": written}}
print(json.dumps(figures))
"""

MLPASS = {
    "imports": "import mlpass; mlpass.prune; import mlpass.pruning.prune",
    "work": "mlpass.prune(source, target, {mode})",
}
COREMLTOOLS = {
    "imports": "import coremltools.optimize.coreml as cto; from coremltools.models import MLModel",
    "work": """
model = MLModel(source, skip_model_load=True)
model = cto.prune_weights(model, cto.OptimizationConfig(global_config={mode}))
model.save(target)
""",
}
COPY = {
    "imports": "",
    "work": """
left, buffer = {mode}, memoryview(bytearray(1 << 20))
Path(target).mkdir()
with open(Path(target, "copy"), "wb", buffering=0) as output:
    for path in Path(source).rglob("*"):
        if path.is_file():
            with path.open("rb", buffering=0) as file:
                while got := file.readinto(buffer):
                    left -= output.write(buffer[: min(got, left)])
""",
}


def main() -> None:
    """Builds the stacks, measures, prints a table, and writes JSON where asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=[256], help="MB of weights")
    parser.add_argument("--modes", nargs="+", default=list(MODES), choices=list(MODES))
    parser.add_argument("--runs", type=int, default=3, help="measurements of each, median shown")
    parser.add_argument("--peer-up-to", type=int, default=256, help="largest size for coremltools")
    parser.add_argument("--json", metavar="FILE", help="write all measurements")
    options = parser.parse_args()

    print(machine())
    results = []
    with tempfile.TemporaryDirectory() as directory:
        for size in options.sizes:
            source = Path(directory, f"stack_{size}.mlpackage")
            run(BUILD, max(1, size // LAYER_MB), WIDTH, source)
            for mode in options.modes:
                with_peer = size <= options.peer_up_to and MODES[mode][1] is not None
                results.append(measure(source, size, mode, options.runs, with_peer))
                print(line(results[-1]), flush=True)
    if options.json:
        content = {"machine": machine(), "results": results}
        Path(options.json).write_text(json.dumps(content, indent=2) + "\n")


def machine() -> str:
    """Returns the processor, its cores and the threads that mlpass takes."""
    told = Path("/proc/cpuinfo")
    lines = told.read_text().splitlines() if told.exists() else []
    names = [line.split(": ")[1] for line in lines if line.startswith("model name")]
    processor = names[0] if names else platform.processor() or platform.machine()
    return f"{processor}, {os.cpu_count()} cores, {thread_count()} threads, {platform.system()}"


def measure(source: Path, size: int, mode: str, runs: int, with_peer: bool) -> dict[str, Any]:
    """Returns the measurements of one mode on one stack."""
    ours, theirs = MODES[mode]
    result: dict[str, Any] = {"megabytes": size, "mode": mode}
    result |= {"mlpass": [], "copy": [], "coremltools": []}
    for index in range(runs):
        target = source.with_name(f"out_{index}.mlpackage")
        result["mlpass"].append(once(MLPASS, ours, source, target))
        written = str(int(result["mlpass"][-1]["written"]))
        result["copy"].append(once(COPY, written, source, source.with_name("copy")))
        if with_peer and theirs is not None:
            target = source.with_name(f"peer_{index}.mlpackage")
            result["coremltools"].append(once(COREMLTOOLS, theirs, source, target))
    return result


def once(tool: dict[str, str], mode: str, source: Path, target: Path) -> dict[str, float]:
    """Returns seconds, bytes of memory and bytes written of one run in a process of its own."""
    code = MEASURE.format(imports=tool["imports"], work=tool["work"].format(mode=mode).strip())
    measured: dict[str, float] = json.loads(run(code, source, target).splitlines()[-1])
    run("import shutil, sys; shutil.rmtree(sys.argv[1])", target)
    return measured


def run(code: str, *arguments: object) -> str:
    """Returns what a Python process prints."""
    command = [sys.executable, "-W", "ignore", "-c", code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return done.stdout


def line(result: dict[str, Any]) -> str:
    """Returns a result as a row of text: medians, and ratios where there is a peer."""

    def median(tool: str, figure: str) -> float:
        return statistics.median(run[figure] for run in result[tool])

    seconds, nbytes = median("mlpass", "seconds"), median("mlpass", "bytes")
    copy, cpu = median("copy", "seconds"), median("mlpass", "cpu")
    row = (
        f"{result['megabytes']:5d} MB  {result['mode']:10s}  "
        f"mlpass {seconds:6.2f} s {cpu:6.2f} s of CPU {nbytes / 2**20:6.0f} MB"
        f"  copy {copy:6.2f} s {median('copy', 'cpu'):6.2f} s of CPU: {seconds / copy:5.1f} times"
    )
    if result["coremltools"]:
        peer_seconds, peer_bytes = median("coremltools", "seconds"), median("coremltools", "bytes")
        row += (
            f"  coremltools {peer_seconds:6.2f} s {peer_bytes / 2**20:6.0f} MB"
            f"  {peer_seconds / seconds:5.1f} times as fast, "
            f"{nbytes / peer_bytes:.3f} of the memory"
        )
    return row


if __name__ == "__main__":
    main()
