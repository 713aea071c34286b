"""Editing a coremltools pymil `Program` in place: some ops of its graph are replaced."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from mlpass.errors import ModelFormatError
from mlpass.program.dtypes import BY_NAME
from mlpass.program.encode import FIRST_SPARSE_OPSET, JOINT_FORMS
from mlpass.program.ir import Argument, Constant, Op, Program, TensorType, ValueType
from mlpass.program.names import free_name, with_free_names
from mlpass.program.pymil import open_program

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mlpass.program.pymil_types import (
        PymilBlock,
        PymilFunction,
        PymilOp,
        PymilProgram,
        Variable,
    )


@contextmanager
def edit_program(program: PymilProgram) -> Iterator[PymilEditor]:
    """Opens a pymil program for editing.

    What the caller replaces meanwhile is replaced at once; that what it leads to is not a
    plain constant any more is noted in the program as each block is left.

    Raises:
        ModelFormatError: its op set has no sparse weights, its functions differ in it, or it has a
            type that MIL does not.
    """
    from coremltools.converters.mil.mil import Builder
    from coremltools.converters.mil.mil.scope import ScopeInfo, ScopeSource

    editor = PymilEditor(program)
    # New ops inherit where in the source they come from only within the scope of a graph pass.
    scope = ScopeInfo(source=ScopeSource.COREMLTOOLS_GRAPH_PASS, data=["mlpass"])
    with Builder.scope(scope), editor:
        yield editor


class PymilEditor:
    """A pymil program being edited: see `edit_program`."""

    def __init__(self, program: PymilProgram) -> None:
        """Reads `program`."""
        live = open_program(program)
        self.programs: list[Program] = [live.graph]
        opsets = {function.opset for function in live.graph.functions.values()}
        if len(opsets) > 1:
            found = ", ".join(
                f"{name!r} is iOS{function.opset}"
                for name, function in live.graph.functions.items()
            )
            raise ModelFormatError(
                f"the functions of a program must have one opset, or coremltools does not convert "
                f"it: {found}; give them the same opset_version"
            )
        if live.graph.opset < FIRST_SPARSE_OPSET:
            raise ModelFormatError(
                f"the program is for iOS{live.graph.opset}, and sparse weights begin with "
                f"iOS{FIRST_SPARSE_OPSET}: convert with minimum_deployment_target="
                f"coremltools.target.iOS{FIRST_SPARSE_OPSET} or later"
            )
        self._ops = live.ops
        self._variables = dict(live.variables)
        # Over all functions: coremltools tells weights of different functions apart by their names.
        self._names = {
            name for function in program.functions.values() for name in _names_in(function)
        }
        self._storage_names = {
            name for function in program.functions.values() for name in _storage_names_in(function)
        }
        self._shared: dict[tuple[str, str, ValueType], str] = {}
        self._added: dict[Argument, Variable] = {}  # constants in the block that ops are built in
        self._entered = ExitStack()
        self._block: PymilBlock | None = None

    def __enter__(self) -> PymilEditor:
        return self

    def __exit__(self, *_: object) -> None:
        self._entered.close()

    @property
    def nbytes(self) -> int:
        """The sizes of all constants that go to a weight file, those of equal storage once."""
        found = {
            constant.storage: constant.nbytes
            for constant in self._variables
            if isinstance(constant, Constant) and constant.in_file
        }
        return sum(found.values())

    def replace(self, op: Op, new_ops: Sequence[Op]) -> None:
        """Puts `new_ops` in the place of `op`; the last makes values of the same names."""
        old = self._ops[op]
        if old.enclosing_block is None:
            return  # two functions may be one block: it was replaced with the other's
        self._enter(old.enclosing_block)
        waiting = list(_parts(old))
        weight_id = _weight_id(old)
        for new in with_free_names(new_ops, self._names):
            self._insert(new, old, weight_id)
        block, result = old.enclosing_block, self._variables[new_ops[-1].outputs[-1]]
        block.replace_uses_of_var_after_op(
            anchor_op=old, old_var=old.outputs[-1], new_var=result, force_replace=True
        )
        block.remove_ops([old])
        while waiting:
            part = waiting.pop()
            if part.enclosing_block is not None and not _is_read(part):
                waiting += _parts(part)
                part.enclosing_block.remove_ops([part])

    def _enter(self, block: PymilBlock) -> None:
        """Makes `block` the one that ops are built in.

        Leaving a block updates all of it, so that is done once for neighbouring ops.
        """
        if block is not self._block:
            self._entered.close()
            self._entered.enter_context(block)
            self._block = block
            self._added.clear()

    def _insert(self, new: Op, before: object, weight_id: str | None) -> None:
        from coremltools.converters.mil.mil import Builder

        if new.type == "const":
            made = self._const(new.inputs["val"][0], new.name, before, weight_id)
        else:
            inputs = {}
            for parameter, arguments in new.inputs.items():
                found = []
                for argument in arguments:
                    variable = self._variables.get(argument) or self._added.get(argument)
                    if isinstance(argument, Constant) and variable is None:
                        shared = weight_id and self._shared_name(weight_id, parameter, argument)
                        name = free_name(f"{new.name}_{parameter}", self._names)
                        variable = self._const(argument, name, before, shared)
                        self._added[argument] = variable
                    found.append(variable)
                inputs[parameter] = found[0] if len(found) == 1 else found
            made = getattr(Builder, new.type)(**inputs, name=new.name, before_op=before)
        results = made if isinstance(made, tuple | list) else (made,)
        for value, variable in zip(new.outputs, results, strict=True):
            variable.name = value.name
            self._variables[value] = variable

    def _const(
        self, constant: Argument, name: str, before: object, weight_id: str | None
    ) -> Variable:
        """Returns the variable of a new const op.

        Args:
            constant: its value.
            name: its name.
            before: the op that it is put before.
            weight_id: names the storage that it shares with other functions; None where none does.
        """
        from coremltools.converters.mil.mil import Builder

        variable: Variable = Builder.const(val=_pymil_value(constant), name=name, before_op=before)
        if weight_id is not None:
            assert variable.op is not None  # it is the result of a const
            variable.op.weight_id = weight_id
        return variable

    def _shared_name(self, weight_id: str, parameter: str, constant: Argument) -> str:
        """Returns what names the storage of one part of a weight, the same in all functions."""
        key = weight_id, parameter, constant.type
        if key not in self._shared:
            self._shared[key] = free_name(f"{weight_id}_{parameter}", self._storage_names)
        return self._shared[key]


def _pymil_value(constant: Argument) -> NDArray[np.generic]:
    """Returns a constant's array as pymil holds it: below a byte, its type says so."""
    from coremltools.converters.mil.mil import types

    # All that a new op can have.
    assert isinstance(constant, Constant)
    assert isinstance(constant.type, TensorType)
    array: NDArray[np.generic] = constant.read()
    if BY_NAME[constant.type.dtype].bits >= 8:
        return array
    return array.astype(types.nptype_from_builtin(types.string_to_builtin(constant.type.dtype)))


