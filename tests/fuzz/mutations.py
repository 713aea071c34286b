"""Changes of a MIL program's message, each of which leaves it a message: unlike a flipped byte."""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableSequence
from random import Random
from typing import Any, NamedTuple

from mlpass.program.dtypes import BY_PROTO
from tests.program.packages import file_values, operations

SIZES = (0, 1, 2, 3, 7, 255, 1 << 16, (1 << 31) - 1, 1 << 32, (1 << 63) - 1, 1 << 63, (1 << 64) - 1)
INTS = (-(1 << 31), -7, -2, -1, 0, 1, 2, 3, 5, 64, 1000, (1 << 31) - 1)
FLOATS = (float("nan"), float("inf"), float("-inf"), -1.0, 0.0, 1e-30, 0.5, 1e30)
TEXTS = ("", "same", "custom", "fp16", "int32", "nchw,nwhu->nchu", "a", "\x1b[31m\n", "x" * 300)


class Names(NamedTuple):
    """What occurs in a program, to be put in wrong places."""

    values: list[str]
    types: list[str]
    parameters: list[str]


def names_of(spec: Any) -> Names:
    """Returns the names in a model."""
    ops = operations(spec)
    values = {output.name for op in ops for output in op.outputs}
    parameters = {parameter for op in ops for parameter in op.inputs}
    types = {op.type for op in ops}
    return Names(sorted(values), sorted(types | {"", "gelu", "while_loop"}), sorted(parameters))


def mutate(generator: Random, spec: Any, names: Names) -> str:
    """Changes a model's message in one place, and returns what was done.

    Where earlier changes left no op, nothing is done.
    """
    while operations(spec):
        change = generator.choice(CHANGES)
        if change(generator, spec, names):
            return change.__name__
    return "nothing"


def _op(generator: Random, spec: Any, *, reading: bool = True) -> Any:
    """Returns an op of the model, with inputs where that is asked for; None without such an op."""
    found = [op for op in operations(spec) if op.inputs or not reading]
    return generator.choice(found) if found else None


def _argument(generator: Random, op: Any) -> Any:
    return op.inputs[generator.choice(sorted(op.inputs))]


def _binding(generator: Random, spec: Any) -> Any:
    """Returns where an op reads a name; None where the op that was drawn reads none."""
    op = _op(generator, spec)
    arguments = list(_argument(generator, op).arguments) if op else []
    return generator.choice(arguments) if arguments else None


def drop_input(generator: Random, spec: Any, names: Names) -> bool:
    op = _op(generator, spec)
    if op is None:
        return False
    del op.inputs[generator.choice(sorted(op.inputs))]
    return True


def add_input(generator: Random, spec: Any, names: Names) -> bool:
    op = _op(generator, spec, reading=False)
    parameter = generator.choice([*names.parameters, "extra"])
    op.inputs[parameter].arguments.add(name=generator.choice(names.values))
    return True


def duplicate_argument(generator: Random, spec: Any, names: Names) -> bool:
    op = _op(generator, spec)
    if op is None:
        return False
    argument = _argument(generator, op)
    for one in list(argument.arguments)[:1]:
        argument.arguments.add().CopyFrom(one)
    return True


def empty_argument(generator: Random, spec: Any, names: Names) -> bool:
    op = _op(generator, spec)
    if op is None:
        return False
    del _argument(generator, op).arguments[:]
    return True


def swap_inputs(generator: Random, spec: Any, names: Names) -> bool:
    op = _op(generator, spec)
    if op is None or len(op.inputs) < 2:
        return False
    first, second = (op.inputs[key] for key in generator.sample(sorted(op.inputs), 2))
    kept = type(first)()
    kept.CopyFrom(first)
    first.CopyFrom(second)
    second.CopyFrom(kept)
    return True


def rewire(generator: Random, spec: Any, names: Names) -> bool:
    """Reads another value: one of another shape, one that comes later, or one that is not there."""
    binding = _binding(generator, spec)
    if binding is None:
        return False
    binding.name = generator.choice([*names.values, *names.values, "nowhere"])
    return True


def close_cycle(generator: Random, spec: Any, names: Names) -> bool:
    op = _op(generator, spec)
    if op is None or not op.outputs:
        return False
    for binding in list(_argument(generator, op).arguments)[:1]:
        binding.name = op.outputs[0].name
    return True


def rename_output(generator: Random, spec: Any, names: Names) -> bool:
    op = _op(generator, spec, reading=False)
    if not op.outputs:
        return False
    generator.choice(list(op.outputs)).name = generator.choice([*names.values, "", *TEXTS])
    return True


