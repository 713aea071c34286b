"""numpy or torch: namespace, place, cast. The only file that knows there are two kinds.

Arrays stay where the data is, and what is done to them is written once, in the array API standard.
A tensor in the host's memory is a numpy array at the same time, and numpy is the faster one on
processors: so it is read as one, without a copy. Any other array is on a device, which has one
queue and divides its work itself. Nothing here imports torch: whoever has a tensor has done so.
"""

from __future__ import annotations

import builtins
import math
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import reduce
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeVar, cast

import array_api_compat
import numpy as np
from numpy.typing import NDArray

from mlpass.halves import narrowed, widened

# Devices whose tensors numpy reads in place.
_SHARED = frozenset({"cpu"})
# Devices without fp64.
_SINGLE = frozenset({"mps"})
# Columns of a triangle that LAPACK inverts as fast as anything.
_SMALL = 32
# Elements of a sum that every numpy adds in one order; of longer ones, 2.3 has another than 2.2.
_PIECE = 8192


HostArray: TypeAlias = NDArray[Any]  # one in this process' own memory
# What stands beside an array in an expression or an index: another of its kind, a number, slices.
# The stubs of numpy and of torch have no type for it in common.
Operand: TypeAlias = Any


class Array(Protocol):
    """An array of either kind, with what both have; functions on it are those of `namespace`."""

    @property
    def dtype(self) -> object:
        """Of its elements."""
        ...

    @property
    def device(self) -> object:
        """Where it lies."""
        ...

    @property
    def ndim(self) -> int:
        """How many axes it has."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """How many elements along each axis."""
        ...

    @property
    def mT(self) -> Array:  # noqa: N802 - the standard's name
        """The same with the last two axes swapped."""
        ...

    def __getitem__(self, key: Operand, /) -> Array: ...
    def __setitem__(self, key: Operand, value: Operand, /) -> None: ...
    def __add__(self, other: Operand, /) -> Array: ...
    def __radd__(self, other: Operand, /) -> Array: ...
    def __sub__(self, other: Operand, /) -> Array: ...
    def __rsub__(self, other: Operand, /) -> Array: ...
    def __mul__(self, other: Operand, /) -> Array: ...
    def __rmul__(self, other: Operand, /) -> Array: ...
    def __truediv__(self, other: Operand, /) -> Array: ...
    def __rtruediv__(self, other: Operand, /) -> Array: ...
    def __floordiv__(self, other: Operand, /) -> Array: ...
    def __matmul__(self, other: Operand, /) -> Array: ...
    def __and__(self, other: Operand, /) -> Array: ...
    def __or__(self, other: Operand, /) -> Array: ...
    def __mod__(self, other: Operand, /) -> Array: ...
    def __pow__(self, other: Operand, /) -> Array: ...
    def __eq__(self, other: Operand, /) -> Array: ...  # type: ignore[override]  # by element
    def __ne__(self, other: Operand, /) -> Array: ...  # type: ignore[override]
    def __lt__(self, other: Operand, /) -> Array: ...
    def __le__(self, other: Operand, /) -> Array: ...
    def __gt__(self, other: Operand, /) -> Array: ...
    def __ge__(self, other: Operand, /) -> Array: ...
    def __neg__(self) -> Array: ...
    def __invert__(self) -> Array: ...
    def __bool__(self) -> bool: ...
    def __int__(self) -> int: ...
    def __float__(self) -> float: ...


if TYPE_CHECKING:

    class Namespace(ModuleType):
        """The functions of one kind: each returns an array, but for those that are written out."""

        bool: object
        float16: object
        float32: object
        float64: object
        int8: object
        int16: object
        int32: object
        int64: object
        uint16: object
        inf: float
        linalg: Namespace
        isdtype: Callable[..., builtins.bool]
        nonzero: Callable[[Array], tuple[Array, ...]]
        broadcast_arrays: Callable[..., tuple[Array, ...]]

        def __getattr__(self, name: str, /) -> Callable[..., Array]: ...

else:
    Namespace = ModuleType


# What comes in as numpy's comes back as numpy's, whatever its dtype.
Kind = TypeVar("Kind", HostArray, Array)


def namespace(values: Array) -> ModuleType:
    """Returns the functions for some values: numpy's, or those of another kind as it has them."""
    if isinstance(values, np.ndarray):
        return np
    found: ModuleType = array_api_compat.array_namespace(values)
    return found


