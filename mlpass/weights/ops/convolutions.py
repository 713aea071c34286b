"""Convolutions: what meets the weight is the window that each output position sees, as columns.

A chunk is made as (groups, columns, samples), in which runs of samples are copied whole, and
handed over transposed.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from math import prod
from typing import NamedTuple

from mlpass.arrays import Array, Namespace
from mlpass.program.ir import Op
from mlpass.runtime.kernels.arguments import integer, kinds_of, read
from mlpass.runtime.kernels.conv import conv, geometry
from mlpass.runtime.kernels.conv_transpose import conv_transpose, transposed_geometry
from mlpass.runtime.kernels.registry import Arguments, Kernel
from mlpass.runtime.kernels.windows import padded, positions, spans_of
from mlpass.sparsity.layout import Layout
from mlpass.weights.ops.record import WeightOp, other_arguments, register

# Elements of a chunk: 16 MB of them.
_CHUNK = 1 << 22
# From so many output positions on, one image is enough for a product at full speed.
_PLANE = 1 << 10


def conv_layout(shape: Sequence[int], groups: int) -> Layout:
    """Returns the layout of `conv.weight` (out, in / groups, *kernel)."""
    outputs, *rest = shape
    split = (groups, outputs // groups, *rest)
    return Layout(tuple(shape), split, ((0,), (1,), (2,), tuple(range(3, len(split)))))


def conv_transpose_layout(shape: Sequence[int], groups: int) -> Layout:
    """Returns the layout of `conv_transpose.weight` (in, out / groups, *kernel)."""
    inputs, *rest = shape
    split = (groups, inputs // groups, *rest)
    return Layout(tuple(shape), split, ((0,), (2,), (1,), tuple(range(3, len(split)))))


def windows_key(op: Op, parameter: str, position: int) -> Iterator[Hashable]:
    """Yields the other arguments, and the shape of the kernel, since windows depend on it."""
    yield getattr(op.inputs[parameter][position].type, "shape", ())[2:]
    yield from other_arguments(op, parameter, position)


class Windows(NamedTuple):
    """How windows lie on an input: an entry for each spatial axis.

    `flipped` says that the columns begin with the last position in the window.
    """

    kernel: list[int]
    dilations: list[int]
    strides: list[int]
    counts: list[int]
    flipped: bool = False


def conv_inputs(
    xp: Namespace, arguments: Arguments, kernel: Kernel, position: int
) -> Iterator[Array]:
    """Returns the windows of x (n, channels, *sizes), (groups, samples, columns), chunk by chunk.

    Raises:
        ValueError: the arguments do not fit together.
    """
    arguments = read(kinds_of(conv), arguments)
    x = arguments["x"]
    shape = geometry(
        x,
        arguments["weight"],
        arguments.get("strides"),
        arguments.get("pad_type", "valid"),
        arguments.get("pad"),
        arguments.get("dilations"),
        arguments.get("groups", 1),
    )
    if prod(shape.kernel) == 1 and (x.shape[0] == 1 or prod(shape.counts) >= _PLANE):
        steps = tuple(slice(None, None, step) for step in shape.strides)
        return _points(xp, padded(xp, x, shape.pads)[(..., *steps)], shape.groups)
    windows = Windows(shape.kernel, shape.dilations, shape.strides, shape.counts)
    return _columns(xp, x, shape.groups, windows, lambda part: padded(xp, part, shape.pads))


def conv_transpose_inputs(
    xp: Namespace, arguments: Arguments, kernel: Kernel, position: int
) -> Iterator[Array]:
    """Returns what each output position sees of x (n, channels, *sizes), chunk by chunk.

    That is a convolution of x, with zeros between its elements and around them, with the kernel
    turned round. An output beyond the reach of x is a sample of zeros.

    Raises:
        ValueError: the arguments do not fit together.
    """
    arguments = read(kinds_of(conv_transpose), arguments)
    x, weight = arguments["x"], arguments["weight"]
    shape = transposed_geometry(
        x,
        weight,
        arguments.get("pad"),
        arguments.get("output_shape"),
        arguments.get("pad_type", "valid"),
        arguments.get("strides"),
        arguments.get("dilations"),
        arguments.get("groups", 1),
    )
    sizes = list(weight.shape[2:])
    counts = [stop - start for start, stop in shape.kept]
    lengths, taken, places = [], [], []
    for (start, stop), size, span, step in zip(
        shape.kept, x.shape[2:], spans_of(sizes, shape.dilations), shape.strides, strict=True
    ):
        # Element i of x is at span - 1 + i * step, counted from the first window at all, that of
        # output 0; the first one kept begins at `start`.
        first = min(size, max(0, -(-(start - span + 1) // step)))
        count = max(0, min(size, (stop - 1) // step + 1) - first)
        at = span - 1 + first * step - start if count else 0
        lengths.append(stop - start + span - 1)
        taken.append(slice(first, first + count))
        places.append(slice(at, at + max(0, (count - 1) * step + 1), step))

    def spread(part: Array) -> Array:
        result = xp.zeros((*part.shape[:2], *lengths), dtype=part.dtype, device=part.device)
        result[(slice(None), slice(None), *places)] = part[(slice(None), slice(None), *taken)]
        return result

    windows = Windows(sizes, shape.dilations, [1] * len(sizes), counts, flipped=True)
    return _columns(xp, x, shape.groups, windows, spread)


def conv_outputs(xp: Namespace, made: Array, arguments: Arguments, position: int) -> Array:
    """Returns (n, rows of all groups, *sizes) as (groups, samples, rows)."""
    batch, channels, *counts = made.shape
    groups = integer(arguments.get("groups", 1))
    split = xp.reshape(made, (batch, groups, channels // groups, prod(counts)))
    samples = xp.permute_dims(split, (1, 0, 3, 2))
    return xp.reshape(samples, (groups, batch * prod(counts), channels // groups))


def are_neighbours(arguments: Arguments) -> bool:
    """Returns whether windows are places of one picture: more than a line of it, and no patches.

    Patches lie side by side, and are what a transformer makes its tokens of.
    """
    sizes, kernel = arguments["x"].shape[2:], arguments["weight"].shape[2:]
    strides = [integer(step) for step in arguments.get("strides", [1] * len(sizes))]
    patches = prod(kernel) > 1 and strides == list(kernel)
    return sum(size > 1 for size in sizes) > 1 and not patches


def _points(xp: Namespace, x: Array, groups: int) -> Iterator[Array]:
    """Yields each image of x, as it is, as (groups, positions, channels of one)."""
    batch, channels, *counts = x.shape
    for index in range(batch):
        image = xp.reshape(x[index, ...], (groups, channels // groups, prod(counts)))
        yield xp.matrix_transpose(image)


def _columns(
    xp: Namespace, x: Array, groups: int, windows: Windows, spread: Callable[[Array], Array]
) -> Iterator[Array]:
    """Yields windows of x (n, channels, *sizes) as (groups, samples, columns).

    Args:
        xp: the array namespace.
        x: the input.
        groups: of channels.
        windows: how they lie on what `spread` makes.
        spread: adds the padding to some images.
    """
    kernel, dilations, strides, counts, flipped = windows
    batch, channels, *_ = x.shape
    depth, row = channels * prod(kernel), prod(counts[1:])
    images_each = max(1, _CHUNK // max(1, depth * row * counts[0]))
    rows_each = max(1, _CHUNK // max(1, depth * row))
    step, (span, *_) = strides[0], spans_of(kernel, dilations)
    for first in range(0, batch, images_each):
        images = spread(xp.moveaxis(x[first : min(first + images_each, batch), ...], 0, 1))
        for top in range(0, counts[0], rows_each):
            some = [min(rows_each, counts[0] - top), *counts[1:]]
            slab = images[:, :, top * step : (top + some[0] - 1) * step + span, ...]
            seen = [
                slab[(slice(None), slice(None), *slices)]
                for _, slices in positions(kernel, dilations, strides, some)
            ]
            columns = xp.stack(seen[::-1] if flipped else seen, axis=1)
            samples = images.shape[1] * prod(some)
            yield xp.matrix_transpose(xp.reshape(columns, (groups, depth // groups, samples)))


def _register(
    op_type: str,
    layout: Callable[[Sequence[int], int], Layout],
    inputs: Callable[[Namespace, Arguments, Kernel, int], Iterator[Array]],
) -> None:
    def layout_of(shape: Sequence[int], settings: Mapping[str, object], position: int) -> Layout:
        return layout(shape, integer(settings.get("groups", 1)))

    beside = frozenset({"bias"})
    register(
        WeightOp(
            op_type,
            "weight",
            layout_of,
            inputs,
            windows_key,
            outputs=conv_outputs,
            adds=True,
            beside=beside,
            neighbours=are_neighbours,
        )
    )


_register("conv", conv_layout, conv_inputs)
_register("conv_transpose", conv_transpose_layout, conv_transpose_inputs)
