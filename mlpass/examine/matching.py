"""Which op of one program is which of another."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence

from mlpass.program.ir import Block, Op, TensorType, Value
from mlpass.runtime.ops import is_constant

PASSED_ON = frozenset({"cast", "identity"})  # ops that one program may have, the other not


def match_values(blocks: Sequence[tuple[Block, Block]]) -> dict[Value, Value]:
    """Returns, for the values of the second programs, those of the first that they stand for.

    Values of one name are one where they are of one shape or made by ops of one type: every pass
    keeps names that changes no more than weights. What is left, as of another conversion, is
    matched in the order of execution: an op is one of the same type on the same values.

    Args:
        blocks: the two programs' main blocks; of pipelines, those of each part.
    """
    found: dict[Value, Value] = {}
    for first, second in blocks:
        _match_by_name(first, second, found)
        _match_by_place(first, second, found)
    return found


def running(block: Block) -> Iterator[Op]:
    """Yields the ops of a block that run: those that do not state a constant."""
    return (op for op in block.ops if not is_constant(op))


def _match_by_name(first: Block, second: Block, found: dict[Value, Value]) -> None:
    named = {value.name: (value, maker) for value, maker in _made(first).items()}
    for value, maker in _made(second).items():
        like, its_maker = named.get(value.name, (None, ""))
        if like is not None and (_shape(like) == _shape(value) or maker == its_maker):
            found[value] = like


def _match_by_place(first: Block, second: Block, found: dict[Value, Value]) -> None:
    taken, made = set(found.values()), _made(first)
    spare: defaultdict[object, deque[Op]] = defaultdict(deque)
    for op in running(first):
        if taken.isdisjoint(op.outputs):
            spare[_place(op, {value: value for value in made})].append(op)
    for op in running(second):
        if any(output in found for output in op.outputs):
            continue
        if same := spare.get(_place(op, found)):
            found.update(zip(op.outputs, same.popleft().outputs, strict=True))
        elif op.type in PASSED_ON:
            (source,) = op.inputs["x"]
            if isinstance(source, Value) and source in found:
                found[op.outputs[0]] = found[source]


def _place(op: Op, like: Mapping[Value, Value]) -> object:
    """Returns an op's type, and which values it runs on: those of the first program."""
    return (
        op.type,
        len(op.outputs),
        tuple(
            (parameter, like[source])
            for parameter, sources in sorted(op.inputs.items())
            for source in sources
            if isinstance(source, Value) and source in like
        ),
    )


def _made(block: Block) -> dict[Value, str]:
    """Returns each value of a run with the type of the op that makes it, "" of an input."""
    inputs = dict.fromkeys(block.inputs, "")
    return inputs | {output: op.type for op in running(block) for output in op.outputs}


def _shape(value: Value) -> object:
    return value.type.shape if isinstance(value.type, TensorType) else type(value.type)