def on_host(values: Array) -> bool:
    """Returns whether they are numpy's, and so worked on by the cores of this machine."""
    return isinstance(values, np.ndarray)


def taken(array: Array) -> Array:
    """Returns an array as it is worked on: as numpy's, but for those of other devices."""
    if not array_api_compat.is_torch_array(array):
        return array
    tensor: Any = array
    return host(tensor) if tensor.device.type in _SHARED else tensor.detach()


def host(array: object) -> HostArray:
    """Returns a numpy array of the values of an array, or nested lists; it may share memory."""
    if isinstance(array, np.ndarray):
        return array
    if not array_api_compat.is_torch_array(array):
        return np.asarray(array)
    tensor: Any = array
    # numpy has no bfloat16, the one float of two bytes whose mantissa is that short.
    narrow = str(tensor.dtype) == "torch.bfloat16"
    return np.asarray((tensor.float() if narrow else tensor).detach().cpu().numpy())


def placed(array: Array, like: Kind) -> Kind:
    """Returns an array's values as an array of the kind, and on the device, of `like`."""
    if on_host(like):
        return host(array)
    xp = namespace(like)
    if namespace(array) is not xp:
        there = host(array)
        contiguous = np.ascontiguousarray(there).reshape(there.shape)
        make = getattr(xp, "from_numpy", xp.asarray)  # torch's own asks for no default device
        array = make(contiguous if contiguous.flags.writeable else contiguous.copy())
    if array.dtype == xp.float64 and not has_double(like):
        array = xp.astype(array, xp.float32)
    return cast(Kind, array_api_compat.to_device(array, array_api_compat.device(like)))


def cast_like(values: Array, like: Kind) -> Kind:
    """Returns values of the kind and dtype, and on the device, of `like`."""
    found: Any = placed(values, like)
    if on_host(like) and like.dtype == np.float16:
        return cast(Kind, narrowed(found))
    return cast(Kind, namespace(found).astype(found, like.dtype, copy=False))


def in_fp32(values: Array) -> Array:
    """Returns fp32 in the order of its axes; the values themselves where they are that."""
    if isinstance(values, np.ndarray):
        return np.ascontiguousarray(widened(values))
    xp = namespace(values)
    return contiguous(xp.astype(values, xp.float32, copy=False))


def double(values: Array) -> Array:
    """Returns values in fp64: on the processor where their device has no such type."""
    xp = namespace(values)
    here = values if has_double(values) else array_api_compat.to_device(values, "cpu")
    return cast(Array, xp.astype(here, xp.float64, copy=False))


def has_double(values: Array) -> bool:
    """Returns whether the device of some values knows fp64."""
    return getattr(array_api_compat.device(values), "type", "cpu") not in _SINGLE


def contiguous(values: Array) -> Array:
    """Returns values that lie in memory in the order of their axes."""
    if isinstance(values, np.ndarray):
        return np.ascontiguousarray(values)
    tensor: Any = values
    return cast(Array, tensor.contiguous() if array_api_compat.is_torch_array(values) else values)


def reshaped(values: Kind, shape: Sequence[int]) -> Kind:
    """Returns values in another shape, a view where possible."""
    return cast(Kind, namespace(values).reshape(values, tuple(shape)))


def permuted(values: Kind, axes: Sequence[int]) -> Kind:
    """Returns a view of values with their axes in another order."""
    return cast(Kind, namespace(values).permute_dims(values, tuple(axes)))


