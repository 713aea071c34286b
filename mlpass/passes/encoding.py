"""How a pruned weight is stored: the ops that take the place of its constant."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlpass.passes.inspect import encoding_of
from mlpass.passes.joint import joint_ops
from mlpass.program import encode
from mlpass.program.ir import Constant, Op
from mlpass.program.sites import Site
from mlpass.sparsity.modes import Mask
from mlpass.sparsity.packing import pack, zero_out

Replacements = list[tuple[Op, list[Op]]]


class Encoded(NamedTuple):
    """A weight as it will be stored.

    Attributes:
        encoding: "dense", "sparse", "sparse + quantized", ...
        zeros: how many of its elements are zero.
        nbytes: stored bytes of its elements, masks, tables and scales included.
        replacements: each op that is replaced, with those in its place.
    """

    encoding: str
    zeros: int
    nbytes: int
    replacements: Replacements


def encode_weight(site: Site, weight: NDArray[Any], keep: Mask) -> Encoded:
    """Returns a pruned weight as it will be stored: sparse where that is smaller.

    Args:
        site: whose weight it is.
        weight: in the site's shape and dtype.
        keep: the same shape; what is False becomes zero.

    Raises:
        NotApplicable: there is no way to store it that pays.
    """
    constant = site.constant
    if constant is None:
        keep = keep & (weight != 0)
        ops, nbytes = joint_ops(site, keep)
        encoding = f"sparse + {encoding_of(site.parts)}"
        return Encoded(encoding, int(keep.size - np.count_nonzero(keep)), nbytes, ops)
    mask, nonzero = pack(weight, keep)
    zeros = weight.size - nonzero.size
    nbytes = encode.sparse_nbytes(weight.size, nonzero.size, constant.dtype)
    if nbytes >= constant.nbytes:
        new = Constant.of(zero_out(weight, keep), constant)
        ops = [(maker, [encode.dense(maker, new)]) for maker in site.makers]
        return Encoded("dense", zeros, constant.nbytes, ops)
    opset = max(site.opset, encode.FIRST_SPARSE_OPSET)
    masks = encode.mask_constant(mask, constant.shape, opset, constant)
    data = Constant.of(nonzero, constant)
    ops = [(maker, [encode.sparse(maker, masks, data, opset)]) for maker in site.makers]
    return Encoded("sparse", zeros, nbytes, ops)
