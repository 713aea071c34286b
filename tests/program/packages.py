"""Packages to break: copies of fixtures, and edits of their messages and files."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mlpass import Config, Percentile, prune
from mlpass.program.blobs import BlobWriter
from mlpass.program.dtypes import BY_NAME, pack_elements
from mlpass.program.messages import all_operations
from mlpass.program.proto import MIL, Model

FIXTURES = Path(__file__).parents[2] / "fixtures"
MODEL = "Data/com.apple.CoreML/model.mlmodel"
WEIGHTS = "Data/com.apple.CoreML/weights/weight.bin"


def copy_fixture(name: str, directory: Path) -> Path:
    """Returns a copy of a fixture package, in `directory`."""
    return Path(shutil.copytree(FIXTURES / f"{name}.mlpackage", directory / f"{name}.mlpackage"))


def read_spec(package: Path) -> Any:
    """Returns the model message of a package."""
    return Model.FromString((package / MODEL).read_bytes())


def write_spec(package: Path, spec: Any) -> None:
    """Puts another model message into a package."""
    (package / MODEL).write_bytes(spec.SerializeToString())


def edit_spec(package: Path, edit: Callable[[Any], Any]) -> None:
    """Has `edit` change the model message of a package in place."""
    spec = read_spec(package)
    edit(spec)
    write_spec(package, spec)


def edit_manifest(package: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    """Has `edit` change the manifest of a package in place."""
    manifest = package / "Manifest.json"
    content = json.loads(manifest.read_text())
    edit(content)
    manifest.write_text(json.dumps(content))


def edit_bytes(path: Path, offset: int, data: bytes) -> None:
    """Overwrites a part of a file."""
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def main_function(spec: Any) -> Any:
    """Returns the first function of an ML Program's message."""
    functions = spec.mlProgram.functions
    return functions[min(functions)]


def main_block(spec: Any) -> Any:
    """Returns the block of the first function of an ML Program's message."""
    function = main_function(spec)
    return function.block_specializations[function.opset]


def operations(spec: Any) -> list[Any]:
    """Returns every operation message of every part and function of a model."""
    if spec.WhichOneof("Type") == "pipeline":
        return [operation for part in spec.pipeline.models for operation in operations(part)]
    return [
        operation
        for function in spec.mlProgram.functions.values()
        for block in function.block_specializations.values()
        for _, operation in all_operations(block)
    ]


def file_values(spec: Any) -> list[Any]:
    """Returns every value message that is stored in a weight file, that of an op's val or input."""
    found = []
    for operation in operations(spec):
        values = list(operation.attributes.values())
        for argument in operation.inputs.values():
            values += [binding.value for binding in argument.arguments]
        found += [value for value in values if value.WhichOneof("value") == "blobFileValue"]
    return found


def first_of(spec: Any, op_type: str) -> Any:
    """Returns the first operation message of a type."""
    return next(operation for operation in operations(spec) if operation.type == op_type)


def sizes_of(value: Any) -> list[int]:
    """Returns the shape that a value or value type message states."""
    return [dimension.constant.size for dimension in value.type.tensorType.dimensions]


def set_shape(value: Any, *shape: int) -> None:
    """States another shape in a value or named value type message."""
    tensor = value.type.tensorType
    del tensor.dimensions[:]
    tensor.rank = len(shape)
    for size in shape:
        tensor.dimensions.add().constant.size = size


def tree(package: Path) -> dict[str, str]:
    """Returns a digest of each file and link below a directory, by relative path."""
    found = {}
    for directory, directories, names in os.walk(package):
        for path in (Path(directory, name) for name in (*directories, *names)):
            label = str(path.relative_to(package))
            if path.is_symlink():
                found[label] = f"-> {os.readlink(path)}"
            elif path.is_dir():
                found[label] = "directory"
            elif path.is_file():
                found[label] = hashlib.sha256(path.read_bytes()).hexdigest()
            else:
                found[label] = "special"
    return found


class Hang(BaseException):
    """Raised by `time_limit`. The command catches `TimeoutError`, which is an `OSError`."""


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raises Hang where what it is around takes longer."""

    def stop(number: int, frame: object) -> None:
        raise Hang(f"still running after {seconds} seconds")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def linear_stack(package: Path, layers: int, size: int, seed: int = 0) -> Path:
    """Writes and returns a package of fp16 `linear` layers, size x size, one after another."""
    generator = np.random.default_rng(seed)
    weights = package / WEIGHTS
    weights.parent.mkdir(parents=True)
    spec = Model(specificationVersion=8)
    function = spec.mlProgram.functions["main"]
    function.opset = "CoreML7"
    block = function.block_specializations["CoreML7"]
    spec.mlProgram.version = 1
    typed(function.inputs.add(name="x"), 1, size, dtype="fp16")
    writer, fp16 = BlobWriter(weights), BY_NAME["fp16"]
    previous = "x"
    for layer in range(layers):
        weight = generator.standard_normal((size, size), np.float32).astype(np.float16)
        offset = writer.write(pack_elements(weight, fp16), fp16, weight.size)
        add_file_const(block, f"weight_{layer}", "fp16", (size, size), offset)
        linear = block.operations.add(type="linear")
        linear.inputs["x"].arguments.add(name=previous)
        linear.inputs["weight"].arguments.add(name=f"weight_{layer}")
        previous = f"y_{layer}"
        typed(linear.outputs.add(name=previous), 1, size, dtype="fp16")
    block.outputs.append(previous)
    writer.close()
    write_manifest(package)
    write_spec(package, spec)
    return package


def write_manifest(package: Path) -> None:
    """Writes the manifest of a package with a model and a weights directory."""
    entries = {
        "model": {"author": "test", "name": "model.mlmodel", "path": MODEL.removeprefix("Data/")},
        "weights": {"author": "test", "name": "weights", "path": "com.apple.CoreML/weights"},
    }
    content = {
        "fileFormatVersion": "1.0.0",
        "itemInfoEntries": entries,
        "rootModelIdentifier": "model",
    }
    (package / "Manifest.json").write_text(json.dumps(content))


def add_file_const(
    block: Any, name: str, dtype: str, shape: tuple[int, ...], offset: int, index: int | None = None
) -> Any:
    """Adds to a block message, and returns, a const op whose value is a blob of weight.bin."""
    operation = MIL.Operation(type="const")
    named(operation, name)
    value = operation.attributes["val"]
    typed(value, *shape, dtype=dtype)
    value.blobFileValue.fileName = "@model_path/weights/weight.bin"
    value.blobFileValue.offset = offset
    typed(operation.outputs.add(name=name), *shape, dtype=dtype)
    block.operations.insert(len(block.operations) if index is None else index, operation)
    return operation


def typed(message: Any, *shape: int, dtype: str = "fp32") -> Any:
    """Returns a message after giving it the type of a tensor."""
    message.type.tensorType.dataType = BY_NAME[dtype].proto
    set_shape(message, *shape)
    return message


def named(operation: Any, name: str) -> None:
    """Gives an operation its name."""
    label = typed(operation.attributes["name"], dtype="string")
    label.immediateValue.tensor.strings.values.append(name)


def neural_network() -> Any:
    """Returns the message of a model that is not an ML Program."""
    spec = Model(specificationVersion=4)
    spec.neuralNetwork.SetInParent()
    return spec


def unlisted(package: Path) -> Path:
    """Returns the path of something in a package that nothing refers to."""
    return package / "Data" / "extra"


def pruned(package: Path, output: Path) -> Path:
    """Prunes a package at half its weights and returns where the result is."""
    prune(package, output, Config(global_config=Percentile(0.5), weight_threshold=512))
    return output
