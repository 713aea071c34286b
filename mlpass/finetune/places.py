"""How a stored weight follows from the floats among its parts, so that those can train.

Whatever its form, a weight is `levels * floats[places]`, element by element: kept values have a
place each, tables are read at codes, scales are multiplied with what codes say. Nothing here knows
the forms: their own kernels decode ones, which gives the levels, and numbers, which gives the
places.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlpass.program.ir import Constant, Op, Value
from mlpass.runtime.materialize import materialize
from mlpass.weights.sites import Site

_FLOATS = frozenset({"val", "nonzero_data", "lut", "scale", "source_val"})
_DIGIT = 8  # bits of a number at a time: what any float that decodes it holds exactly


class Places(NamedTuple):
    """A weight in terms of the floats that it is made from.

    Attributes:
        levels: what each element multiplies its float with, fp32, in the weight's shape; None
            where that is 1 throughout.
        places: which of the floats that is, int32, flat.
    """

    levels: NDArray[np.float32] | None
    places: NDArray[np.int32]


def floats_of(site: Site) -> Constant | None:
    """Returns the constant that training moves: of several the one with most elements.

    None where all of its parts are codes.
    """
    if site.constant is not None:
        return site.constant
    stated = _stated(site.parts)
    found = [
        constant
        for op in site.parts
        for parameter, (argument,) in op.inputs.items()
        if parameter in _FLOATS and op.type != "const"
        for constant in [stated.get(argument, argument)]
        if isinstance(constant, Constant) and constant.dtype.name in ("fp16", "fp32")
    ]
    return max(found, key=lambda one: one.size, default=None)


def places_of(site: Site, floats: Constant) -> Places:
    """Returns how a compressed site's weight follows from its floats.

    Raises:
        ModelFormatError: a part is broken.
    """

    def decode(values: NDArray[np.generic]) -> NDArray[np.generic]:
        new = Constant.of(values.astype(np.float32).reshape(floats.shape))
        return materialize([with_constant(op, floats, new) for op in site.parts], site.opset)

    levels = decode(np.ones(floats.size)).astype(np.float32)
    held = np.where(levels == 0, np.float32(1), levels)
    numbers, places = np.arange(floats.size), np.zeros(levels.shape, np.int32)
    for shift in range(0, int(floats.size - 1).bit_length(), _DIGIT):
        digits = decode(numbers >> shift & (1 << _DIGIT) - 1) / held
        places |= np.rint(np.where(levels == 0, 0, digits)).astype(np.int32) << shift
    return Places(None if (levels == 1).all() else levels, places.reshape(-1))


def slots_of(found: Places, count: int) -> NDArray[np.int64] | None:
    """Returns which element of a weight each float is, flat, where the others are zero.

    None where it is not that simple: where a float makes several elements, or is multiplied.

    Args:
        found: how the weight follows from its floats.
        count: of the floats.
    """
    if found.levels is None:
        return None
    levels = found.levels.reshape(-1)
    (used,) = np.nonzero(levels)
    if len(used) != count or not (levels[used] == 1).all():
        return None
    slots = np.full(count, -1, np.int64)
    slots[found.places[used]] = used
    return slots if (slots >= 0).all() else None


def with_constant(op: Op, old: Constant, new: Constant) -> Op:
    """Returns an op that reads `new` where it read `old`; the same op where it did not."""
    inputs = {
        parameter: tuple(
            new if same_constant(argument, old) else argument for argument in arguments
        )
        for parameter, arguments in op.inputs.items()
    }
    return op if inputs == op.inputs else replace(op, inputs=inputs)


def same_constant(argument: object, constant: Constant) -> bool:
    """Returns whether an argument is a constant, or another statement of what is stored for it."""
    if argument is constant or not isinstance(argument, Constant):
        return argument is constant
    stored = constant.storage is not None and argument.storage == constant.storage
    return stored and argument.type == constant.type


def _stated(parts: tuple[Op, ...]) -> Mapping[object, Constant | Value]:
    """Returns what const ops among the parts state, by their values."""
    return {op.outputs[0]: op.inputs["val"][0] for op in parts if op.type == "const"}
