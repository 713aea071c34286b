"""Values that ops make of constants as a model runs: of them alone, or of what it is given as well.

Of the second kind are weights that are chosen among constants, or a constant that is scaled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from mlpass.program.ir import Argument, Block, Constant, Op, TensorType, Value
from mlpass.program.reads import values_of
from mlpass.runtime.ops import is_constant

AMONG = "among"  # the parameter of what stands for an op that inputs steer: what it makes it of

# Ops that make another value at each run, or keep one: never a constant, whatever they read.
_CHANGING = ("random_", "read_state", "coreml_update_state", "make_list")
# The data of ops that only cut or arrange it, as they are told while the model runs.
_CUT = {"slice_by_index", "slice_by_size", "gather_nd", "gather_along_axis", "reshape", "tile"}
_SCALED = {"mul", "real_div"}

Known = Callable[[Argument], bool]
_Ways = Iterator[tuple[Value, Sequence[Argument]]]


def computed_values(block: Block) -> dict[Value, Op]:
    """Returns the values that are made of constants, each with what stands for its op.

    That is the op with this one result; where it hangs on inputs as well, with nothing but `AMONG`:
    the constants, or what is made of such, that it chooses among, cuts or scales.

    Args:
        block: of a function.
    """
    found: dict[Value, Op] = {}
    _find(block, set(), found)
    return found


def _find(block: Block, stated: set[Value], found: dict[Value, Op]) -> None:
    def known(argument: Argument) -> bool:
        return isinstance(argument, Constant) or argument in stated or argument in found

    def note(op: Op, ways: _Ways) -> None:
        for value, among in ways:
            found[value] = Op(op.type, op.name, {AMONG: tuple(among)}, (value,))

    for op in block.ops:
        if op.type == "while_loop":
            note(op, _carried(op, known))
        for nested in op.blocks:
            _find(nested, stated, found)
        if is_constant(op):
            stated.update(op.outputs if isinstance(op.outputs[-1].type, TensorType) else ())
        elif _is_of_constants(op, known):
            found.update((value, replace(op, outputs=(value,))) for value in op.outputs)
        else:
            note(op, _steered(op, known))


def _is_of_constants(op: Op, known: Known) -> bool:
    """Returns whether an op makes the same at every run, from nothing but constants."""
    if not all(known(value) for value in values_of(op)):
        return False
    return any(op.inputs.values()) and not op.blocks and not op.type.startswith(_CHANGING)


def _steered(op: Op, known: Known) -> _Ways:
    """Yields what an op that inputs steer makes of constants, and of which."""
    if op.type == "cond":
        for value, *ways in zip(op.outputs, *(each.outputs for each in op.blocks), strict=False):
            if all(map(known, ways)):
                yield value, ways
    elif len(op.outputs) == 1 and (among := _among(op, known)):
        yield op.outputs[0], among


def _carried(op: Op, known: Known) -> _Ways:
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
