"""Inspects and prunes programs of many ops, to show that what they take grows in step with the ops.

A program has 200 functions, each with weights of its own, and one more of 44 blocks in each other.
Every measurement is a process of its own: processor time above the imports.

    python benchmarks/bench_ops.py                          # 5000 to 40000 ops
    python benchmarks/bench_ops.py --ops 20000 --runs 5
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np
from bench_prune import machine, run
from coremltools.converters.mil.mil import Builder, types

from mlpass.program.blobs import BlobWriter
from mlpass.program.dtypes import BY_NAME
from mlpass.program.proto import Model

FUNCTIONS, BLOCKS, WIDTH = 200, 44, 64
LAYER = 7  # ops of one layer, its constants included
MODEL, WEIGHTS = "Data/com.apple.CoreML/model.mlmodel", "Data/com.apple.CoreML/weights/weight.bin"

MEASURE = """
import sys, time
import mlpass, mlpass.examine.inspect, mlpass.pruning.prune
mlpass.inspect, mlpass.prune
start = time.process_time()
{work}
print(time.process_time() - start)
"""
WORK = {
    "inspect": "mlpass.inspect(sys.argv[1])",
    "prune": "mlpass.prune(*sys.argv[1:3], mlpass.Percentile(0.5), force=True)",
}


def main() -> None:
    """Writes the programs, measures, and prints a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ops", type=int, nargs="+", default=[5000, 10_000, 20_000, 40_000])
    parser.add_argument("--runs", type=int, default=3, help="measurements of each, median shown")
    options = parser.parse_args()

    print(machine())
    print("| ops | weights | inspect, s of CPU | prune, s of CPU |\n| ---: | ---: | ---: | ---: |")
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "many.mlpackage"), Path(folder, "out.mlpackage")
        for wanted in options.ops:
            ops, weights = write(source, wanted)
            row = [
                statistics.median(
                    float(run(MEASURE.format(work=work), source, target).splitlines()[-1])
                    for _ in range(options.runs)
                )
                for work in WORK.values()
            ]
            print(f"| {ops} | {weights} | {row[0]:.2f} | {row[1]:.2f} |", flush=True)


def write(package: Path, wanted: int) -> tuple[int, int]:
    """Writes a package of about so many ops; returns how many it has, and how many weights."""
    layers = wanted // FUNCTIONS // LAYER
    pattern, spec = (converted(build) for build in (stack(layers), nested))
    spec.save(str(package))
    message = Model()
    message.ParseFromString((package / MODEL).read_bytes())
    functions = message.mlProgram.functions
    main = pattern.get_spec().mlProgram.functions["main"]
    for number in range(FUNCTIONS):
        functions[f"function_{number}"].CopyFrom(main)
    (package / WEIGHTS).unlink(missing_ok=True)
    (package / WEIGHTS).parent.mkdir(exist_ok=True)
    writer, draw = BlobWriter(package / WEIGHTS), np.random.default_rng(0)
    ops = weights = 0
    for function in functions.values():
        (block,) = function.block_specializations.values()
        ops += count(block)
        for op in block.operations:
            if op.type == "const" and op.attributes["val"].HasField("blobFileValue"):
                value = op.attributes["val"]
                sizes = [each.constant.size for each in value.type.tensorType.dimensions]
                array = draw.standard_normal(sizes).astype(np.float16)
                offset = writer.write(array.reshape(-1).view(np.uint8), BY_NAME["fp16"], array.size)
                value.blobFileValue.offset = offset
                weights += len(sizes) > 1
    writer.close()
    (package / MODEL).write_bytes(message.SerializeToString())
    return ops, weights


def count(block: Any) -> int:
    """Returns how many ops a block's message has, those of its inner blocks included."""
    return sum(1 + sum(map(count, op.blocks)) for op in block.operations)


def converted(build: Callable[[Any], Any]) -> ct.models.MLModel:
    """Returns the model of one function."""
    spec = Builder.TensorSpec(shape=(1, WIDTH), dtype=types.fp16)
    return ct.convert(
        Builder.program(input_specs=[spec], opset_version=ct.target.iOS18)(build),
        convert_to="mlprogram",
        minimum_deployment_target=ct.target.iOS18,
        pass_pipeline=ct.PassPipeline.EMPTY,
        skip_model_load=True,
    )


def stack(layers: int) -> Callable[[Any], Any]:
    """Returns what builds so many layers, each of `LAYER` ops."""

    def build(x: Any) -> Any:
        for _ in range(layers):
            weight = np.ones((WIDTH, WIDTH), np.float16)
            y = Builder.relu(x=Builder.linear(x=x, weight=weight, bias=np.ones(WIDTH, np.float16)))
            x = Builder.add(x=x, y=Builder.mul(x=y, y=np.float16(0.5)))
        return x

    return build


def nested(x: Any) -> Any:
    """Builds a condition in a condition, and so on."""

    def deeper(depth: int) -> Any:
        if depth == 0:
            return Builder.relu(x=x)
        above = Builder.greater(x=Builder.reduce_max(x=x, keep_dims=False), y=np.float16(depth))
        return Builder.cond(
            pred=above, _true_fn=lambda: deeper(depth - 1), _false_fn=lambda: Builder.sigmoid(x=x)
        )

    return deeper(BLOCKS)


if __name__ == "__main__":
    main()
