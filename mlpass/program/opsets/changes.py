"""What changed in MIL's ops from each opset to the next: a rewrite, or why it needs no rewrite.

A test holds both tables against coremltools' own registry: whatever it defines anew is here.
"""

from __future__ import annotations

from collections.abc import Callable

from mlpass.program.ir import Op
from mlpass.program.opsets import boxes, compressed, indices
from mlpass.program.opsets.building import Builder, Facts, like

# Adds the ops of the newer opset that do what the builder's op does in the one before; adds none
# where that stays as it is.
Rule = Callable[[Builder], None]


def _with(**defaults: object) -> Rule:
    """Returns what states new parameters outright, as coremltools does, to mean what was before."""

    def rule(build: Builder) -> None:
        missing = {name: one for name, one in defaults.items() if name not in build.op.inputs}
        if missing:
            build.again(**missing)

    return rule


def _topk(build: Builder) -> None:
    """topk of iOS17: states the type of its indices, where it gives them."""
    if build.stated("return_indices", True):
        _with(output_indices_dtype="int32")(build)


def _clip(build: Builder) -> None:
    """clip of iOS17 wants its bounds apart; min(max(x, alpha), beta) does what it did before."""
    low, high = build.stated("alpha"), build.stated("beta")
    if low < high:
        return
    (result,) = build.op.outputs
    above = build.add("maximum", like(result), x=build.input("x"), y=build.input("alpha"))
    build.add("minimum", result, x=above, y=build.input("beta"))


RULES: dict[tuple[str, int], Rule] = {
    ("crop_resize", 16): boxes.pad_value,
    ("gather", 16): _with(batch_dims=0),
    ("gather_nd", 16): _with(batch_dims=0),
    ("topk", 16): _with(sort=True, return_indices=True),
    ("clip", 17): _clip,
    ("crop_resize", 17): boxes.crop_resize,
    ("gather", 17): indices.along_one_axis,
    ("gather_along_axis", 17): indices.along_one_axis,
    ("gather_nd", 17): indices.of_several_axes,
    ("non_maximum_suppression", 17): boxes.non_maximum_suppression,
    ("reduce_argmax", 17): _with(output_dtype="int32"),
    ("reduce_argmin", 17): _with(output_dtype="int32"),
    ("scatter", 17): indices.along_one_axis,
    ("scatter_along_axis", 17): indices.along_one_axis,
    ("scatter_nd", 17): indices.of_several_axes,
    ("topk", 17): _topk,
    ("constexpr_affine_dequantize", 18): compressed.scale,
    ("constexpr_cast", 18): compressed.inputs_of_constexpr,
    ("constexpr_lut_to_dense", 18): compressed.table,
    ("constexpr_sparse_to_dense", 18): compressed.mask,
}

# Raises Refused for an op that the newer opset has no words for.
REFUSALS: dict[tuple[str, int], Rule] = {("crop_resize", 16): boxes.mirrors}

_WIDER = "what it took before, it takes; further types, or parameters of other types than x"
_REASONS = {
    (16, _WIDER): "gather_along_axis resample",
    (16, "half_pixel_centers is by default what iOS15 does: not align_corners"): (
        "upsample_bilinear"
    ),
    (17, _WIDER): (
        "batch_norm cast clamped_relu conv conv_transpose elu expand_dims gru instance_norm "
        "inverse l2_norm layer_norm leaky_relu linear linear_activation local_response_norm log "
        "lstm matmul prelu resample reshape_like reverse reverse_sequence rnn rsqrt scaled_tanh "
        "sigmoid_hard slice_by_index slice_by_size sliding_windows softplus_parametric squeeze "
        "thresholded_relu transpose"
    ),
    (17, "a 0 counts from the last axis, which is the same where ranks are equal: as before"): (
        "reshape"
    ),
    (18, "reset_after is by default False, and input_bias absent: as before"): "gru",
}
COMPATIBLE: dict[tuple[str, int], str] = {
    (op_type, opset): reason
    for (opset, reason), op_types in _REASONS.items()
    for op_type in op_types.split()
}


def raised(op: Op, facts: Facts, opset: int, wanted: int) -> list[Op]:
    """Returns what an op of `opset` is in `wanted`: itself alone where nothing about it changed.

    Raises:
        Refused: it cannot be said there.
    """
    if not op.outputs:  # nothing that reads it could tell
        return [op]
    ops = [op]
    for step in sorted({step for _, step in RULES} | {wanted}):
        if opset < step <= wanted:
            ops = [new for old in ops for new in _stepped(old, facts, step)]
    return ops


def check(op: Op, facts: Facts, opset: int, wanted: int) -> None:
    """Raises Refused where `wanted` cannot say what an op of `opset` does."""
    for (op_type, step), refusal in REFUSALS.items():
        if op_type == op.type and opset < step <= wanted:
            refusal(Builder(op, facts))


def _stepped(op: Op, facts: Facts, step: int) -> list[Op]:
    rule = RULES.get((op.type, step))
    if rule is None:
        return [op]
    build = Builder(op, facts)
    rule(build)
    return build.result() if build.ops else [op]
