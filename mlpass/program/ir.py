"""A MIL program as a small immutable graph.

Two sources make it: an `.mlpackage` (`mlpackage.py`) and a coremltools `Program` (`pymil.py`). A
pass reads nothing but this graph, and hands its source new ops for the ones it wants replaced.

Ops, values and constants are compared by identity: each is one place in one program.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlpass.program.dtypes import BY_NAME, DType, dtype_of_array, pack_elements, unpack_elements

Raw = NDArray[np.uint8]

# Channels of an image by its colour layout.
CHANNELS = {"RGB": 3, "BGR": 3, "GRAYSCALE": 1, "GRAYSCALE_FLOAT16": 1}
_SMALLEST_IN_FILE = 10  # elements; fewer are stated in the program's text


@dataclass(frozen=True)
class TensorType:
    """A tensor's element type (coremltools' spelling) and shape; None is an unknown size."""

    dtype: str
    shape: tuple[int | None, ...]

    @cached_property
    def size(self) -> int:
        """Its number of elements, unknown sizes counted as 1."""
        return prod(1 if size is None else size for size in self.shape)

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """Its shape, an unknown size as 0: for constants, all of whose sizes are known."""
        return tuple(size or 0 for size in self.shape)


@dataclass(frozen=True)
class ListType:
    """A list of `element`s; `length` None where it may grow."""

    element: ValueType
    length: int | None


@dataclass(frozen=True)
class TupleType:
    """A tuple of values."""

    elements: tuple[ValueType, ...]


@dataclass(frozen=True)
class DictionaryType:
    """A mapping, as a classifier's probabilities are."""

    key: ValueType
    value: ValueType


@dataclass(frozen=True)
class StateType:
    """A tensor that lives on between predictions."""

    tensor: ValueType


ValueType = TensorType | ListType | TupleType | DictionaryType | StateType


@dataclass(frozen=True, eq=False)
class Value:
    """The result of an op, or an input of a function or block."""

    name: str
    type: ValueType


@dataclass(frozen=True, eq=False)
class Constant:
    """A value that the program states.

    Attributes:
        type: what it is.
        load: returns it: for a tensor the stored bytes, else a Python object.
        storage: (file, place) where it is in a weight file; constants of equal storage are one.
        in_file: whether that is a weight file rather than the program's own text.
        part: returns the stored bytes of the elements from one place to another, where that is
            cheaper than to load it.
        pieces: yields its stored bytes one after the other, where it is not held in memory.
        stored: the bytes that are stored for it, where those are not its elements', packed.
    """

    type: ValueType
    load: Callable[[], Any] = field(repr=False)
    storage: tuple[str, Hashable] | None = None
    in_file: bool = False
    part: Callable[[int, int], Raw] | None = field(default=None, repr=False)
    pieces: Callable[[], Iterator[Raw]] | None = field(default=None, repr=False)
    stored: int | None = None

    @classmethod
    def packed(
        cls, raw: Raw, dtype: str, shape: tuple[int, ...], beside: Constant | None = None
    ) -> Constant:
        """Returns a new constant.

        Args:
            raw: its elements as they are stored, packed.
            dtype: their type.
            shape: how many there are.
            beside: an old constant: the new one goes to the same weight file. Without it, where
                the old one is stated in the program's text, or where the new one is so small that
                coremltools would, it is stated there, too.
        """
        storage = _place_beside(beside, prod(shape))
        return cls(TensorType(dtype, shape), lambda: raw, storage, in_file=storage is not None)

    @classmethod
    def in_pieces(
        cls,
        pieces: Callable[[], Iterator[Raw]],
        dtype: str,
        shape: tuple[int, ...],
        beside: Constant,
    ) -> Constant:
        """Returns a new constant whose elements are made only as they are written.

        Args:
            pieces: yields its elements as they are stored, packed, whenever it is called.
            dtype: as for `packed`, and so are the others.
            shape: of all of them.
            beside: an old constant.
        """

        def load() -> Raw:
            return np.concatenate([*pieces(), np.empty(0, np.uint8)])

        storage = _place_beside(beside, prod(shape))
        kind, in_file = TensorType(dtype, shape), storage is not None
        return cls(kind, load, storage, in_file, pieces=pieces)

    @classmethod
    def of(cls, array: NDArray[np.generic], beside: Constant | None = None) -> Constant:
        """Returns a new constant that holds `array`: see `packed`."""
        dtype = dtype_of_array(array)
        return cls.packed(pack_elements(array, dtype), dtype.name, array.shape, beside)

    @property
    def dtype(self) -> DType:
        """The element type of a tensor.

        Raises:
            TypeError: it is not a tensor.
        """
        if not isinstance(self.type, TensorType):
            raise TypeError(f"a constant of type {self.type} has no element type")
        return BY_NAME[self.type.dtype]

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of a tensor; a constant's sizes are all known."""
        if not isinstance(self.type, TensorType):
            raise TypeError(f"a constant of type {self.type} has no shape")
        return self.type.sizes

    @property
    def size(self) -> int:
        """The number of elements of a tensor."""
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        """The number of bytes that a tensor's elements take, packed."""
        return self.dtype.nbytes(self.size)

    @property
    def stored_nbytes(self) -> int:
        """The number of bytes that are stored for it."""
        return self.nbytes if self.stored is None else self.stored

    def read(self) -> Any:
        """Returns it as numpy array (a scalar as 0-d array), or as the Python object it is.

        Raises:
            ModelFormatError: what is stored is not what the type says.
        """
        if not isinstance(self.type, TensorType) or self.dtype.name == "string":
            return self.load()
        return unpack_elements(self.load(), self.dtype, self.size).reshape(self.shape)

    def first(self, count: int) -> NDArray[np.generic]:
        """Returns the first `count` elements of a tensor, or all where there are fewer, flat.

        Raises:
            ModelFormatError: what is stored is not what the type says.
        """
        count = min(count, self.size)
        if self.part is None:
            return np.asarray(self.read()).reshape(-1)[:count]
        return unpack_elements(self.part(0, count), self.dtype, count)


