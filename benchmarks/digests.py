"""Prints a digest of what each of a fixed set of runs gives: a change can show it changed nothing.

    python benchmarks/digests.py > before.txt      # then change, then again, and diff

Data-free pruning in every mode, every method calibrated, joint storages, a sweep, a conversion with
a pipeline, and ten steps of fine-tuning. Equal lines are equal to the byte.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

import coremltools as ct
import numpy as np
import torch

import mlpass
from mlpass import (
    ADMM,
    NM,
    Block,
    Channel,
    Kernel,
    Magnitude,
    Percentile,
    SparseGPT,
    Threshold,
    Wanda,
)
from mlpass.finetune import MagnitudePruner, PolynomialDecay, to_module

FIXTURES = Path(__file__).resolve().parent.parent / "fixtures"

MODES = {
    "percentile": Percentile(0.5),
    "global": Percentile(0.5, scope="global"),
    "row": Percentile(0.5, scope="row"),
    "threshold": Threshold(0.02, 0.1),
    "2:4": NM(2, 4),
    "2:4 along outputs": NM(2, 4, dim=0),
    "block": Block(0.5, block_size=4),
    "kernel": Kernel(0.3),
    "channel": Channel(0.2),
}
METHODS = {
    "magnitude refit": (Percentile(0.5), {"method": Magnitude(refit=True)}),
    "wanda": (Percentile(0.5), {"method": Wanda()}),
    "sparsegpt": (Percentile(0.5), {"method": SparseGPT()}),
    "sparsegpt refit": (NM(2, 4), {"method": SparseGPT(refit=True)}),
    "admm": (Percentile(0.5), {"method": ADMM()}),
    "owl": (Percentile(0.5), {"allocate": "owl"}),
    "error": (Percentile(0.5), {"allocate": "error"}),
    "dense": (Percentile(0.5), {"propagate": "dense"}),
}
JOINT = {
    "int4": (Percentile(0.5), {"storage": "int4"}),
    "int8": (NM(2, 4), {"storage": "int8"}),
    "palette": (Percentile(0.5), {"storage": {"palettize": 4}}),
}


def digest(path: Path, report: object) -> str:
    """Returns a hash of a package's files and of its report; identifiers and times are left out."""
    content = hashlib.sha256(repr(report).encode())
    for file in sorted(path.rglob("*")):
        if file.is_file() and file.name != "Manifest.json":
            content.update(file.name.encode() + file.read_bytes())
    return content.hexdigest()[:16]


def figures(report: Mapping[str, object], folder: Path) -> str:
    """Returns a report as text without what differs between two runs alike."""
    kept = {
        key: value
        for key, value in report.items()
        if key not in ("seconds", "command", "latency", "date", "version")
    }
    text = json.dumps(kept, sort_keys=True, default=str)
    return text.replace(str(folder), "").replace(str(FIXTURES), "")


def samples_of(name: str, count: int) -> list[dict[str, np.ndarray]]:
    """Returns calibration samples of a fixture: its example input, moved a little each time."""
    draw = np.random.default_rng(0)
    with np.load(FIXTURES / f"{name}.npz") as stored:
        given = {key[6:]: stored[key] for key in stored.files if key.startswith("input:")}
    if name == "stateful_lm":  # one call a sample
        return [{key: array[number] for key, array in given.items()} for number in range(count)]
    samples = []
    for _ in range(count):
        samples.append({})
        for key, array in given.items():
            if array.dtype.kind == "f":
                moved = array + 0.3 * draw.standard_normal(array.shape).astype(array.dtype)
            else:
                moved = draw.integers(32, 127, array.shape).astype(array.dtype)
            samples[-1][key] = moved
    return samples


