"""How many multiplications a program takes, by the shapes that it declares."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from math import prod

from mlpass.program.ir import Constant, Function, Op, TensorType, Value

Shape = tuple[int, ...]


class _UnknownShapeError(Exception):
    """A shape that is not known before the program runs."""


def multiplications(function: Function) -> int | None:
    """Returns the multiplications of one run, zeros among the weights counted as any other.

    Those of products and convolutions, by far the most; ops in a loop or a branch count once.

    Returns:
        Their number; None where shapes vary from run to run.
    """
    ops = list(function.block.walk())
    makers = {output: op for op in ops for output in op.outputs}
    try:
        return sum(_COUNTS[op.type](op, makers) for op in ops if op.type in _COUNTS)
    except _UnknownShapeError:
        return None


def multiplications_of(functions: Iterable[Function]) -> int | None:
    """Returns those of functions that run one after another; None where a shape varies."""
    counts = [multiplications(function) for function in functions]
    return None if None in counts else sum(filter(None, counts))


Makers = Mapping[Value, Op]


def _shape(of: Value | Constant) -> Shape:
    """Returns the shape of a value."""
    if not isinstance(of.type, TensorType) or None in of.type.shape:
        raise _UnknownShapeError
    return tuple(size or 0 for size in of.type.shape)


def _given(op: Op, parameter: str, position: int = 0) -> Shape:
    return _shape(op.inputs[parameter][position])


def _convolution(op: Op, _: Makers) -> int:
    """Each output is the dot product of a kernel: weight (out, in / groups, *kernel)."""
    return prod(_shape(op.outputs[0])) * prod(_given(op, "weight")[1:])


def _transposed(op: Op, _: Makers) -> int:
    """Each input is multiplied with a kernel: weight (in, out / groups, *kernel)."""
    return prod(_given(op, "x")) * prod(_given(op, "weight")[1:])


def _linear(op: Op, _: Makers) -> int:
    return prod(_shape(op.outputs[0])) * _given(op, "weight")[-1]


def _matmul(op: Op, _: Makers) -> int:
    x, y, made = _given(op, "x"), _given(op, "y"), _shape(op.outputs[0])
    if 1 in (len(x), len(y)):
        inner = min((x, y), key=len)[0]
    else:  # x is (..., rows, inner), or swapped
        inner = x[-1] * x[-2] // made[-2] if made[-2] else 0
    return prod(made) * inner


def _einsum(op: Op, makers: Makers) -> int:
    """Every combination of all letters is a product."""
    (equation,) = op.inputs["equation"]
    if isinstance(equation, Value):
        (equation,) = makers[equation].inputs["val"] if equation in makers else (equation,)
    if not isinstance(equation, Constant):
        raise _UnknownShapeError
    operands = str(equation.read()).replace(" ", "").split("->")[0].split(",")
    sizes: dict[str, int] = {}
    for position, letters in enumerate(operands):
        sizes.update(zip(letters, _given(op, "values", position), strict=True))
    return prod(sizes.values())


def _recurrent(op: Op, _: Makers) -> int:
    """Every step multiplies each weight with its input: x (steps, batch, input)."""
    steps, batch, _size = _given(op, "x")
    names = ("weight_ih", "weight_hh", "weight_ih_back", "weight_hh_back")
    weights = [_given(op, name) for name in names if op.inputs.get(name)]
    return steps * batch * sum(map(prod, weights))


def _attention(op: Op, _: Makers) -> int:
    """Queries (..., length, size) meet keys (..., others, size), which weigh values."""
    query, key, value = (_given(op, name) for name in ("query", "key", "value"))
    return prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


_COUNTS: dict[str, Callable[[Op, Makers], int]] = {
    "conv": _convolution,
    "conv_transpose": _transposed,
    "linear": _linear,
    "matmul": _matmul,
    "einsum": _einsum,
    "lstm": _recurrent,
    "gru": _recurrent,
    "rnn": _recurrent,
    "scaled_dot_product_attention": _attention,
}
