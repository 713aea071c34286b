"""Faults that are put into packages are found at the op that has them."""

from __future__ import annotations

import math
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mlpass
from mlpass import Config, Percentile, Quantized
from mlpass.program.proto import MIL
from tests.program.packages import FIXTURES, WEIGHTS, edit_spec, main_block, operations, read_spec

Edit = Callable[[Path], None]


@dataclass(frozen=True)
class Fault:
    """Something wrong with one op.

    Attributes:
        kind: of it.
        fixture: the package that it is put into.
        ops: names of what the ops make that it is to be found at, any of them.
        edit: puts it there.
        base: makes the package to compare with; the fixture itself where None.
    """

    kind: str
    fixture: str
    ops: tuple[str, ...]
    edit: Edit
    base: Edit | None = None


def samples_of(fixture: str) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    samples = []
    for _ in range(2):
        interpreter = mlpass.Interpreter(FIXTURES / f"{fixture}.mlpackage")
        samples.append(
            {
                one.name: rng.integers(0, 200, one.shape).astype(np.int32)
                if one.dtype == "int32"
                else rng.standard_normal(one.shape).astype(np.float32)
                for one in interpreter.inputs
            }
        )
    return samples


def readers(spec: Any, name: str) -> tuple[str, ...]:
    """Returns the names of what the ops make that read a value."""
    return tuple(
        operation.outputs[0].name
        for operation in operations(spec)
        if any(
            binding.name == name
            for argument in operation.inputs.values()
            for binding in argument.arguments
        )
    )


def maker(spec: Any, name: str) -> Any:
    return next(
        operation
        for operation in operations(spec)
        if any(output.name == name for output in operation.outputs)
    )


def scrambled(fixture: str, count: int) -> Iterator[Fault]:
    """Yields a fault for some of a package's weights: its halves change places."""
    spec = read_spec(FIXTURES / f"{fixture}.mlpackage")
    weights = [
        operation
        for operation in operations(spec)
        if operation.type == "const"
        and operation.attributes["val"].WhichOneof("value") == "blobFileValue"
        and math.prod(
            dimension.constant.size for dimension in operation.outputs[0].type.tensorType.dimensions
        )
        >= 512
        and readers(spec, operation.outputs[0].name)
    ]
    for operation in random.Random(fixture).sample(weights, min(count, len(weights))):
        offset = operation.attributes["val"].blobFileValue.offset

        def edit(package: Path, offset: int = offset) -> None:
            path = package / WEIGHTS
            with path.open("r+b") as file:
                file.seek(offset + 8)
                size, place = np.frombuffer(file.read(16), np.uint64).tolist()
                file.seek(place)
                data = file.read(size)
                half = size // 8 * 4
                file.seek(place)
                file.write(data[half:] + data[:half])

        yield Fault("scrambled weight", fixture, readers(spec, operation.outputs[0].name), edit)


