"""What a prediction is given and gives, and the arrays that a program runs on."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlpass.arrays import host
from mlpass.errors import ExecutionError, InputError, close_matches
from mlpass.program.dtypes import BY_NAME
from mlpass.program.ir import CHANNELS
from mlpass.runtime.description import Feature
from mlpass.runtime.misfits import misfit

UNREADABLE = (ValueError, TypeError, RuntimeError, OSError, SyntaxError)
"""What an array is not made of, or a picture is not read for: nested lists of several lengths,
tensors without values, pictures that were closed or are cut off."""
_MODES = {"RGB": "RGB", "BGR": "RGB", "GRAYSCALE": "L", "GRAYSCALE_FLOAT16": "F"}


def check_names(
    given: Mapping[str, object], inputs: Sequence[Feature], states: Collection[str] = ()
) -> None:
    """Raises InputError where names are not the inputs', all that is wrong in one text.

    Args:
        given: by name.
        inputs: of the model.
        states: the names of what it keeps, which are not inputs.
    """
    names = [feature.name for feature in inputs]
    problems = [
        f"{name!r} is a state, which begins at zeros, and not an input: leave it out"
        if name in states
        else f"there is no input {name!r}{close_matches(str(name), names)}"
        for name in given
        if name not in names
    ]
    problems += [
        f"input {feature.name!r} ({expected(feature)}) is missing"
        for feature in inputs
        if feature.name not in given and not feature.optional
    ]
    if problems:
        text = "; ".join(problems)
        end = "" if text.endswith("?") else "."
        raise InputError(f"{text}{end} The inputs are {', '.join(map(repr, names))}.")


def expected(feature: Feature) -> str:
    """Returns in words what an input takes."""
    if feature.kind == "image":
        return f"a {feature.layout} image, (height, width) {feature.shapes}"
    if feature.kind == "array":
        return f"{feature.dtype} {feature.shapes}"
    return feature.kind


def takes(feature: Feature, shape: tuple[int, ...]) -> bool:
    """Returns whether an array of a shape can be an input's."""
    if feature.kind == "image":
        return shape[:2] == (1, CHANNELS[feature.layout]) and feature.shapes.allow(shape[2:])
    return feature.shapes.allow(shape)


def shape_misfit(feature: Feature, shape: tuple[int, ...]) -> str:
    """Returns which axis of a shape does not fit an input, and what mends it: see `misfit`."""
    return misfit(shape, lambda mended: takes(feature, mended))


def read_input(feature: Feature, value: object) -> NDArray[np.generic]:
    """Returns an input as the array that the program runs on, floats as fp32.

    Args:
        feature: the input.
        value: an array, a torch tensor, a nested list or a number; for an image a PIL image, or
            its array (1, channels, height, width), channels in the model's order; None for what
            was left out.

    Raises:
        InputError: it does not fit.
    """
    if value is None and feature.optional:
        try:
            return np.full(feature.shape, feature.default, _compute_dtype(feature.dtype))
        except (ValueError, OverflowError, MemoryError) as error:
            raise InputError(f"input {feature.name!r}: has no default: {error}") from None
    if feature.kind == "image":
        return _read_image(feature, value)
    array = as_array(feature, value)
    alone = array.size == 1 == prod(feature.shape)
    if feature.shapes.ranges in ((), ((1, 1),)) and array.shape in ((), (1,)) and alone:
        array = array.reshape(feature.shape)  # Core ML knows no scalars: they are of shape (1,)
    if not takes(feature, array.shape):
        raise InputError(
            f"input {feature.name!r}: must be of shape {feature.shapes}. "
            f"Got {array.shape}{shape_misfit(feature, array.shape)}."
        )
    return _converted(feature, array)


def write_output(feature: Feature, value: object) -> object:
    """Returns an output as a prediction gives it.

    Args:
        feature: the output.
        value: a numpy array; for classifiers the label, or the probability by label.

    Raises:
        ExecutionError: it is something else than the model says.
    """
    try:
        return _written(feature, value)
    except (TypeError, ValueError, AttributeError, LookupError, ArithmeticError) as error:
        got = f"{type(value).__name__} {getattr(value, 'shape', '')}".rstrip()
        raise ExecutionError(
            f"output {feature.name!r}: is not the {feature.kind} that the model says. Got {got}: "
            f"{error}"
        ) from error


def _written(feature: Feature, value: Any) -> Any:
    if feature.kind == "image":
        return _write_image(feature, np.asarray(value))
    if feature.kind == "dictionary":
        return {label: float(probability) for label, probability in value.items()}
    if feature.kind == "integer":
        return int(value)
    if feature.kind == "number":
        return float(value)
    if feature.kind != "array":
        return value
    array = restored(np.asarray(value), feature.dtype)
    return array if array.shape else array.reshape(1)  # Core ML knows no scalars


