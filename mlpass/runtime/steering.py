"""Arguments that only say how: shapes, axes, flags. They stay where Python can read them."""

from __future__ import annotations

from mlpass.program.ir import Block, ListType
from mlpass.runtime.ops import Source, is_float

# Integer and bool parameters that say how, and are not data: they need not move to a device.
STEERING = frozenset(
    {
        "align_corners",
        "ascending",
        "axes",
        "axis",
        "batch_dims",
        "begin",
        "begin_mask",
        "begins",
        "block_shape",
        "block_size",
        "ceil_mode",
        "crop_height",
        "crop_width",
        "dilations",
        "end",
        "end_mask",
        "end_masks",
        "ends",
        "exclude_padding_from_average",
        "exclusive",
        "groups",
        "interleaved",
        "k",
        "keep_dims",
        "kernel_sizes",
        "n_boxes",
        "num_splits",
        "output_sequence",
        "output_shape",
        "pad",
        "perm",
        "reps",
        "return_indices",
        "reverse",
        "shape",
        "size",
        "sort",
        "split_sizes",
        "squeeze_mask",
        "stride",
        "strides",
        "target_height",
        "target_shape",
        "target_size_height",
        "target_size_width",
        "target_width",
        "transpose_a",
        "transpose_b",
        "transpose_x",
        "transpose_y",
        "upscale_factor",
        "validate_indices",
        "vector_axis",
        "window_length",
    }
)

# Float parameters that are one number, where they have no axes.
NUMBERS = frozenset({"alpha", "beta", "epsilon"})


def find_steering(block: Block) -> frozenset[Source]:
    """Returns the constants of a block, nested ones included, that are not data of any op."""
    steering: set[Source] = set()
    data: set[Source] = set(block.outputs)
    for nested in block.walk_blocks():
        data.update(nested.outputs)
    for op in block.walk():
        for parameter, sources in op.inputs.items():
            (steering if parameter in STEERING else data).update(sources)
    return frozenset(source for source in steering - data if not _holds_floats(source))


def _holds_floats(source: Source) -> bool:
    kind = source.type
    while isinstance(kind, ListType):
        kind = kind.element
    return is_float(kind)