def _place_beside(beside: Constant | None, size: int) -> tuple[str, Hashable] | None:
    """Returns a new place in the weight file of an old constant; None for the program's text."""
    if beside is None or not beside.in_file or beside.storage is None or size < _SMALLEST_IN_FILE:
        return None
    return (beside.storage[0], object())


Argument = Value | Constant


@dataclass(frozen=True, eq=False)
class Op:
    """One operation.

    Attributes:
        type: MIL's op type, e.g. "conv".
        name: its name attribute, "" where it has none.
        inputs: arguments by parameter; a parameter such as concat's `values` has several. The
            parameters of `const` and `constexpr_*` ops, which files keep as attributes, are here
            too.
        outputs: its results.
        blocks: nested blocks of a control flow op.
    """

    type: str
    name: str
    inputs: Mapping[str, tuple[Argument, ...]]
    outputs: tuple[Value, ...]
    blocks: tuple[Block, ...] = ()


@dataclass(frozen=True, eq=False)
class Block:
    """Ops in order of execution, with the block's own inputs and its results."""

    inputs: tuple[Value, ...]
    ops: tuple[Op, ...]
    outputs: tuple[Value, ...]

    def walk(self) -> Iterator[Op]:
        """Yields every op, those of nested blocks right after the op they belong to."""
        for op in self.ops:
            yield op
            for block in op.blocks:
                yield from block.walk()

    def walk_blocks(self) -> Iterator[Block]:
        """Yields this block and all nested ones."""
        yield self
        for op in self.ops:
            for block in op.blocks:
                yield from block.walk_blocks()


@dataclass(frozen=True, eq=False)
class Function:
    """An entry point of a program.

    Attributes:
        name: of the function.
        block: what it does.
        opset: the iOS version whose op set it uses.
        layouts: the colour layout of each input that is an image, where the program itself is what
            tells of it.
    """

    name: str
    block: Block
    opset: int
    layouts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Program:
    """A MIL program: its functions by name.

    Attributes:
        name: which part of a pipeline it is, "" outside of one.
        functions: by name.
        opset: the newest iOS version whose op set a function of it uses, e.g. 17.
    """

    name: str
    functions: Mapping[str, Function]
    opset: int
