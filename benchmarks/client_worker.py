"""A row of clients.py, which runs this in the packages of the client.

    python benchmarks/client_worker.py onnx2coreml results.json

A model of client_models.py is converted, pruned afterwards and pruned within its conversion, and
all are judged by the source framework's own outputs.
"""

from __future__ import annotations

import json
import logging
import sys
import tempfile
from functools import partialmethod
from importlib.metadata import version
from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np
import tqdm
from client_models import CASES, Case

import mlpass
import mlpass.plugin
from mlpass import Percentile, SparseGPT

CONFIG = Percentile(0.5)
TARGET = "iOS18"


def snr(path: Path, case: Case) -> float:
    """Returns the signal-to-noise ratio in dB of a package's outputs to the source framework's."""
    interpreter = mlpass.Interpreter(path, partial=True)  # up to a suppression: see `runtime/`
    made = []
    for sample in case.samples:
        state = interpreter.make_state() if isinstance(sample, list) else None
        for step in sample if isinstance(sample, list) else [sample]:
            outputs = interpreter.predict(step, state).values()
            made.append(np.concatenate([np.ravel(each) for each in outputs]).astype(np.float64))
    expected = np.concatenate([np.ravel(each) for each in case.expected]).astype(np.float64)
    noise = np.sum((np.concatenate(made) - expected) ** 2)
    return float(10 * np.log10(np.sum(expected**2) / noise))


def nbytes(path: Path) -> int:
    files = [path] if path.is_file() else path.rglob("*")
    return sum(file.stat().st_size for file in files if file.is_file())


def measure(name: str, folder: Path) -> dict[str, Any]:
    """Returns a row of the table."""
    case = CASES[name]()
    dense = folder / f"dense{case.suffix}"
    case.convert(dense)
    row: dict[str, Any] = {"inside": case.inside, "dense": snr(dense, case), "bytes": nbytes(dense)}
    for method, given in (
        ("magnitude", {}),
        ("sparsegpt", {"method": SparseGPT(), "sample_data": case.samples}),
    ):
        after, inside = (folder / f"{method}-{when}{case.suffix}" for when in ("after", "inside"))
        raised = {"minimum_deployment_target": TARGET}
        mlpass.prune(dense, after, CONFIG, **raised, **given)
        if case.inside == "pass_pipeline":
            case.convert(inside, pass_pipeline=pipeline(name, given))
        elif case.inside == "pass_names":
            case.convert(inside, pass_names=mlpass.plugin.names(CONFIG, **given))
        else:
            with mlpass.converting(CONFIG, **raised, **given):
                case.convert(inside)
        row |= {f"{method} after": snr(after, case), f"{method} inside": snr(inside, case)}
        row |= {f"{method} bytes": nbytes(after), f"{method} bytes inside": nbytes(inside)}
        row[f"{method} zeros"] = [zeros(after), zeros(inside)]
    return row


def pipeline(name: str, given: dict[str, Any]) -> ct.PassPipeline:
    """Returns a pipeline that prunes, on top of that of the client where it has one."""
    if name != "stablehlo-coreml":
        return mlpass.pipeline(CONFIG, **given)
    from stablehlo_coreml import build_pass_pipeline

    return mlpass.pipeline(CONFIG, base=build_pass_pipeline(), **given)


def zeros(path: Path) -> int:
    return sum(layer.zeros for layer in mlpass.inspect(path).layers)


def main() -> None:
    """Writes a row as JSON."""
    name, target, *packages = sys.argv[1:]
    logging.getLogger("coremltools").setLevel(logging.ERROR)
    tqdm.tqdm.__init__ = partialmethod(tqdm.tqdm.__init__, disable=True)
    with tempfile.TemporaryDirectory() as folder:
        row = measure(name, Path(folder))
    row["versions"] = {package: version(package) for package in ("coremltools", *packages)}
    Path(target).write_text(json.dumps(row))


if __name__ == "__main__":
    main()
