"""How a pruned weight is written: the ops that stand in for its constant, per opset."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from mlpass.program.dtypes import BY_NAME, DType
from mlpass.program.ir import Argument, Constant, Op, Raw, TensorType, Value

FIRST_SPARSE_OPSET = 16
SUB_BYTE_OPSET = 18  # the first with types below a byte, blocks, and masks beside codes


def dense(maker: Op, constant: Constant) -> Op:
    """Returns `maker`, a const op, with another constant."""
    return Op("const", maker.name, {"val": (constant,)}, maker.outputs)


def sparse(maker: Op, mask: Constant, nonzero: Constant, opset: int) -> Op:
    """Returns the `constexpr_sparse_to_dense` op that makes what `maker` made.

    Args:
        maker: the op that it stands in for.
        mask: from `mask_constant`, for the same opset.
        nonzero: the kept elements, 1-D.
        opset: iOS version.
    """
    inputs: dict[str, tuple[Constant]] = {"nonzero_data": (nonzero,), "mask": (mask,)}
    if opset < SUB_BYTE_OPSET:
        shape = np.array(maker.outputs[0].type.shape, np.uint32)  # type: ignore[union-attr]
        inputs["shape"] = (Constant.of(shape),)
    return Op("constexpr_sparse_to_dense", maker.name, inputs, maker.outputs)


def mask_constant(bits: Raw, shape: tuple[int, ...], opset: int, beside: Constant) -> Constant:
    """Returns packed mask bits as the opset takes them: uint1 from iOS18 on, packed uint8 before.

    Args:
        bits: 1-D, least significant bit first.
        shape: of the weight.
        opset: iOS version.
        beside: the weight's constant, whose weight file it goes to.
    """
    if opset < SUB_BYTE_OPSET:
        return Constant.packed(bits, "uint8", bits.shape, beside)
    return Constant.packed(bits, "uint1", shape, beside)


def sparse_nbytes(size: int, kept: int, dtype: DType, masks: int = 1) -> int:
    """Returns how many bytes the sparse form takes: a bit for each element, and the kept ones.

    Args:
        size: number of elements.
        kept: how many of them are.
        dtype: of them.
        masks: how many there are: one for each `form_of` the opsets of its functions.
    """
    return masks * BY_NAME["uint1"].nbytes(size) + dtype.nbytes(kept)


def form_of(opset: int) -> int:
    """Returns the opset that brought the sparse forms that `opset` has, or is to be raised to."""
    return SUB_BYTE_OPSET if opset >= SUB_BYTE_OPSET else FIRST_SPARSE_OPSET


# The compressed forms that have a joint sparse one: the parameter that holds the elements, and the
# sparse op with its parameters for the mask and the elements.
JOINT_FORMS = {
    "constexpr_blockwise_shift_scale": (
        "data",
        "constexpr_sparse_blockwise_shift_scale",
        "data_mask",
        "nonzero_data",
    ),
    "constexpr_lut_to_dense": (
        "indices",
        "constexpr_lut_to_sparse",
        "indices_mask",
        "indices_nonzero_data",
    ),
}


def whole(maker: Op, form: str, inputs: Mapping[str, tuple[Argument, ...]]) -> Op:
    """Returns the op of a compressed form, all elements stored, that makes what `maker` made."""
    return Op(form, maker.name, inputs, maker.outputs)


def joint(maker: Op, mask: Constant, elements: Constant) -> list[Op]:
    """Returns the ops that make what `maker` made, with only its kept elements stored (iOS18).

    Args:
        maker: an op of one of the `JOINT_FORMS`; its other parameters stay.
        mask: from `mask_constant`.
        elements: the kept elements, as `maker` stores them, 1-D.
    """
    stored, *_ = JOINT_FORMS[maker.type]
    others = {name: value for name, value in maker.inputs.items() if name != stored}
    return sparse_joint(maker, maker.type, mask, elements, others)


def sparse_joint(
    maker: Op,
    form: str,
    mask: Constant,
    elements: Constant,
    others: Mapping[str, tuple[Argument, ...]],
) -> list[Op]:
    """Returns the ops that make what `maker` made, sparse in one of the `JOINT_FORMS` (iOS18).

    Args:
        maker: the op that they stand in for.
        form: the op type of the form that is not sparse.
        mask: from `mask_constant`.
        elements: the kept elements, as the form stores them, 1-D.
        others: the form's other parameters: scale and offset, or tables.
    """
    _, op_type, mask_name, elements_name = JOINT_FORMS[form]
    (output,) = maker.outputs
    assert isinstance(output.type, TensorType)
    results = (
        Value(f"{output.name}_mask", TensorType("uint1", output.type.shape)),
        Value(f"{output.name}_nonzero", TensorType(output.type.dtype, elements.shape)),
    )
    sparse_op = Op(
        op_type,
        f"{maker.name}_nonzero",
        {**others, mask_name: (mask,), elements_name: (elements,)},
        results,
    )
    to_dense = Op(
        "constexpr_sparse_to_dense",
        maker.name,
        {"mask": (results[0],), "nonzero_data": (results[1],)},
        maker.outputs,
    )
    return [sparse_op, to_dense]
