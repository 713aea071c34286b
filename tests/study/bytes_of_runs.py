"""Prints a digest of what each kind of run makes: run with `-m`, in main or in other threads."""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

import mlpass
from mlpass import ADMM, NM, Block, Magnitude, Percentile, SparseGPT, Wanda
from tests.program.packages import tree

MODEL = Path(__file__).parents[2] / "fixtures" / "tiny_lm.mlpackage"
METHODS = (Magnitude(refit=True), Wanda(refit=True), SparseGPT(), SparseGPT(refit=True), ADMM())


def _samples() -> list[dict[str, np.ndarray]]:
    with np.load(MODEL.with_suffix(".npz")) as truth:
        tokens = truth["input:tokens"]
    return [{"tokens": np.roll(tokens, 17 * number, axis=1)} for number in range(4)]


def _pruned(folder: Path) -> Iterator[tuple[str, str]]:
    for mode in (Percentile(0.5), Percentile(0.5, scope="global"), NM(2, 4), Block(0.5, 4)):
        out = folder / "out.mlpackage"
        mlpass.prune(MODEL, out, mode, force=True)
        yield str(mode), str(sorted(tree(out).items()))
    for method in METHODS:
        out = folder / "out.mlpackage"
        mlpass.prune(MODEL, out, Percentile(0.5), method=method, sample_data=_samples(), force=True)
        yield str(method), str(sorted(tree(out).items()))


def _swept(folder: Path) -> Iterator[tuple[str, str]]:
    out = folder / "report.json"
    configs = [Percentile(0.5), NM(2, 4), {"target_sparsity": 0.5, "method": "sparsegpt"}]
    mlpass.sweep(MODEL, _samples()[:2], configs, output=out, force=True, command="")
    content = json.loads(out.read_text())
    yield "sweep", json.dumps({**content, "seconds": 0, "date": ""})


def _finetuned(folder: Path) -> Iterator[tuple[str, str]]:
    from mlpass.finetune import finetune

    out = folder / "out.mlpackage"
    finetune(MODEL, out, Percentile(0.5), _samples(), steps=3, batch_size=2, force=True)
    yield "finetune", str(sorted(tree(out).items()))


def _digests() -> list[str]:
    lines = []
    with tempfile.TemporaryDirectory() as name:
        for part in (_pruned, _swept, _finetuned):
            for what, content in part(Path(name)):
                lines.append(f"{what} {hashlib.sha256(content.encode()).hexdigest()}")
    return lines


if __name__ == "__main__":
    if sys.argv[1] == "main":
        found = [_digests()]
    else:
        with ThreadPoolExecutor(2) as pool:
            found = [each.result() for each in [pool.submit(_digests) for _ in range(2)]]
    for each in found:
        print(*each, sep="\n")
