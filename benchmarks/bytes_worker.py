"""One run of bench_bytes.py: writes a package in a form, judges it, and prints JSON.

python benchmarks/bytes_worker.py MODEL TOOL FORM SAMPLES:TARGET BACKEND
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench_cache import weight_bytes
from bench_cases import CASES, Case
from bytes_forms import BUDGETS, FORMS, by_coremltools

import mlpass


def main() -> None:
    """Runs what the arguments say."""
    name, tool, form, calibrated, backend = sys.argv[1:]
    samples, aim = calibrated.split(":")
    case = CASES[name]()
    source = case.package(18)
    result: dict[str, Any] = {"dense_bytes": weight_bytes(source)}
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder, "made.mlpackage")
        began = time.perf_counter()
        if form == "fp16":
            target = source
        elif tool == "coremltools":
            by_coremltools(source, target, FORMS[form])
        else:
            given: dict[str, Any] = {}
            if tool == "mlpass":  # and none for "mlpass, no data"
                given = {"sample_data": case.samples(int(samples)), "target": aim}
                given["backend"] = backend
            result |= by_mlpass(case, source, target, form, given)
        result["seconds"] = time.perf_counter() - began
        result["weight_bytes"] = weight_bytes(target)
        result["package_bytes"] = sum(
            file.stat().st_size for file in target.rglob("*") if file.is_file()
        )
        interpreter = mlpass.Interpreter(target, backend="torch")
        print(json.dumps(result | case.figures(interpreter.predict)))


def by_mlpass(
    case: Case, source: Path, target: Path, form: str, given: dict[str, Any]
) -> dict[str, Any]:
    """Writes the package by mlpass, and returns what its report says of a budget."""
    if form in BUDGETS:
        report = mlpass.prune(source, target, **BUDGETS[form], **given)
        return {"budget": asdict(report.budget)}
    wanted = FORMS[form]
    config = None
    if wanted.sparsity:
        layers = mlpass.inspect(source).layers
        spared = {each.name: mlpass.Percentile(0) for each in layers if case.spared(each)}
        config = mlpass.Config(
            global_config=mlpass.Percentile(wanted.sparsity), op_name_configs=spared
        )
    mlpass.prune(source, target, config, storage=wanted.storage, **given)
    return {}


if __name__ == "__main__":
    main()