def empty_like(like: Array, shape: Sequence[int], mask: bool = False) -> Array:
    """Returns uninitialised fp32, or bool for a mask."""
    xp, device = namespace(like), array_api_compat.device(like)
    return cast(Array, xp.empty(tuple(shape), dtype=xp.bool if mask else xp.float32, device=device))


def zeros(like: Array, shape: Sequence[int]) -> Array:
    """Returns fp32 zeros."""
    xp, device = namespace(like), array_api_compat.device(like)
    return cast(Array, xp.zeros(tuple(shape), dtype=xp.float32, device=device))


def copied(values: Array, lasting: bool = False) -> Array:
    """Returns a copy; one that lasts can be changed outside torch's inference mode as well."""
    if not array_api_compat.is_torch_array(values):
        return cast(Array, namespace(values).asarray(values, copy=True))
    tensor: Any = values
    with sys.modules["torch"].inference_mode(False) if lasting else nullcontext():
        return cast(Array, tensor.clone())


def masked(values: Array, keep: Array) -> Array:
    """Returns fp32 values, 0 where they are not kept."""
    if isinstance(values, np.ndarray):
        # Several times as fast as numpy's `where`, which branches on each element.
        return np.bitwise_and(values.view(np.int32), -host(keep).view(np.int8)).view(np.float32)
    return cast(Array, namespace(values).where(keep, values, 0.0))


def ratio(over: Array | float, under: Array) -> Array:
    """Returns `over / under`, 0 where `under` is not above 0."""
    xp = namespace(under)
    live = under > 0
    return cast(Array, xp.where(live, over / xp.where(live, under, 1.0), 0.0))


def diagonals(matrices: Array) -> Array:
    """Returns the diagonals of (groups, columns, columns), a view where possible."""
    return cast(Array, namespace(matrices).linalg.diagonal(matrices))


def with_diagonals(matrices: Array, values: Array) -> Array:
    """Returns (groups, columns, columns) with (groups, columns) on their diagonals."""
    xp, device = namespace(matrices), array_api_compat.device(matrices)
    places = xp.eye(matrices.shape[1], dtype=xp.bool, device=device)
    return cast(Array, xp.where(places, values[:, None, :], matrices))


def numbered(like: Array, count: int) -> Array:
    """Returns 0, 1, 2, ..."""
    return cast(Array, namespace(like).arange(count, device=array_api_compat.device(like)))


def inner(first: NDArray[np.generic], second: Array) -> float:
    """Returns the sum of the products of an array's elements with those of some values."""
    second = taken(second)
    if isinstance(second, np.ndarray):
        return float(np.vdot(first, second))
    return total(placed(first, second) * second)


def total(values: Array) -> float:
    """Returns the sum, in fp64 where the device has it; the same with every numpy."""
    if isinstance(values, np.ndarray):
        flat = values.reshape(-1)
        places = range(0, flat.size, _PIECE)
        return sum((float(flat[at : at + _PIECE].sum(dtype=np.float64)) for at in places), 0.0)
    xp = namespace(values)
    return float(xp.sum(values, dtype=xp.float64 if has_double(values) else xp.float32))


