"""iOS17's gathers and scatters take no negative index: one is counted from the end before."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mlpass.program.ir import Argument, Constant, Op, Value
from mlpass.program.opsets.building import Builder, Facts, Refused, dtype_of, shape_of

# Ops whose results are never negative.
_NATURAL = {"argsort", "non_zero", "reduce_argmax", "reduce_argmin", "shape"}
# Ops that make nothing negative of what is not, by the parameters that hold it.
_CARRIERS = {
    **dict.fromkeys(("cast", "expand_dims", "identity", "reshape", "reverse"), ("x",)),
    **dict.fromkeys(("slice_by_index", "slice_by_size", "squeeze", "tile", "transpose"), ("x",)),
    **dict.fromkeys(("concat", "stack"), ("values",)),
    **dict.fromkeys(("add", "maximum", "minimum", "mul"), ("x", "y")),
    "gather": ("x",),
    "select": ("a", "b"),
}


def along_one_axis(build: Builder) -> None:
    """gather, gather_along_axis, scatter and scatter_along_axis: indices of one axis."""
    source = build.input("x" if "x" in build.op.inputs else "data")
    axis = int(build.stated("axis", 0))
    rank = len(shape_of(source))
    _again(build, source, [axis % rank], scalar=True)


def of_several_axes(build: Builder) -> None:
    """gather_nd and scatter_nd: each index is as many numbers as it chooses axes."""
    source = build.input("x" if "x" in build.op.inputs else "data")
    first = int(build.stated("batch_dims", 0))
    depth = shape_of(build.input("indices"))[-1]
    if depth is None:
        raise Refused("how many axes its indices choose is not known")
    _again(build, source, range(first, first + depth), scalar=False)


def _again(build: Builder, source: Argument, axes: Sequence[int], *, scalar: bool) -> None:
    validate = {} if "validate_indices" in build.op.inputs else {"validate_indices": False}
    indices = _positive(build, source, axes, scalar=scalar)
    changed = {} if indices is build.input("indices") else {"indices": indices}
    build.again(**changed, **validate)


def _positive(build: Builder, source: Argument, axes: Sequence[int], *, scalar: bool) -> Argument:
    """Returns the indices of `axes` of `source`, none of them negative."""
    indices, shape = build.input("indices"), shape_of(source)
    sizes = [shape[axis] for axis in axes]
    stated = build.facts.constant(indices)
    if not sizes:
        return indices
    if stated is not None and None not in sizes:
        array = stated.read()
        counted = np.where(array < 0, array + np.asarray(sizes, np.int64), array)
        return Constant.of(counted.astype(array.dtype), stated) if (array < 0).any() else indices
    if _is_natural(indices, build.facts, {}):
        return indices
    places = shape_of(indices)
    if dtype_of(indices) != "int32":
        indices = build.add("cast", ("int32", places), x=indices, dtype="int32")
    ends: Argument | np.ndarray[tuple[int, ...], np.dtype[np.int32]]
    if None in sizes:
        ends = build.add("shape", ("int32", (len(shape),)), x=source)
        ends = build.add(
            "slice_by_index",
            ("int32", () if scalar else (len(axes),)),
            x=ends,
            begin=[axes[0]],
            end=[axes[-1] + 1],
            squeeze_mask=[scalar],
        )
    else:
        ends = np.array(sizes[0] if scalar else sizes, np.int32)
    is_positive = build.add("greater_equal", ("bool", places), x=indices, y=0)
    from_end = build.add("add", ("int32", places), x=indices, y=ends)
    return build.add("select", ("int32", places), cond=is_positive, a=indices, b=from_end)


def _is_natural(argument: Argument, facts: Facts, known: dict[Argument, bool]) -> bool:
    """Returns whether no element of a value can be negative, as far as its makers tell."""
    if argument not in known:
        stated = facts.constant(argument)
        maker = facts.makers.get(argument) if isinstance(argument, Value) else None
        if getattr(argument.type, "dtype", "").startswith("uint"):
            known[argument] = True
        elif stated is not None:
            known[argument] = bool((np.asarray(stated.read()) >= 0).all())
        else:
            known[argument] = maker is not None and _makes_natural(maker, argument, facts, known)
    return known[argument]


def _makes_natural(maker: Op, made: Argument, facts: Facts, known: dict[Argument, bool]) -> bool:
    if maker.type == "topk":  # its values, and then their places
        return made in maker.outputs[1:]
    return maker.type in _NATURAL or (
        maker.type in _CARRIERS
        and all(
            _is_natural(argument, facts, known)
            for parameter in _CARRIERS[maker.type]
            for argument in maker.inputs[parameter]
        )
    )
