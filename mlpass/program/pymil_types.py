"""What is read and called of coremltools' pymil objects, which has no types of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from enum import Enum
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


class Builtin(Protocol):
    """A type: `types` of coremltools tells which of these its kind has."""

    T: Sequence[Any]  # types, and sizes

    def get_primitive(self) -> Builtin:
        """Returns the type of a tensor's elements."""

    def get_shape(self) -> Sequence[object]:
        """Returns the sizes of a tensor, numbers and symbols."""

    def wrapped_type(self) -> Builtin:
        """Returns what a state holds."""


class Variable(Protocol):
    """The result of an op, or an input."""

    name: str
    op: PymilOp | None
    sym_type: Builtin
    val: object
    child_ops: Sequence[PymilOp]
    consuming_blocks: Sequence[PymilBlock]

    def __hash__(self) -> int: ...


class PymilOp(Protocol):
    """An op."""

    name: str
    op_type: str
    inputs: Mapping[str, Any]  # a variable, several, or None
    outputs: Sequence[Variable]
    blocks: Sequence[PymilBlock]
    enclosing_block: PymilBlock | None
    weight_id: str | None

    def get_flattened_inputs(self) -> Sequence[Variable]:
        """Returns all that it reads."""


class PymilBlock(AbstractContextManager[object], Protocol):
    """A block; ops are built in the one that is entered."""

    name: str
    operations: Sequence[PymilOp]
    outputs: Sequence[Variable]

    @property
    def inputs(self) -> Any:
        """Of a nested block variables, of a function variables by name."""

    def remove_ops(self, existing_ops: Sequence[PymilOp]) -> None:
        """Takes ops out."""

    def replace_uses_of_var_after_op(
        self,
        anchor_op: PymilOp,
        old_var: Variable,
        new_var: Variable,
        *,
        force_replace: bool = False,
    ) -> object:
        """Has all ops after one read another variable."""


class PymilFunction(PymilBlock, Protocol):
    """A function."""

    input_types: Sequence[object]
    opset_version: Enum | None


class PymilProgram(Protocol):
    """A program."""

    functions: Mapping[str, PymilFunction]
    default_function_name: str
    export_as_multifunction: bool


class Image(Protocol):
    """An `ImageType`, an input that is an image."""

    color_layout: Enum
    scale: ArrayLike
    bias: ArrayLike
    channel_first: bool | None
