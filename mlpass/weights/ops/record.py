"""What mlpass knows of an op that reads a weight: one record for each op and parameter."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from mlpass.arrays import Array, Namespace
from mlpass.errors import ConfigError, NotApplicable
from mlpass.program.ir import Op
from mlpass.runtime.kernels.registry import Arguments, Kernel
from mlpass.sparsity.layout import Layout


def other_arguments(op: Op, parameter: str, position: int) -> Iterator[Hashable]:
    """Yields what is given to an op beside its weight and its bias: names, values, constants."""
    for name, arguments in sorted(op.inputs.items()):
        for place, argument in enumerate(arguments):
            if (name, place) != (parameter, position) and name != "bias":
                yield from (name, place, argument)


@dataclass(frozen=True)
class WeightOp:
    """How an op reads a weight by one of its parameters.

    With the weight as a matrix M (groups, rows, columns), `inputs @ M^T` is what the op computes of
    it, biases aside; the order of groups and columns is that of the layout.

    Attributes:
        op_type: MIL's op type.
        parameter: by which it reads the weight.
        layout: given the shape as stored, the op's constant scalar parameters by name, and the
            position of the weight among the arguments of the parameter, returns its layout; or
            raises NotApplicable.
        inputs: given the backend's array namespace, the arguments of the op's kernel, that kernel,
            and the same position, returns what the weight's rows meet in bounded chunks, (groups,
            samples, columns), which may be views; or raises NotApplicable. Of a table that is
            gathered from, how often each row is read: int64, (rows,).
        outputs: given the namespace, an array like what the op makes, the arguments and the same
            position, returns that as (groups, samples, rows), samples in the order of
            `inputs`; None where what the op makes is not linear in the weight.
        key: given the op, the parameter and the position, yields what two uses have in common that
            meet the same inputs, a value or constant as it is.
        gathered: whether rows of it are read, rather than multiplied with.
        trains: whether training moves it.
        adds: whether what the op makes with the sum of two weights, its parameter `bias` aside, is
            the sum of what it makes with each.
        beside: the op's other parameters that training moves.
        neighbours: given the arguments, returns whether the rows of a sample are places of one
            picture, which are much alike.
    """

    op_type: str
    parameter: str
    layout: Callable[[Sequence[int], Mapping[str, object], int], Layout]
    inputs: Callable[[Namespace, Arguments, Kernel, int], Iterator[Array]]
    key: Callable[[Op, str, int], Iterator[Hashable]] = other_arguments
    outputs: Callable[[Namespace, Array, Arguments, int], Array] | None = None
    gathered: bool = False
    trains: bool = True
    adds: bool = False
    beside: frozenset[str] = frozenset()
    neighbours: Callable[[Arguments], bool] = lambda _: False


# By op type and parameter: a mapping of the parameters that hold weights, too.
WEIGHT_OPS: dict[str, dict[str, WeightOp]] = {}


def register(record: WeightOp) -> None:
    """Makes a record known: its op's weights are then sites.

    Raises:
        ConfigError: there is one of this op and parameter.
    """
    if find_record(record.op_type, record.parameter) is not None:
        raise ConfigError(
            f"weight op: {record.op_type}.{record.parameter} is registered already; register it "
            "once, or change that record"
        )
    WEIGHT_OPS.setdefault(record.op_type, {})[record.parameter] = record


def find_record(op_type: str, parameter: str) -> WeightOp | None:
    """Returns the record of an op and parameter, None where it is not read as a weight."""
    return WEIGHT_OPS.get(op_type, {}).get(parameter)


def is_gathered(op_type: str, parameter: str) -> bool:
    """Returns whether the op reads rows of a table by that parameter."""
    record = find_record(op_type, parameter)
    return record is not None and record.gathered


def layout_of(
    op_type: str,
    parameter: str,
    position: int,
    shape: Sequence[int],
    settings: Mapping[str, object],
) -> Layout:
    """Returns the layout of a weight by the op that reads it.

    Args:
        op_type: MIL's op type.
        parameter: by which the op reads it.
        position: among the arguments of that parameter.
        shape: as stored.
        settings: the op's constant scalar parameters (`groups`, `transpose_y`, `equation`, ...).

    Raises:
        NotApplicable: the op does not use it as the matrix of dot products; the text says why.
    """
    record = find_record(op_type, parameter)
    if record is None:
        raise NotApplicable(f"{op_type}.{parameter} is not read as a weight")
    try:
        layout = record.layout(shape, settings, position)
    except (ValueError, LookupError, TypeError, ArithmeticError):
        layout = None
    if layout is None or not layout.consistent:
        raise NotApplicable(f"{op_type}.{parameter} does not fit the op's other parameters")
    return layout
