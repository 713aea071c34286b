"""What a model says of its inputs, outputs and states, whatever source it comes from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from mlpass.errors import ConfigError, close_matches
from mlpass.program.ir import DictionaryType, Function, StateType, TensorType, ValueType

if TYPE_CHECKING:
    from mlpass.program.proto import Message

Kind = Literal["array", "image", "string", "integer", "number", "dictionary", "other"]

_ARRAY_DTYPES = {65568: "fp32", 65600: "fp64", 131104: "int32", 131080: "int8", 65552: "fp16"}
_LAYOUTS = {10: "GRAYSCALE", 20: "RGB", 30: "BGR", 40: "GRAYSCALE_FLOAT16"}
_UNBOUNDED = -1


@dataclass(frozen=True)
class Shapes:
    """The shapes that an array may have: one of `listed`, or within `ranges`, or any.

    Attributes:
        listed: whole shapes.
        ranges: for each axis its smallest and largest size, the largest None where unbounded.
    """

    listed: tuple[tuple[int, ...], ...] = ()
    ranges: tuple[tuple[int, int | None], ...] = ()

    def allow(self, shape: tuple[int, ...]) -> bool:
        """Returns whether `shape` is one of them."""
        if self.listed:
            return shape in self.listed
        if not self.ranges:
            return True
        return len(shape) == len(self.ranges) and all(
            low <= size and (high is None or size <= high)
            for size, (low, high) in zip(shape, self.ranges, strict=True)
        )

    def __str__(self) -> str:
        if self.listed:
            return " or ".join(str(shape) for shape in self.listed)
        sizes = [
            str(low) if low == high else f"{low}..{'' if high is None else high}"
            for low, high in self.ranges
        ]
        return f"({', '.join(sizes)}{',' if len(sizes) == 1 else ''})" if sizes else "any shape"


@dataclass(frozen=True)
class Feature:
    """One input or output.

    Attributes:
        name: of the feature, which the program's value shares.
        kind: what a prediction takes or gives for it.
        dtype: element type of an array; of an image, that of the array it becomes.
        shape: the usual shape of an array; (height, width) of an image.
        shapes: all shapes that are allowed.
        layout: of an image: "RGB", "BGR", "GRAYSCALE" or "GRAYSCALE_FLOAT16".
        optional: whether it may be left out.
        default: what each of its elements is then.
    """

    name: str
    kind: Kind
    dtype: str = ""
    shape: tuple[int, ...] = ()
    shapes: Shapes = Shapes()
    layout: str = ""
    optional: bool = False
    default: float = 0


@dataclass(frozen=True)
class Description:
    """The inputs, outputs and states of one function of a model, in the model's own order.

    Attributes:
        prefix: of its states' names, where others beside it keep some of their own.
    """

    inputs: tuple[Feature, ...]
    outputs: tuple[Feature, ...]
    states: tuple[Feature, ...]
    prefix: str = ""


def choose_function(
    model: Message | None, functions: Mapping[str, Function], name: str | None
) -> str:
    """Returns the name of the function to run.

    Args:
        model: the model message; None for a program without one.
        functions: of its program.
        name: the one asked for; None for the model's own choice.

    Raises:
        ConfigError: there is no such function; or there are several, and no choice was made.
    """
    described = model.description.defaultFunctionName if model is not None else ""
    chosen = name or described or ("main" if "main" in functions else "")
    if not chosen and len(functions) == 1:
        (chosen,) = functions
    if chosen not in functions:
        listed = ", ".join(map(repr, functions))
        asked = (
            f"Got {name!r}{close_matches(chosen, functions) or '.'}" if name else "None was chosen."
        )
        raise ConfigError(f"function_name: must be one of {listed}. {asked}")
    return chosen


def describe_message(model: Message, function: Function) -> Description:
    """Returns what a model message says of one of its functions."""
    functions = model.description.functions
    source = next((other for other in functions if other.name == function.name), model.description)
    return _described(source)


def describe_part(model: Message) -> Description:
    """Returns what a model message says of itself as a whole."""
    return _described(model.description)


def _described(source: Message) -> Description:
    return Description(
        tuple(map(_feature, source.input)),
        tuple(map(_feature, source.output)),
        tuple(map(_feature, source.state)),
    )


def describe_function(function: Function) -> Description:
    """Returns what a function's own types say, for programs without a model around them."""
    inputs, states = [], []
    for value in function.block.inputs:
        if isinstance(value.type, StateType):
            states.append(_typed(value.name, value.type.tensor))
        else:
            inputs.append(_typed(value.name, value.type, function.layouts.get(value.name, "")))
    outputs = [_typed(value.name, value.type) for value in function.block.outputs]
    return Description(tuple(inputs), tuple(outputs), tuple(states))