def change_outputs(generator: Random, spec: Any, names: Names) -> bool:
    """Gives an op one output more or less."""
    op = _op(generator, spec, reading=False)
    if op.outputs and generator.random() < 0.5:
        del op.outputs[generator.randrange(len(op.outputs))]
    else:
        other = generator.choice([one for one in operations(spec) if one.outputs])
        op.outputs.add().CopyFrom(other.outputs[0])
    return True


def change_op(generator: Random, spec: Any, names: Names) -> bool:
    _op(generator, spec, reading=False).type = generator.choice(names.types)
    return True


def _blocks(spec: Any) -> Iterator[Any]:
    programs = [spec]
    while programs:
        model = programs.pop()
        if model.WhichOneof("Type") == "pipeline":
            programs += model.pipeline.models
        for function in model.mlProgram.functions.values():
            blocks = list(function.block_specializations.values())
            while blocks:
                block = blocks.pop()
                yield block
                blocks += [inner for op in block.operations for inner in op.blocks]


def move_op(generator: Random, spec: Any, names: Names) -> bool:
    """Drops an op, repeats it, or lets it change places with another."""
    block = generator.choice([block for block in _blocks(spec) if block.operations])
    ops = block.operations
    first, second = generator.randrange(len(ops)), generator.randrange(len(ops))
    kind = generator.randrange(3)
    if kind == 0:
        del ops[first]
    elif kind == 1:
        copied = type(ops[first])()
        copied.CopyFrom(ops[first])
        ops.insert(second, copied)
    else:
        kept = type(ops[first])()
        kept.CopyFrom(ops[first])
        ops[first].CopyFrom(ops[second])
        ops[second].CopyFrom(kept)
    return True


def change_block(generator: Random, spec: Any, names: Names) -> bool:
    """Changes what a block gives, or is given."""
    block = generator.choice(list(_blocks(spec)))
    kind = generator.randrange(4)
    if kind == 0 and block.outputs:
        del block.outputs[generator.randrange(len(block.outputs))]
    elif kind == 1 and block.outputs:
        block.outputs[generator.randrange(len(block.outputs))] = generator.choice(names.values)
    elif kind == 2 and block.inputs:
        del block.inputs[generator.randrange(len(block.inputs))]
    else:
        block.outputs.append(generator.choice(names.values))
    return True


def change_interface(generator: Random, spec: Any, names: Names) -> bool:
    """Changes what the model, or its function, says it is given and gives."""
    features = [*spec.description.input, *spec.description.output, *spec.description.state]
    functions = list(spec.mlProgram.functions.values())
    kind = generator.randrange(5)
    if kind == 0 and features:
        generator.choice(features).ClearField("type")
    elif kind == 1 and features:
        generator.choice(features).name = generator.choice(names.values)
    elif kind == 2 and features:
        chosen = generator.choice(features).type
        getattr(chosen, generator.choice(("int64Type", "stringType", "sequenceType"))).SetInParent()
    elif kind == 3 and any(function.inputs for function in functions):
        value = generator.choice([one for function in functions for one in function.inputs])
        kept = type(value.type)()
        kept.CopyFrom(value.type)
        value.type.stateType.wrappedType.CopyFrom(kept)
    elif functions:
        function = generator.choice(functions)
        if function.inputs:
            generator.choice(list(function.inputs)).name = generator.choice(names.values)
    return True


def _types(spec: Any) -> Iterator[Any]:
    for op in operations(spec):
        for value in _values(op):
            yield value.type
        for output in op.outputs:
            yield output.type


def _values(op: Any) -> Iterator[Any]:
    """Yields the value messages of an op."""
    yield from op.attributes.values()
    for argument in op.inputs.values():
        for binding in argument.arguments:
            if binding.WhichOneof("binding") == "value":
                yield binding.value


def change_type(generator: Random, spec: Any, names: Names) -> bool:
    """Gives a value another element type, rank or size."""
    kinds = [kind for kind in _types(spec) if kind.WhichOneof("type") == "tensorType"]
    if not kinds:
        return False
    tensor = generator.choice(kinds).tensorType
    kind = generator.randrange(5)
    if kind == 0:
        tensor.dataType = generator.choice(sorted(BY_PROTO))
    elif kind == 1 and tensor.dimensions:
        del tensor.dimensions[generator.randrange(len(tensor.dimensions))]
    elif kind == 2:
        tensor.dimensions.add().constant.size = generator.choice(SIZES[:6])
    elif kind == 3 and tensor.dimensions:
        generator.choice(list(tensor.dimensions)).unknown.SetInParent()
    elif tensor.dimensions:
        generator.choice(list(tensor.dimensions)).constant.size = generator.choice(SIZES)
    tensor.rank = len(tensor.dimensions)
    return True