def changed(fixture: str, op: str, parameter: str, change: Callable[[Any], None], count: int = 1):
    """Yields a fault for the first ops of a type: what the program states for a parameter."""
    spec = read_spec(FIXTURES / f"{fixture}.mlpackage")
    found = [one for one in operations(spec) if one.type == op and parameter in one.inputs]
    assert found, (fixture, op, parameter)
    for operation in found[:: max(1, len(found) // count)][:count]:
        name = operation.outputs[0].name

        def edit(package: Path, name: str = name) -> None:
            def into(spec: Any) -> None:
                (binding,) = maker(spec, name).inputs[parameter].arguments
                shared = maker(spec, binding.name)
                own = type(shared)()
                own.CopyFrom(shared)
                own.outputs[0].name = own.attributes["name"].immediateValue.tensor.strings.values[
                    0
                ] = "a_value_of_its_own"
                value = own.attributes["val"]
                assert value.WhichOneof("value") == "immediateValue"
                change(value.immediateValue.tensor)
                binding.name = own.outputs[0].name
                block = main_block(spec)
                block.operations.insert(0, own)

            edit_spec(package, into)

        yield Fault(f"{op}'s {parameter}", fixture, (name,), edit)


def cast_early(fixture: str, count: int) -> Iterator[Fault]:
    """Yields a fault for some ops of an fp32 program: what they read went through fp16 before."""
    spec = read_spec(FIXTURES / f"{fixture}.mlpackage")
    makers = {output.name: one.type for one in operations(spec) for output in one.outputs}
    found = [
        one
        for one in operations(spec)
        if one.type in ("conv", "mul", "reduce_sum", "batch_norm", "relu", "sigmoid", "log")
        and makers.get(one.inputs["x"].arguments[0].name, "const") not in ("const", "reshape")
    ]
    for operation in random.Random(fixture).sample(found, count):
        name = operation.outputs[0].name

        def edit(package: Path, name: str = name) -> None:
            def into(spec: Any) -> None:
                block, reader = main_block(spec), maker(spec, name)
                source = reader.inputs["x"].arguments[0].name
                kind = maker(spec, source).outputs[0].type
                place = next(i for i, one in enumerate(block.operations) if one == reader)
                for dtype, title in (("fp16", "narrow"), ("fp32", "wide")):
                    text = MIL.Operation(type="const")
                    text.outputs.add(name=f"{title}_dtype").type.tensorType.dataType = 2
                    stated = text.attributes["val"]
                    stated.type.tensorType.dataType = 2
                    stated.immediateValue.tensor.strings.values.append(dtype)
                    cast = MIL.Operation(type="cast")
                    cast.inputs["x"].arguments.add(name=source)
                    cast.inputs["dtype"].arguments.add(name=f"{title}_dtype")
                    made = cast.outputs.add(name=f"too_{title}")
                    made.type.CopyFrom(kind)
                    made.type.tensorType.dataType = 10 if dtype == "fp16" else 11
                    block.operations.insert(place, text)
                    block.operations.insert(place + 1, cast)
                    place, source = place + 2, made.name
                maker(spec, name).inputs["x"].arguments[0].name = source

            edit_spec(package, into)

        yield Fault("cast too early", fixture, ("too_narrow",), edit)


def doubled(fixture: str) -> Iterator[Fault]:
    """Yields a fault for each quantized weight: its scales are twice as large."""
    spec = read_spec(FIXTURES / f"{fixture}.mlpackage")
    for operation in operations(spec):
        if operation.type != "constexpr_blockwise_shift_scale":
            continue
        offset = operation.inputs["scale"].arguments[0].value.blobFileValue.offset

        def edit(package: Path, offset: int = offset) -> None:
            with (package / WEIGHTS).open("r+b") as file:
                file.seek(offset + 8)
                size, place = np.frombuffer(file.read(16), np.uint64).tolist()
                file.seek(place)
                scales = np.frombuffer(file.read(size), np.float16)
                file.seek(place)
                file.write((2 * scales).tobytes())

        yield Fault("scale doubled", fixture, readers(spec, operation.outputs[0].name), edit)


def broken_layer(fixture: str, count: int, method: Any) -> Iterator[Fault]:
    """Yields a fault for some weights: all are int8, one is ruined by zeros."""
    model = FIXTURES / f"{fixture}.mlpackage"
    spec = read_spec(model)
    layers = [one for one in mlpass.inspect(model).layers if not one.skipped]
    given = {"sample_data": samples_of(fixture), "method": method} if method else {}
    for layer in random.Random(fixture).sample(layers, count):

        def edit(package: Path, name: str = layer.name) -> None:
            made = package.with_name("made.mlpackage")
            config = Config(global_config=Percentile(0), op_name_configs={name: Percentile(0.9)})
            mlpass.prune(
                package,
                made,
                config,
                storage=Quantized("int8"),
                minimum_deployment_target="iOS18",
                **given,
            )
            shutil.rmtree(package)
            made.rename(package)

        kind = "one layer broken" + (" (calibrated)" if method else "")
        yield Fault(kind, fixture, readers(spec, layer.name), edit)


def times(factor: float) -> Callable[[Any], None]:
    def change(tensor: Any) -> None:
        if tensor.WhichOneof("value") == "bytes":
            values = np.frombuffer(tensor.bytes.values, np.float16)
            tensor.bytes.values = (values * np.float16(factor)).tobytes()
        else:
            field = getattr(tensor, tensor.WhichOneof("value"))
            field.values[:] = [value * factor for value in field.values]

    return change


def to(*values: Any) -> Callable[[Any], None]:
    def change(tensor: Any) -> None:
        getattr(tensor, tensor.WhichOneof("value")).values[:] = values

    return change


def faults() -> Iterator[Fault]:
    yield from scrambled("tiny_lm", 9)
    yield from scrambled("silero_vad", 5)
    yield from scrambled("digits_ios15", 4)
    yield from changed("tiny_lm", "rsqrt", "epsilon", times(1e10), 3)
    yield from changed("tiny_lm", "softmax", "axis", to(-2), 2)
    yield from changed("tiny_lm", "pow", "y", times(0.5), 2)
    yield from changed("tiny_lm", "transpose", "perm", to(0, 1, 3, 2), 2)
    yield from changed("tiny_lm", "matmul", "transpose_y", lambda t: to(not t.bools.values[0])(t))
    yield from changed("silero_vad", "pad", "mode", to("constant"))
    yield from changed("basic_pitch", "pad", "constant_val", to(0.5), 2)
    yield from changed("basic_pitch", "batch_norm", "epsilon", times(1e3))
    yield from changed("digits_ios15", "max_pool", "strides", to(1, 1), 2)
    yield from cast_early("basic_pitch", 8)
    yield from doubled("quantized_digits")
    yield from broken_layer("tiny_lm", 6, None)
    yield from broken_layer("tiny_lm", 3, mlpass.SparseGPT())


@pytest.mark.slow
def test_planted_faults_are_found(tmp_path):
    every, missed = list(faults()), []
    for number, fault in enumerate(every):
        source = FIXTURES / f"{fault.fixture}.mlpackage"
        package = tmp_path / f"{number}.mlpackage"
        shutil.copytree(source, package)
        fault.edit(package)
        location = mlpass.locate(source, package, samples_of(fault.fixture))
        found = location.worst[0] if location.worst else None
        hit = found is not None and found.name in (*fault.ops, *names_of(source, fault.ops))
        print(f"{'found ' if hit else 'MISSED'} {fault.kind:32} {fault.fixture:16} {found}")
        if not hit:
            missed.append(fault)
        shutil.rmtree(package)
    assert len(every) >= 50
    assert len(every) - len(missed) >= 48, missed


def names_of(source: Path, outputs: tuple[str, ...]) -> list[str]:
    """Returns the names of the ops that make some values."""
    return [
        operation.attributes["name"].immediateValue.tensor.strings.values[0]
        for operation in operations(read_spec(source))
        if "name" in operation.attributes and operation.outputs[0].name in outputs
    ]