def _feature(message: Message) -> Feature:
    kind = message.type.WhichOneof("Type")
    if kind == "stateType":
        return _array(message, message.type.stateType.arrayType)
    if kind == "multiArrayType":
        return _array(message, message.type.multiArrayType)
    if kind == "imageType":
        return _image(message)
    kinds: dict[str | None, Kind] = {
        "stringType": "string",
        "int64Type": "integer",
        "doubleType": "number",
        "dictionaryType": "dictionary",
    }
    return Feature(message.name, kinds.get(kind, "other"), optional=message.type.isOptional)


def _array(message: Message, array: Message) -> Feature:
    shape = tuple(int(size) for size in array.shape)
    flexible = array.WhichOneof("ShapeFlexibility")
    if flexible == "enumeratedShapes":
        shapes = Shapes(listed=tuple(tuple(item.shape) for item in array.enumeratedShapes.shapes))
    elif flexible == "shapeRange":
        shapes = Shapes(ranges=tuple(map(_range, array.shapeRange.sizeRanges)))
    else:
        shapes = Shapes(ranges=tuple((size, size) for size in shape))
    default = array.WhichOneof("defaultOptionalValue")
    return Feature(
        message.name,
        "array",
        _ARRAY_DTYPES.get(array.dataType, "fp32"),
        shape,
        shapes,
        optional=message.type.isOptional,
        default=getattr(array, default) if default else 0,
    )


def _range(message: Message) -> tuple[int, int | None]:
    high = int(message.upperBound)
    return int(message.lowerBound), None if high == _UNBOUNDED else high


def _image(message: Message) -> Feature:
    image = message.type.imageType
    size = int(image.height), int(image.width)
    flexible = image.WhichOneof("SizeFlexibility")
    if flexible == "enumeratedSizes":
        listed = tuple((int(item.height), int(item.width)) for item in image.enumeratedSizes.sizes)
        shapes = Shapes(listed=listed)
    elif flexible == "imageSizeRange":
        limits = image.imageSizeRange
        shapes = Shapes(ranges=(_range(limits.heightRange), _range(limits.widthRange)))
    else:
        shapes = Shapes(listed=(size,))
    return Feature(
        message.name,
        "image",
        "fp32",
        size,
        shapes,
        layout=_LAYOUTS.get(image.colorSpace, "RGB"),
        optional=message.type.isOptional,
    )


def _typed(name: str, value_type: ValueType, layout: str = "") -> Feature:
    if isinstance(value_type, DictionaryType):
        return Feature(name, "dictionary")
    if not isinstance(value_type, TensorType):
        return Feature(name, "other")
    if value_type.dtype == "string":
        return Feature(name, "string")
    if value_type.dtype == "int64" and not value_type.shape:
        return Feature(name, "integer")
    ranges = tuple((0, None) if size is None else (size, size) for size in value_type.shape)
    shape = tuple(size or 1 for size in value_type.shape)
    if layout:
        return Feature(name, "image", "fp32", shape[2:], Shapes(ranges=ranges[2:]), layout)
    return Feature(name, "array", value_type.dtype, shape, Shapes(ranges=ranges))