def summed(values: Array, axes: tuple[int, ...], keep: bool = True) -> Array:
    """Returns the sums over some axes, the same with every numpy.

    Args:
        values: of any shape.
        axes: which, not negative.
        keep: whether they stay, of length 1.
    """
    xp = namespace(values)
    count = math.prod(values.shape[axis] for axis in axes)
    if not isinstance(values, np.ndarray) or count <= _PIECE:
        return cast(Array, xp.sum(values, axis=axes, keepdims=keep, dtype=values.dtype))
    longest = max(axes, key=lambda axis: int(values.shape[axis]))
    length = values.shape[longest]
    step = max(1, _PIECE * length // count)
    before = (slice(None),) * longest
    parts = (values[(*before, slice(at, at + step))] for at in range(0, length, step))
    sums = reduce(np.add, (host(summed(part, axes)) for part in parts))
    return cast(Array, sums if keep else sums.squeeze(axes))


def largest(values: Array) -> float:
    """Returns the largest magnitude, 0 of an empty array."""
    xp = namespace(values)
    return float(xp.max(xp.abs(values))) if math.prod(values.shape) else 0.0


def limit_of(values: Array) -> float:
    """Returns the largest number that their dtype holds."""
    return float(namespace(values).finfo(values.dtype).max)


def row_dots(first: Array, second: Array) -> Array:
    """Returns the product of each row with its like, (..., rows)."""
    xp = namespace(first)
    if not hasattr(xp, "einsum"):
        return cast(Array, xp.vecdot(first, second))
    return cast(Array, xp.einsum("...c,...c->...", first, second))


def as_factor(values: Array) -> Array:
    """Returns what is to be multiplied as BLAS takes it; the same where that is so already.

    Before 2.3 numpy multiplies arrays of other strides itself, slowly and in an order of its own.
    """
    if not isinstance(values, np.ndarray) or values.ndim < 2:
        return values
    rows, columns = values.shape[-2:]
    down, across = (step / values.itemsize for step in values.strides[-2:])
    as_rows, as_columns = across == 1 and down >= columns, down == 1 and across >= rows
    return values if as_rows or as_columns else cast(Array, np.ascontiguousarray(values))


def add_product(target: Array, left: Array, right: Array) -> None:
    """Adds `left @ right` to (groups, rows, columns), in place."""
    if array_api_compat.is_torch_array(target):
        tensor: Any = target
        tensor.baddbmm_(left, right)
    else:
        target += left @ right


def cholesky(matrices: Array) -> tuple[Array, Array]:
    """Returns the lower factors of (groups, columns, columns), and which groups have failed."""
    xp = namespace(matrices)
    if array_api_compat.is_torch_array(matrices):
        lower, failed = _possible(xp.linalg.cholesky_ex, matrices)
        return lower, failed != 0
    try:
        return xp.linalg.cholesky(matrices), xp.zeros(matrices.shape[:1], dtype=xp.bool)
    except np.linalg.LinAlgError:
        return xp.zeros_like(matrices), xp.ones(matrices.shape[:1], dtype=xp.bool)


def triangular_inverse(upper: Array) -> Array:
    """Returns U^-1 of each upper triangular U, (groups, columns, columns).

    LAPACK's general inverse of 128 columns takes ten times what it takes by halves.
    """
    xp, columns = namespace(upper), upper.shape[1]
    if not array_api_compat.is_torch_array(upper):
        if columns <= _SMALL:
            return cast(Array, xp.linalg.inv(upper))
        half = columns // 2
        inverse = xp.zeros_like(upper)
        first = inverse[:, :half, :half] = triangular_inverse(upper[:, :half, :half])
        last = inverse[:, half:, half:] = triangular_inverse(upper[:, half:, half:])
        inverse[:, :half, half:] = -first @ (upper[:, :half, half:] @ last)
        return cast(Array, inverse)
    tensor: Any = upper
    unit = xp.eye(upper.shape[1], dtype=upper.dtype, device=tensor.device).expand_as(upper)

    def solve(upper: Any, unit: Any) -> tuple[Any]:
        return (xp.linalg.solve_triangular(upper, unit, upper=True),)

    (inverse,) = _possible(solve, upper, unit)
    return cast(Array, inverse)


def _possible(function: Callable[..., tuple[Any, ...]], *tensors: Any) -> tuple[Any, ...]:
    """Returns what a function makes of tensors; on the processor where their device lacks it."""
    try:
        return function(*tensors)
    except NotImplementedError:
        results = function(*(tensor.cpu() for tensor in tensors))
        return tuple(result.to(tensors[0].device) for result in results)
