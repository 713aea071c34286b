"""Weights that hang on what a model is given: chosen among constants, or a constant scaled."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from mlpass.program.ir import Argument, Block, Constant, Op, TensorType, Value
from mlpass.program.reads import values_of

AMONG = "among"  # the parameter of what stands for such an op: the constants that it is made of

# Ops that make another value at each run, or keep one: never a constant, whatever they read.
_CHANGING = ("random_", "read_state", "coreml_update_state", "make_list")
# The data of ops that only cut or arrange it, as they are told while the model runs.
_CUT = {"slice_by_index", "slice_by_size", "gather_nd", "gather_along_axis", "reshape", "tile"}
_SCALED = {"mul", "real_div"}

Known = Callable[[Argument], bool]


def is_of_constants(op: Op, known: Known) -> bool:
    """Returns whether an op makes the same at every run, from nothing but constants.

    Args:
        op: that is asked for.
        known: whether a value is made of constants.
    """
    if not all(known(value) for value in values_of(op)):
        return False
    return any(op.inputs.values()) and not op.blocks and not op.type.startswith(_CHANGING)


def chosen_values(block: Block) -> dict[Value, Op]:
    """Returns the values that are of constants, but hang on inputs, with what stands for their op.

    That has one parameter, `AMONG`: the constants, or what is made of such, that it is of.

    Args:
        block: of a function.
    """
    made: set[Value] = set()
    found: dict[Value, Op] = {}
    _find(block, made, found)
    return found


def _find(block: Block, made: set[Value], found: dict[Value, Op]) -> None:
    def known(argument: Argument) -> bool:
        return isinstance(argument, Constant) or argument in made

    for op in block.ops:
        if op.type == "while_loop":
            _note(op, _carried(op, known), made, found)
        for nested in op.blocks:
            _find(nested, made, found)
        if op.type == "const" or op.type.startswith("constexpr_") or is_of_constants(op, known):
            made.update(op.outputs)
        elif op.type == "cond":
            ways = zip(op.outputs, *(nested.outputs for nested in op.blocks), strict=False)
            _note(op, ((one, each) for one, *each in ways if all(map(known, each))), made, found)
        elif len(op.outputs) == 1 and (among := _among(op, known)):
            _note(op, [(op.outputs[0], among)], made, found)


def _note(
    op: Op,
    values: Iterator[tuple[Value, Sequence[Argument]]] | list[tuple[Value, Sequence[Argument]]],
    made: set[Value],
    found: dict[Value, Op],
) -> None:
    for value, among in values:
        made.add(value)
        found[value] = Op(op.type, op.name, {AMONG: tuple(among)}, (value,))


def _carried(op: Op, known: Known) -> Iterator[tuple[Value, Sequence[Argument]]]:
    """Yields what a loop carries along without a change, in its blocks and behind it."""
    if len(op.blocks) != 2:  # to run it says so
        return
    test, body = op.blocks
    for before, *inside, after, result in zip(
        op.inputs.get("loop_vars", ()),
        test.inputs,
        body.inputs,
        body.outputs,
        op.outputs,
        strict=False,
    ):
        same = {inside[-1]}
        for step in body.ops:
            sources = step.inputs.get("x")
            if step.type == "identity" and sources and same.issuperset(sources):
                same.update(step.outputs)
        if known(before) and after in same:
            yield from ((value, [before]) for value in (*inside, result))


def _among(op: Op, known: Known) -> Sequence[Argument]:
    """Returns the constants that an op chooses among, cuts or scales; none where it does not."""
    if op.type == "select":
        ways = (*op.inputs.get("a", ()), *op.inputs.get("b", ()))
        return ways if all(map(known, ways)) else ()
    if op.type in _CUT:
        return [one for one in op.inputs.get("x", ()) if known(one)]
    if op.type in _SCALED:
        both = (*op.inputs.get("x", ()), *op.inputs.get("y", ()))
        sizes = [_size(one) for one in both]
        if len(both) == 2 and None not in sizes:
            # A scale is smaller than the weight that it is for.
            largest = max(both, key=lambda one: _size(one) or 0)
            if known(largest) and sizes[0] != sizes[1]:
                return [largest]
    return ()


def _size(argument: Argument) -> int | None:
    kind = argument.type
    return kind.size if isinstance(kind, TensorType) and None not in kind.shape else None