def steer(generator: Random, spec: Any, names: Names) -> bool:
    """Changes one of the numbers, flags or texts that say how an op works."""
    found = []
    for op in operations(spec):
        for key, value in (*op.attributes.items(), *((None, value) for value in _values(op))):
            kind = value.immediateValue.tensor.WhichOneof("value")
            held = getattr(value.immediateValue.tensor, kind) if kind else None
            if key != "name" and kind in _NEW and held.values:
                found.append((kind, held.values))
    if not found:
        return False
    kind, values = generator.choice(found)
    if generator.random() < 0.15:
        del values[generator.randrange(len(values))]
    else:
        values[generator.randrange(len(values))] = generator.choice(_NEW[kind])
    return True


_NEW: dict[str, tuple[Any, ...]] = {
    "ints": INTS,
    "longInts": INTS,
    "floats": FLOATS,
    "doubles": FLOATS,
    "bools": (True, False),
    "strings": TEXTS,
}


def change_blob(generator: Random, spec: Any, names: Names) -> bool:
    """Lets a weight be elsewhere: over another one, between two, beyond the file, in no file."""
    values = file_values(spec)
    if not values:
        return False
    blob = generator.choice(values).blobFileValue
    other = generator.choice(values).blobFileValue.offset
    kind = generator.randrange(5)
    if kind == 0:
        blob.offset = other
    elif kind == 1:
        blob.offset = other + generator.choice((1, 32, 64, 128, 4096))
    elif kind == 2:
        blob.offset = generator.choice(SIZES)
    elif kind == 3:
        blob.fileName = generator.choice(
            ("", "@model_path/weights/none.bin", "@model_path/../../Manifest.json", "/etc/passwd")
        )
    else:
        blob.offset = max(0, blob.offset - generator.choice((1, 32, 64)))
    return True


def edit_message(generator: Random, spec: Any, names: Names) -> bool:
    """Changes any field of any message within the model."""
    candidates = [message for message in _messages(spec) if message.ListFields()]
    message = generator.choice(candidates)
    field, value = generator.choice(message.ListFields())
    is_message, is_repeated = field.type == field.TYPE_MESSAGE, isinstance(value, MutableSequence)
    if is_message and field.message_type.GetOptions().map_entry:
        del value[generator.choice(sorted(value))]
    elif is_repeated and generator.random() < 0.5:
        del value[generator.randrange(len(value))]
    elif is_repeated and is_message:
        value.add().CopyFrom(generator.choice(list(value)))
    elif is_repeated:
        value.append(generator.choice(list(value)))
    elif is_message and generator.random() < 0.5:
        message.ClearField(field.name)
    elif is_message:
        same = [other for other in candidates if other.DESCRIPTOR is value.DESCRIPTOR]
        kept = type(value)()  # apart: protobuf does not bear a copy of what holds the message
        kept.CopyFrom(generator.choice(same or [value]))
        value.CopyFrom(kept)
    elif field.type == field.TYPE_STRING:
        known = [*names.values, *names.types, "", "CoreML6"]
        setattr(message, field.name, generator.choice(known))
    elif field.type == field.TYPE_BYTES:
        setattr(message, field.name, value[:-1])
    elif field.type in (field.TYPE_UINT64, field.TYPE_INT64):
        largest = (1 << (64 if field.type == field.TYPE_UINT64 else 63)) - 1
        setattr(message, field.name, min(generator.choice(SIZES), largest))
    elif field.type == field.TYPE_ENUM:
        choices = field.enum_type.values_by_number
        setattr(message, field.name, generator.choice(sorted(choices)))
    else:
        return False
    return True


def _messages(message: Any) -> Iterator[Any]:
    """Yields a protobuf message and all that are set in it."""
    yield message
    for field, value in message.ListFields():
        if field.type != field.TYPE_MESSAGE:
            continue
        if field.message_type.GetOptions().map_entry:
            values = [value[key] for key in sorted(value)]
        else:
            values = list(value) if isinstance(value, MutableSequence) else [value]
        for inner in values:
            if hasattr(inner, "ListFields"):
                yield from _messages(inner)


CHANGES: tuple[Callable[[Random, Any, Names], bool], ...] = (
    drop_input,
    add_input,
    duplicate_argument,
    empty_argument,
    swap_inputs,
    rewire,
    rewire,
    close_cycle,
    rename_output,
    change_outputs,
    change_op,
    move_op,
    change_block,
    change_interface,
    change_type,
    change_type,
    steer,
    steer,
    steer,
    change_blob,
    edit_message,
    edit_message,
)