def restored(array: NDArray[np.generic], dtype: str) -> NDArray[np.generic]:
    """Returns an array of a run in its declared type; what numpy has no type for stays."""
    if dtype not in BY_NAME or BY_NAME[dtype].numpy in (None, "str"):
        return array
    with np.errstate(over="ignore"):  # beyond fp16's range is inf, as Core ML has it
        return array.astype(str(BY_NAME[dtype].numpy), copy=False)


def _compute_dtype(dtype: str) -> str:
    name = BY_NAME[dtype].numpy or "float32"
    return "float32" if name.startswith("float") else str(name)


def as_array(feature: Feature, value: object) -> NDArray[np.generic]:
    """Returns a value of numbers as an array of its own type.

    Raises:
        InputError: it is not one.
    """
    try:
        array = host(value)
    except UNREADABLE as error:
        raise InputError(f"input {feature.name!r}: is not an array: {error}") from None
    if array.dtype.kind not in "biuf":
        raise InputError(
            f"input {feature.name!r}: must be {expected(feature)}. "
            f"Got {type(value).__name__} of {array.dtype}."
        )
    return array


def _converted(feature: Feature, array: NDArray[np.generic]) -> NDArray[np.generic]:
    """Returns `array` in the declared type, or says which value does not survive that."""
    target = np.dtype(BY_NAME[feature.dtype].numpy or "float32")
    if array.dtype == target:
        return array.astype(_compute_dtype(feature.dtype), copy=False)
    with np.errstate(over="ignore", invalid="ignore"):
        made = array.astype(target)
        if target.kind == "f":
            lost = (
                np.isinf(made) & np.isfinite(array) if array.dtype.kind == "f" else np.isinf(made)
            )
        else:
            lost = made.astype(array.dtype) != array
    if lost.any():
        place = np.unravel_index(int(np.argmax(lost)), array.shape)
        where = f" at {tuple(map(int, place))}" if place else ""
        raise InputError(
            f"input {feature.name!r}: must be {feature.dtype}. "
            f"Got {array.dtype} with the value {array[place]}{where}, which does not fit."
        )
    return made.astype(_compute_dtype(feature.dtype), copy=False)


def is_picture(value: object) -> bool:
    """Returns whether an image is one of PIL's, whose mode is a text; a tensor's is a function."""
    return isinstance(getattr(value, "mode", None), str)


def _read_image(feature: Feature, value: object) -> NDArray[np.generic]:
    channels, mode = CHANNELS[feature.layout], _MODES[feature.layout]
    if is_picture(value):
        given = getattr(value, "mode", None)  # which is there
        if given != mode:
            raise InputError(
                f"input {feature.name!r}: must be a PIL image of mode {mode!r} "
                f"({feature.layout}). Got mode {given!r}: convert it with "
                f".convert({mode!r})."
            )
        try:
            pixels: NDArray[np.generic] = np.asarray(value, np.float32)
        except UNREADABLE as error:
            raise InputError(f"input {feature.name!r}: cannot be read: {error}") from None
        pixels = pixels[..., None] if pixels.ndim == 2 else pixels
        pixels = pixels[..., ::-1] if feature.layout == "BGR" else pixels
        array = np.ascontiguousarray(pixels.transpose(2, 0, 1)[None])
    else:
        array = _converted(feature, as_array(feature, value))
        if array.ndim != 4 or array.shape[:2] != (1, channels):
            raise InputError(
                f"input {feature.name!r}: must be a PIL image, or an array of shape "
                f"(1, {channels}, height, width). "
                f"Got shape {array.shape}{shape_misfit(feature, array.shape)}."
            )
    if not feature.shapes.allow(array.shape[2:]):
        raise InputError(
            f"input {feature.name!r}: must be of (height, width) {feature.shapes}. "
            f"Got {array.shape[2:]}{shape_misfit(feature, array.shape)}."
        )
    return array


def _write_image(feature: Feature, array: NDArray[np.generic]) -> Any:
    from PIL import Image

    pixels = array.reshape(array.shape[-3:]).transpose(1, 2, 0)
    pixels = pixels[..., ::-1] if feature.layout == "BGR" else pixels
    if feature.layout == "GRAYSCALE_FLOAT16":
        return Image.fromarray(np.ascontiguousarray(pixels[..., 0], np.float32))
    rounded = np.rint(np.clip(pixels, 0, 255)).astype(np.uint8)
    return Image.fromarray(
        np.ascontiguousarray(rounded[..., 0] if rounded.shape[2] == 1 else rounded)
    )