def small_model(package: Path) -> tuple[torch.jit.ScriptModule, list[dict[str, np.ndarray]]]:
    """Writes a small network as an iOS18 package; returns its torch source, and samples."""
    torch.manual_seed(0)
    layers = [torch.nn.Conv2d(3, 64, 3, padding=1), torch.nn.ReLU()]
    layers += [torch.nn.Conv2d(64, 64, 3, padding=1, groups=4), torch.nn.ReLU()]
    layers += [torch.nn.AvgPool2d(4), torch.nn.Flatten(), torch.nn.Linear(1024, 96)]
    traced = torch.jit.trace(torch.nn.Sequential(*layers).eval(), torch.zeros(1, 3, 16, 16))
    converted = ct.convert(
        traced,
        inputs=[ct.TensorType("x", shape=(1, 3, 16, 16))],
        minimum_deployment_target=ct.target.iOS18,
        skip_model_load=True,
    )
    converted.save(str(package))
    draw = np.random.default_rng(1)
    shape = (1, 3, 16, 16)
    samples = [{"x": draw.standard_normal(shape).astype(np.float32)} for _ in range(16)]
    return traced, samples


def runs(folder: Path, quick: bool) -> Iterator[tuple[str, str]]:
    """Yields the name and digest of one run after the other."""
    out = folder / "out.mlpackage"
    small = folder / "small.mlpackage"

    def pruned(source: Path, config: object, **options: object) -> str:
        report = mlpass.prune(source, out, config, force=True, **options)
        text = figures(report.to_dict(), folder)
        return digest(out, text)

    for name in ("tiny_lm", "branches", "digits_ios15"):
        for label, mode in MODES.items():
            yield f"data-free {name} {label}", pruned(FIXTURES / f"{name}.mlpackage", mode)
    for name in ("efficientnet_lite0", "tiny_lm", "stateful_lm", "silero_vad"):
        source, samples = FIXTURES / f"{name}.mlpackage", samples_of(name, 2 if quick else 6)
        for label, (mode, options) in METHODS.items():
            yield (
                f"{name} {label}",
                pruned(source, mode, sample_data=samples, target="own", **options),
            )
        joint = mlpass.inspect(source).functions[0].opset >= 18
        for label, (mode, options) in JOINT.items() if joint else ():
            yield (
                f"{name} {label}",
                pruned(source, mode, sample_data=samples, target="own", **options),
            )
    model, samples = small_model(small)
    for label, (mode, options) in JOINT.items():
        yield f"iOS18 {label}", pruned(small, mode, sample_data=samples, target="own", **options)
    sweep = mlpass.sweep(
        FIXTURES / "tiny_lm.mlpackage",
        samples_of("tiny_lm", 4),
        [
            Percentile(0.3),
            NM(2, 4),
            {"target_sparsity": 0.5, "method": "sparsegpt", "target": "own"},
        ],
    )
    yield "sweep", hashlib.sha256(figures(sweep.to_dict(), folder).encode()).hexdigest()[:16]
    converted = ct.convert(
        model,
        inputs=[ct.TensorType("x", shape=(1, 3, 16, 16))],
        minimum_deployment_target=ct.target.iOS18,
        pass_pipeline=mlpass.pipeline(
            NM(2, 4), method=SparseGPT(), sample_data=samples, target="own"
        ),
        skip_model_load=True,
    )
    shutil.rmtree(out, ignore_errors=True)
    converted.save(str(out))
    weights = hashlib.sha256(next(out.rglob("weight.bin")).read_bytes()).hexdigest()[:16]
    yield "pipeline", weights
    yield "fine-tuning", fine_tuned(small, samples, out)


def fine_tuned(source: Path, samples: list[dict[str, np.ndarray]], out: Path) -> str:
    """Returns the digest of a package after ten steps of fine-tuning."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    module = to_module(source)
    pruner = MagnitudePruner(module, Percentile(0.5), PolynomialDecay(update_steps=range(0, 10, 2)))
    pruner.prepare()
    optimizer = torch.optim.SGD(module.parameters(), 1e-2)
    for step in range(10):
        outputs = module(x=torch.from_numpy(samples[step % len(samples)]["x"]))
        loss = sum(value.square().mean() for value in outputs.values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        pruner.step()
    pruner.finalize(out, force=True)
    return digest(out, "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer samples")
    quick = parser.parse_args().quick
    warnings.filterwarnings("ignore")
    with tempfile.TemporaryDirectory() as folder:
        for name, value in runs(Path(folder), quick):
            print(value, name, flush=True)


if __name__ == "__main__":
    main()
