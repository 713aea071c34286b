"""Floats behind ops that only rearrange constants, as the constants that they are.

A file keeps such ops until the weight is replaced; the graph has a `const` in their place, of the
same elements. It is read from what the ops rearrange, each time anew.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlpass.program.dtypes import BY_NAME, pack_elements
from mlpass.program.ir import Argument, Block, Constant, Op, Program, Raw, TensorType, Value
from mlpass.program.reads import constants_of, values_of

Settings = Mapping[str, Any]  # the parameters of an op that are not data, as Python values
Arrays = list[NDArray[Any]]
Rearrange = Callable[[Arrays], NDArray[np.generic]]


def fold_program(program: Program) -> tuple[Program, dict[Op, Op]]:
    """Returns a program with floats folded, and for each op that is new the one it stands for.

    What is made of constants is folded where nothing but such ops reads what it is made of: else
    that would have to be stored beside it.
    """
    origins: dict[Op, Op] = {}
    functions = {}
    for name, function in program.functions.items():
        block = _with(function.block, _foldable(function.block), origins)
        functions[name] = function if block is function.block else replace(function, block=block)
    return (replace(program, functions=functions) if origins else program), origins


def _foldable(block: Block) -> dict[Op, Constant]:
    """Returns the ops of a function's block that can be folded, with what each makes."""
    known: dict[Value, Constant] = {}
    made: dict[Op, Constant] = {}
    for op in block.walk():
        if op.type == "const":
            known.update((op.outputs[0], one) for one in constants_of(op))
        elif op.type in _FOLDS and (constant := _folded(op, known)) is not None:
            made[op] = known[op.outputs[0]] = constant
    if not made:
        return made
    outputs = {value for nested in block.walk_blocks() for value in nested.outputs}
    readers: dict[Value, list[Op]] = {}
    for op in block.walk():
        for value in values_of(op):
            readers.setdefault(value, []).append(op)

    makers = {op.outputs[0]: op for op in made}

    def is_apart(value: Value) -> bool:
        """Whether none but ops that are folded, or state it, make it, and none but such read it."""
        stated = value not in makers or makers[value] in made
        read = all(op in made for op in readers.get(value, ()))
        return stated and read and value not in outputs

    while wrong := [
        op
        for op in made
        if op.outputs[0] not in readers
        or not all(is_apart(one) for one in _data(op) if isinstance(one, Value))
    ]:
        for op in wrong:
            del made[op]
    return made


def _with(block: Block, folded: Mapping[Op, Constant], origins: dict[Op, Op]) -> Block:
    """Returns a block with `const` in the place of the ops that are folded."""
    ops = []
    for op in block.ops:
        new = op
        if op in folded:
            new = Op("const", op.name, {"val": (folded[op],)}, op.outputs)
        elif op.blocks:
            blocks = tuple(_with(nested, folded, origins) for nested in op.blocks)
            changed = any(one is not other for one, other in zip(blocks, op.blocks, strict=True))
            new = replace(op, blocks=blocks) if changed else op
        if new is not op:
            origins[new] = op
        ops.append(new)
    unchanged = all(one is other for one, other in zip(ops, block.ops, strict=True))
    return block if unchanged else replace(block, ops=tuple(ops))


def _is_tensor(constant: Argument) -> bool:
    kind = constant.type
    return isinstance(kind, TensorType) and kind.dtype != "string" and None not in kind.shape


def _is_float(dtype: str) -> bool:
    made = BY_NAME[dtype].numpy
    return made is not None and np.dtype(made).kind == "f"


def _data(op: Op) -> tuple[Argument, ...]:
    """Returns the arguments of an op that it rearranges."""
    return op.inputs.get("values" if op.type in ("concat", "stack") else "x", ())


def _folded(op: Op, known: Mapping[Value, Constant]) -> Constant | None:
    """Returns what an op makes of constants; None where it does not, or is broken."""
    sources = [known.get(one) if isinstance(one, Value) else one for one in _data(op)]
    stated = [one for one in sources if one is not None and _is_tensor(one)]
    if not stated or len(stated) < len(sources) or len(op.outputs) != 1:
        return None
    kind = op.outputs[0].type
    if not isinstance(kind, TensorType) or not _is_tensor(op.outputs[0]):
        return None
    if not all(_is_float(one) for one in (kind.dtype, stated[0].dtype.name)):
        return None
    if op.type != "cast" and {one.dtype.name for one in stated} != {kind.dtype}:
        return None
    try:
        settings = _settings(op, known)
        rearrange = _FOLDS[op.type](settings, kind, stated)
    except (ValueError, LookupError, TypeError, ArithmeticError, AttributeError):
        return None
    if rearrange is None:
        return None

    def load() -> Raw:
        array = rearrange([np.asarray(one.read()) for one in stated])
        return pack_elements(array, BY_NAME[kind.dtype])

    first, size = stated[0], sum(one.size for one in stated)
    stored = sum(one.stored_nbytes for one in stated) * min(kind.size, size) // max(1, size)
    if any(one.storage is None for one in stated):
        return Constant(kind, load, stored=stored)
    assert first.storage is not None
    told: list[Hashable] = [(name, repr(value)) for name, value in sorted(settings.items())]
    place = (op.type, kind, *told, *(one.storage for one in stated))
    in_file = all(one.in_file for one in stated)
    return Constant(kind, load, (first.storage[0], place), in_file, stored=stored)


def _settings(op: Op, known: Mapping[Value, Constant]) -> Settings:
    """Returns the other parameters of an op, as Python values."""
    settings = {}
    for parameter, arguments in op.inputs.items():
        if parameter not in ("x", "values"):
            (argument,) = arguments
            constant = known[argument] if isinstance(argument, Value) else argument
            value = constant.read()
            settings[parameter] = value.tolist() if isinstance(value, np.ndarray) else value
    return settings


