"""What coremltools does to an image before a program sees it: `x * scale + bias`.

A pymil program knows of it by its `ImageType` alone; the ops come last in a conversion.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mlpass.program.dtypes import BY_NAME
from mlpass.program.ir import CHANNELS, Argument, Constant, Op, TensorType, Value

if TYPE_CHECKING:
    from mlpass.program.pymil_types import Image, PymilFunction, Variable

_PREPROCESSED = "main"


def images_of(function: PymilFunction, name: str) -> dict[str, Image]:
    """Returns the `ImageType` of each input of a pymil function that is an image.

    Args:
        function: the pymil function.
        name: of the function: coremltools only knows images in "main".
    """
    if name != _PREPROCESSED:
        return {}
    from coremltools import ImageType

    return {
        one.name: one
        for one in function.input_types
        if isinstance(one, ImageType) and one.name in function.inputs
    }


def layout_of(image: Image, value: Value) -> str:
    """Returns the colour layout of an image that the program takes as (1, channels, height, width).

    It is "" for any other: coremltools changes its shape later, or refuses it.
    """
    layout = str(image.color_layout.name)
    shape = value.type.shape if isinstance(value.type, TensorType) else ()
    fits = len(shape) == 4 and shape[:2] == (1, CHANNELS[layout])
    return layout if fits and _channel_axis(image, shape) == -3 else ""


def preprocess(image: Image, variable: Variable, value: Value) -> Iterator[Op]:
    """Yields the ops that coremltools will put behind an image input, in their order.

    It yields none where the program has them already, as that of a finished model has.

    Source: `mil_backend::insert_image_preprocessing_ops` of coremltools.
    """
    if not isinstance(value.type, TensorType):
        return
    dtype = BY_NAME[value.type.dtype].numpy
    scaled = bool(np.any(np.asarray(image.scale) != 1))
    biased = bool(np.any(np.asarray(image.bias) != 0))
    done = {(op.op_type, op.name) for op in variable.child_ops}
    first = ("mul", f"{variable.name}__scaled__")
    if (first if scaled else ("add", f"{variable.name}__biased__")) in done:
        return
    if scaled:
        op = _binary(*first, value, np.asarray(image.scale, dtype))
        value = op.outputs[0]
        yield op
    if biased:
        bias = np.asarray(image.bias, dtype)
        if CHANNELS[image.color_layout.name] > 1:
            shape = value.type.shape if isinstance(value.type, TensorType) else ()
            bias = bias.reshape((-1,) + (1,) * (-1 - _channel_axis(image, shape)))
        yield _binary("add", f"{variable.name}__biased__", value, bias)


def _binary(op_type: str, name: str, value: Value, other: NDArray[np.generic]) -> Op:
    inputs: dict[str, tuple[Argument, ...]] = {"x": (value,), "y": (Constant.of(other),)}
    return Op(op_type, name, inputs, (Value(name, value.type),))


def _channel_axis(image: Image, shape: tuple[int | None, ...]) -> int:
    """Returns where the channels are, which an `ImageType` may leave open."""
    if image.channel_first is None:
        return -3 if shape[-3:-2] == (CHANNELS[image.color_layout.name],) else -1
    return -3 if image.channel_first else -1
