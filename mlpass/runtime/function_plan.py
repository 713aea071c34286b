"""A function made ready to run: kernels found, arguments sorted, last uses known.

Everything that can be wrong with a program for a backend is found here, before anything runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache

from mlpass.arrays import Array, Namespace
from mlpass.program.ir import Block, Constant, Function, Op, TensorType, Value
from mlpass.program.reads import values_of
from mlpass.runtime.checks import Problems
from mlpass.runtime.control import CONTROL
from mlpass.runtime.kernels.arguments import Kinds, Reader, kinds_of, read
from mlpass.runtime.kernels.registry import find_kernel, find_kinds
from mlpass.runtime.ops import Source, is_constant, is_float, kernel_name, parameters_of

Argument = tuple[str, Source | tuple[Source, ...]]


@dataclass(frozen=True, eq=False, slots=True)
class OpPlan:
    """An op made ready.

    Attributes:
        op: the op.
        function: its kernel, or what carries out its control flow.
        arguments: for each parameter its one source, or all of a variadic one's.
        given: those of them that the program does not state: a run makes them.
        attributes: what reads those that the kernel is given as Python values.
        blocks: nested blocks of a control flow op.
        release: the values that nothing after it reads.
    """

    op: Op
    function: Callable[..., object]
    arguments: tuple[Argument, ...]
    given: tuple[Argument, ...]
    attributes: Mapping[str, Reader]
    blocks: tuple[BlockPlan, ...]
    release: tuple[Value, ...]


@dataclass(frozen=True, eq=False, slots=True)
class BlockPlan:
    """A block made ready; `own` are the values of its outputs that it makes or is given."""

    inputs: tuple[Value, ...]
    steps: tuple[OpPlan, ...]
    outputs: tuple[Value, ...]
    own: tuple[Value, ...]


@dataclass(frozen=True, eq=False)
class FunctionPlan:
    """A function made ready.

    Attributes:
        function: the function.
        block: its block.
        makers: the op that makes each constant value.
        attributes: constants that say how and are not data: they stay where Python can read them.
        names: every value by name.
    """

    function: Function
    block: BlockPlan
    makers: Mapping[Value, Op]
    attributes: frozenset[Source]
    names: Mapping[str, Value]


def plan_function(function: Function, backend: str) -> FunctionPlan:
    """Returns `function` ready to run on a backend.

    Raises:
        UnsupportedOpError: ops have no kernel: all are named at once, with what else is wrong.
        ModelFormatError: ops do not fit their kernels' parameters.
    """
    makers = {
        output: op for op in function.block.walk() if is_constant(op) for output in op.outputs
    }
    problems = Problems(function, backend)
    for op in function.block.walk():
        if op.type != "const":
            problems.check(op, _function_of(op, function.opset, backend))
    problems.report()

    @cache
    def kinds(op_type: str) -> Kinds:
        if op_type in CONTROL:
            return kinds_of(CONTROL[op_type])
        return find_kinds(op_type, function.opset, backend)

    block = _plan_block(function.block, makers, function.opset, backend, kinds)
    names = {value.name: value for value in made_in(function.block)}
    return FunctionPlan(function, block, makers, _find_attributes(function.block, kinds), names)


def _plan_block(
    block: Block,
    makers: Mapping[Value, Op],
    opset: int,
    backend: str,
    kinds: Callable[[str], Kinds],
) -> BlockPlan:
    ops = [op for op in block.ops if not is_constant(op)]
    own = set(block.inputs) | {output for op in ops for output in op.outputs}
    needed = set(block.outputs)
    steps: list[OpPlan] = []
    for op in reversed(ops):
        used = dict.fromkeys(value for value in reads(op) if value in own)
        release = [value for value in (*used, *op.outputs) if value not in needed]
        needed.update(used)
        blocks = tuple(_plan_block(nested, makers, opset, backend, kinds) for nested in op.blocks)
        function = _function_of(op, opset, backend)
        assert function is not None  # all kernels were looked for before
        if op.type == "matmul":
            function = _in_declared_type(function, op)
        attributes, variadic = kinds(kernel_name(op))
        arguments = tuple(
            (name, sources if name in variadic or len(sources) != 1 else sources[0])
            for name, sources in parameters_of(op)
        )
        given = tuple(one for one in arguments if not _is_stated(one, makers))
        made = {name: attributes[name] for name, _ in given if name in attributes}
        if made:
            function = _reading(function, Kinds(made, variadic))
        last_uses = tuple(dict.fromkeys(release))
        steps.append(OpPlan(op, function, arguments, given, attributes, blocks, last_uses))
    outputs_of_own = tuple(value for value in dict.fromkeys(block.outputs) if value in own)
    return BlockPlan(block.inputs, tuple(reversed(steps)), block.outputs, outputs_of_own)


def _is_stated(argument: Argument, makers: Mapping[Value, Op]) -> bool:
    _, source = argument
    sources = source if isinstance(source, tuple) else (source,)
    return all(isinstance(one, Constant) or one in makers for one in sources)


def _function_of(op: Op, opset: int, backend: str) -> Callable[..., object] | None:
    if op.type in CONTROL:
        return CONTROL[op.type]
    return find_kernel(kernel_name(op), opset, backend)


def _reading(function: Callable[..., object], kinds: Kinds) -> Callable[..., object]:
    """Returns a kernel that is given as arrays some attributes, which the program computes."""

    def reading(first: object, **arguments: object) -> object:
        return function(first, **read(kinds, arguments))

    return reading


def _find_attributes(block: Block, kinds: Callable[[str], Kinds]) -> frozenset[Source]:
    """Returns the constants of a block, nested ones included, that are attributes alone."""
    attributes: set[Source] = set()
    data: set[Source] = set(block.outputs)
    for nested in block.walk_blocks():
        data.update(nested.outputs)
    for op in block.walk():
        read = kinds(kernel_name(op)).attributes
        for parameter, sources in op.inputs.items():
            (attributes if parameter in read else data).update(sources)
    return frozenset(attributes - data)


def _in_declared_type(function: Callable[..., object], op: Op) -> Callable[..., object]:
    """Returns a `matmul` of an int and a float operand that gives what the program declares.

    Its result is of the type of the operand that is not a constant, which a kernel cannot know.
    """
    declared = op.outputs[0].type if op.outputs else None
    if not isinstance(declared, TensorType):
        return function
    operands = [one.type for name in ("x", "y") for one in op.inputs.get(name, ())]
    if len({is_float(kind) for kind in operands}) < 2:
        return function
    name = "float32" if is_float(declared) else declared.dtype

    def converted(xp: Namespace, **arguments: object) -> Array:
        return xp.astype(function(xp, **arguments), getattr(xp, name))

    return converted


def reads(op: Op) -> Iterator[Value]:
    """Yields every value that an op reads, those that its nested blocks read included."""
    yield from values_of(op)
    for block in op.blocks:
        for inner in block.ops:
            yield from reads(inner)
        yield from block.outputs


def made_in(block: Block) -> Iterator[Value]:
    """Yields every value that a block is given or makes, those of nested blocks included."""
    for nested in block.walk_blocks():
        yield from nested.inputs
    for op in block.walk():
        yield from op.outputs
