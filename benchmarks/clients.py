"""Converters that others wrote, each in an environment of its own, since their pins differ.

    python benchmarks/clients.py                           all of them; the first time installs them
    python benchmarks/clients.py --clients onnx2coreml "ultralytics nms=True" --json clients.json

Each converts a small model of random weights (client_models.py): dense, pruned afterwards and
pruned within its conversion, to 50%, by magnitude and on 8 samples. SNR is in dB, to the source
framework's outputs. A client that cannot be installed or fails is in the table, with its reason.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench_cache import folder

ROOT = Path(__file__).resolve().parent.parent
TORCH = "torch==2.13.0"

# Packages by client. An environment is shared by the clients that name the same ones.
CLIENTS = {
    "stablehlo-coreml": ("stablehlo-coreml==0.1.6", "flax==0.12.8", "jax==0.10.2"),
    "onnx2coreml": ("onnx2coreml==1.1.0", "onnx==1.23.2", "onnxruntime==1.32.0"),
    "tensorflow": ("tensorflow-cpu==2.19.1",),
    "executorch": ("executorch==1.5.1", TORCH),
    "ultralytics": ("ultralytics==8.4.190", TORCH, "torchvision==0.28.0"),
    "ultralytics nms=True": ("ultralytics==8.4.190", TORCH, "torchvision==0.28.0"),
    "transformers Llama": ("transformers==5.24.0", TORCH),
    "transformers Qwen2": ("transformers==5.24.0", TORCH),
    "mlx2coreml": ("mlx2coreml==0.1.1", "mlx[cpu]==0.32.4"),
}
ALWAYS = ("coremltools==9.0", "numpy<2.4")
COLUMNS = ("dense", "magnitude after", "magnitude inside", "sparsegpt after", "sparsegpt inside")


def main() -> None:
    """Prints the table, and writes JSON where asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clients", nargs="+", default=[*CLIENTS], choices=[*CLIENTS])
    parser.add_argument("--json", metavar="FILE", help="write all figures")
    options = parser.parse_args()
    rows = {}
    for client in options.clients:
        rows[client] = run(client)
        print(client, rows[client], flush=True)
    print(table(rows))
    if options.json:
        Path(options.json).write_text(json.dumps(rows, indent=1))


def environment(packages: tuple[str, ...]) -> Path:
    """Returns the interpreter of an environment with those packages, made where it is not there.

    Raises:
        CalledProcessError: they cannot be installed; `stderr` says why.
    """
    name = "-".join(each.partition("==")[0] for each in packages)
    path = folder() / "clients" / name
    python, done = path / "bin/python", path / "installed.txt"
    wanted = "\n".join([*ALWAYS, *packages])
    if not done.exists() or done.read_text() != wanted:
        _quietly([sys.executable, "-m", "venv", "--clear", str(path)])
        _quietly([str(python), "-m", "pip", "install", "-q", *ALWAYS, *packages, str(ROOT)])
        done.write_text(wanted)
    return python


def run(client: str) -> dict[str, Any]:
    """Returns a client's row; where it fails, only the reason."""
    packages = CLIENTS[client]
    names = [each.partition("==")[0].partition("[")[0] for each in packages]
    with tempfile.TemporaryDirectory() as made:
        target = Path(made, "row.json")
        try:
            script = [str(ROOT / "benchmarks/client_worker.py"), client, str(target), *names]
            _quietly([str(environment(packages)), "-W", "ignore", *script])
        except subprocess.CalledProcessError as error:
            lines = [line for line in error.stderr.splitlines() if line.strip()]
            return {"reason": lines[-1] if lines else f"exit status {error.returncode}"}
        row: dict[str, Any] = json.loads(target.read_text())
    return row


def _quietly(command: list[str]) -> None:
    # This tree's mlpass is run, whichever was installed.
    settings = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
    subprocess.run(command, check=True, capture_output=True, text=True, env=settings)


def table(rows: dict[str, dict[str, Any]]) -> str:
    """Returns a Markdown table."""
    lines = [f"\n| client | told by | {' | '.join(COLUMNS)} | size |", "| --- | --- | "]
    lines[1] += "---: | " * (len(COLUMNS) + 1)
    for client, row in rows.items():
        if "reason" in row:
            lines.append(f"| {client} | not run: {row['reason']} |{' |' * (len(COLUMNS) + 1)}")
            continue
        cells = [f"{row[column]:.1f}" for column in COLUMNS]
        size = f"{row['magnitude bytes inside'] / row['bytes']:.2f}x"
        lines.append(f"| {client} | `{row['inside']}` | {' | '.join(cells)} | {size} |")
    seen = {name: each for row in rows.values() for name, each in row.get("versions", {}).items()}
    return "\n".join([*lines, "", ", ".join(f"{name} {each}" for name, each in seen.items())])


if __name__ == "__main__":
    main()