def _reshape(_: object, kind: TensorType, sources: list[Constant]) -> Rearrange | None:
    shape = tuple(size or 0 for size in kind.shape)
    return (lambda arrays: arrays[0].reshape(shape)) if kind.size == sources[0].size else None


def _transpose(settings: Settings, kind: TensorType, sources: list[Constant]) -> Rearrange | None:
    order = settings["perm"]
    return _checked(lambda arrays: arrays[0].transpose(order), kind, sources)


def _slice_by_index(
    settings: Settings, kind: TensorType, sources: list[Constant]
) -> Rearrange | None:
    rank = len(sources[0].shape)
    begins, ends = settings["begin"], settings["end"]
    steps = settings.get("stride") or [1] * rank
    free = [settings.get(name) or [False] * rank for name in ("begin_mask", "end_mask")]
    single = settings.get("squeeze_mask") or [False] * rank
    index = tuple(
        begin if one else slice(None if no_begin else begin, None if no_end else end, step)
        for begin, end, step, no_begin, no_end, one in zip(
            begins, ends, steps, *free, single, strict=True
        )
    )
    if len(index) != rank or any(step < 1 for step in steps):
        return None
    return _checked(lambda arrays: arrays[0][index], kind, sources)


def _slice_by_size(
    settings: Settings, kind: TensorType, sources: list[Constant]
) -> Rearrange | None:
    begins, sizes = settings["begin"], settings["size"]
    if min(begins) < 0 or len(begins) != len(sources[0].shape):
        return None
    index = tuple(
        slice(begin, None if size == -1 else begin + size)
        for begin, size in zip(begins, sizes, strict=True)
    )
    return _checked(lambda arrays: arrays[0][index], kind, sources)


def _reverse(settings: Settings, kind: TensorType, sources: list[Constant]) -> Rearrange | None:
    axes = settings.get("axes")
    turned = None if axes is None else tuple(axes)
    return _checked(lambda arrays: np.flip(arrays[0], turned), kind, sources)


def _concat(settings: Settings, kind: TensorType, sources: list[Constant]) -> Rearrange | None:
    axis = range(len(kind.shape))[settings["axis"]]
    shapes = [list(one.shape) for one in sources]
    sizes = [shape.pop(axis) for shape in shapes]
    rest = list(kind.shape)
    if settings.get("interleave") or rest.pop(axis) != sum(sizes):
        return None
    if any(shape != rest for shape in shapes):
        return None
    return lambda arrays: np.concatenate(arrays, axis)


def _stack(settings: Settings, kind: TensorType, sources: list[Constant]) -> Rearrange | None:
    axis = range(len(kind.shape))[settings["axis"]]
    rest = list(kind.shape)
    if rest.pop(axis) != len(sources) or any(list(one.shape) != rest for one in sources):
        return None
    return lambda arrays: np.stack(arrays, axis)


def _pad(settings: Settings, kind: TensorType, sources: list[Constant]) -> Rearrange | None:
    given = settings["pad"]
    pairs = [*zip(given[::2], given[1::2], strict=True)]
    if settings.get("mode", "constant") != "constant":
        return None
    widths = [(0, 0)] * (len(sources[0].shape) - len(pairs)) + pairs
    filled = settings.get("constant_val", 0.0)
    return _checked(lambda arrays: np.pad(arrays[0], widths, constant_values=filled), kind, sources)


def _band_part(settings: Settings, kind: TensorType, sources: list[Constant]) -> Rearrange | None:
    """Folds what keeps a band around the diagonal of each matrix."""
    rows, columns = kind.sizes[-2:]
    below, above = settings.get("lower", -1), settings.get("upper", -1)
    apart = np.subtract.outer(np.arange(rows), np.arange(columns))
    kept = ((below < 0) | (apart <= below)) & ((above < 0) | (-apart <= above))
    return _checked(
        lambda arrays: np.where(kept, arrays[0], arrays[0].dtype.type(0)), kind, sources
    )


def _cast(_: object, kind: TensorType, sources: list[Constant]) -> Rearrange | None:
    """Folds a cast of floats that changes no value, nor the sign of a zero."""
    (source,) = sources
    old, new = BY_NAME[source.dtype.name].numpy, BY_NAME[kind.dtype].numpy
    assert old is not None  # _folded sees to it
    assert new is not None
    before, after = np.dtype(old), np.dtype(new)
    if source.shape != kind.shape or not before.kind == after.kind == "f":
        return None
    if after.itemsize < before.itemsize:
        array = np.asarray(source.read())
        with np.errstate(over="ignore", under="ignore"):
            if not np.array_equal(array.astype(after), array):
                return None
    return lambda arrays: arrays[0].astype(after, copy=False)


def _checked(rearrange: Rearrange, kind: TensorType, sources: list[Constant]) -> Rearrange | None:
    """Returns what makes a view of an array, where that has the shape that the program says."""
    views = [np.broadcast_to(np.zeros((), np.uint8), one.shape) for one in sources]
    return rearrange if rearrange(views).shape == kind.shape else None


_FOLDS: dict[str, Callable[[Settings, TensorType, list[Constant]], Rearrange | None]] = {
    "identity": _reshape,
    "reshape": _reshape,
    "squeeze": _reshape,
    "expand_dims": _reshape,
    "flatten2d": _reshape,
    "reverse": _reverse,
    "transpose": _transpose,
    "slice_by_index": _slice_by_index,
    "slice_by_size": _slice_by_size,
    "concat": _concat,
    "stack": _stack,
    "pad": _pad,
    "band_part": _band_part,
    "cast": _cast,
}
