"""What a weight is multiplied with, as the matrix whose Gram calibration wants.

The order of groups and columns is that of `sparsity.layout`: with a weight M as (groups, rows,
columns), `inputs @ M^T` is what the op computes of it, biases aside.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from mlpass.errors import NotApplicable
from mlpass.runtime.inputs.convolutions import conv_inputs, conv_transpose_inputs
from mlpass.runtime.inputs.products import einsum_inputs, linear_inputs, matmul_inputs
from mlpass.runtime.inputs.recurrent import input_states, step_inputs
from mlpass.runtime.kernels.arguments import integer
from mlpass.runtime.kernels.indexing import IGNORE, axis_of, combine_rows, read_indices

Array = Any

_STEP_WEIGHTS = ("weight_ih", "weight_ih_back")
_STATE_WEIGHTS = ("weight_hh", "weight_hh_back")


def matrix_inputs(
    xp: Any,
    op_type: str,
    parameter: str,
    position: int,
    arguments: Mapping[str, Any],
    kernel: Callable[..., Any],
) -> Iterator[Array]:
    """Returns the inputs that a weight's rows meet, (groups, samples, columns), in bounded chunks.

    They may be views of the arguments, and lie in memory in another order than their axes'.

    Args:
        xp: the backend's array namespace.
        op_type: MIL's op type.
        parameter: by which the op reads the weight.
        position: of the weight among the arguments of that parameter.
        arguments: what the op's kernel is given, the weight included.
        kernel: the op's own; it is called for recurrent weights, to have their hidden states.

    Raises:
        NotApplicable: the op does not use it as the matrix of dot products; the text says why.
        ValueError: the arguments do not fit together.
    """
    if op_type == "linear":
        return linear_inputs(xp, arguments)
    if op_type == "matmul":
        return matmul_inputs(xp, parameter, arguments)
    if op_type == "einsum":
        return einsum_inputs(xp, position, arguments)
    if op_type == "conv":
        return conv_inputs(xp, arguments)
    if op_type == "conv_transpose":
        return conv_transpose_inputs(xp, arguments)
    if op_type in ("lstm", "gru", "rnn") and parameter in _STEP_WEIGHTS:
        return step_inputs(xp, arguments)
    if op_type in ("lstm", "gru", "rnn") and parameter in _STATE_WEIGHTS:
        return input_states(xp, parameter, arguments, kernel)
    if op_type == "gather":
        raise NotApplicable("a gather table is read, not multiplied with")
    raise NotApplicable(f"{op_type}.{parameter} is no matrix of dot products")


def row_counts(xp: Any, arguments: Mapping[str, Any]) -> Array:
    """Returns how often `gather` reads each row of its table: int64, (rows,).

    Negative indices count from the end; those out of range, which read nothing, do not count.

    Args:
        xp: the backend's array namespace.
        arguments: what the op's kernel is given.

    Raises:
        NotApplicable: it does not gather along the table's first axis.
    """
    table, indices = arguments["x"], arguments["indices"]
    axis = axis_of(integer(arguments.get("axis", 0)), table.ndim)
    if axis:
        raise NotApplicable(f"gather reads along axis {axis} of its table, which makes no rows")
    size = table.shape[0]
    places = xp.reshape(xp.astype(indices, xp.int64), (-1,))
    places, inside = read_indices(xp, xp.where(places < 0, places + size, places), size, IGNORE)
    once = xp.ones_like(places) if inside is None else xp.astype(inside, xp.int64)
    none = xp.zeros((size, 1), dtype=xp.int64, device=places.device)
    return combine_rows(xp, none, places, once[:, None], "add")[:, 0]