def _weight_id(op: PymilOp) -> str | None:
    """Returns what names the storage that a const or constexpr op shares across functions."""
    if op.op_type in JOINT_FORMS:
        op = op.inputs[JOINT_FORMS[op.op_type][0]].op
    return getattr(op, "weight_id", None)


def _parts(op: PymilOp) -> dict[PymilOp, None]:
    """Returns the ops that make what an op reads."""
    makers = (variable.op for variable in op.get_flattened_inputs())
    return dict.fromkeys(maker for maker in makers if maker is not None)


def _is_read(op: PymilOp) -> bool:
    return any(variable.child_ops or variable.consuming_blocks for variable in op.outputs)


def _names_in(function: PymilFunction) -> Iterator[str]:
    """Yields every name in a function: of inputs, ops, their results, and inputs of blocks."""
    yield from function.inputs
    for op in _walk(function):
        yield op.name
        values = [*op.outputs, *(value for nested in op.blocks for value in nested.inputs)]
        yield from (value.name for value in values)


def _storage_names_in(function: PymilFunction) -> Iterator[str]:
    """Yields what coremltools names the storage of each constant of a function by."""
    for op in _walk(function):
        if op.op_type == "const":
            assert op.enclosing_block is not None  # it was met there
            yield op.weight_id or f"{op.enclosing_block.name}_{op.outputs[0].name}"


def _walk(block: PymilBlock) -> Iterator[PymilOp]:
    for op in block.operations:
        yield op
        for nested in op.blocks:
            yield from _walk(nested)
