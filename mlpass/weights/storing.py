"""How a pruned weight is stored: the ops that take the place of its constant."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from mlpass.errors import NotApplicable
from mlpass.program import encode
from mlpass.program.dtypes import BY_NAME, pack_elements
from mlpass.program.ir import Constant, Op
from mlpass.registries import STORAGES
from mlpass.solvers.solve import Solution
from mlpass.sparsity.modes import Mask
from mlpass.sparsity.packing import pack, zero_out
from mlpass.storage.storage import Storage
from mlpass.weights.joint import check_opset, joint_ops
from mlpass.weights.reading import layout_of_site
from mlpass.weights.record import encoding_of
from mlpass.weights.sites import Site

Replacements = list[tuple[Op, list[Op]]]


class Editor(Protocol):
    """What carries edits to a model: a package's `Rewriter`, or a `PymilEditor`."""

    def replace(self, op: Op, new_ops: Sequence[Op]) -> None:
        """Puts `new_ops` in the place of `op`."""


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
        NotApplicable: no way to store it would be smaller.
    """
    constant = site.constant
    if constant is None:
        keep = keep & (weight != 0)
        ops, nbytes = joint_ops(site, keep)
        encoding = f"sparse + {encoding_of(site.parts)}"
        return Encoded(encoding, int(keep.size - np.count_nonzero(keep)), nbytes, ops)
    mask, nonzero = pack(weight, keep)
    zeros = weight.size - nonzero.size
    forms = [encode.form_of(opset) for opset in site.opsets]
    nbytes = encode.sparse_nbytes(weight.size, nonzero.size, constant.dtype, len(set(forms)))
    if min(nbytes, constant.nbytes) > constant.stored_nbytes:
        raise NotApplicable(
            f"it is cast from {constant.stored_nbytes} bytes, and would take "
            f"{min(nbytes, constant.nbytes)} with {zeros} of its elements zero"
        )
    if nbytes >= constant.nbytes:
        new = Constant.of(zero_out(weight, keep), constant)
        ops = [(maker, [encode.dense(maker, new)]) for maker in site.makers]
        return Encoded("dense", zeros, constant.nbytes, ops)
    masks = {form: encode.mask_constant(mask, constant.shape, form, constant) for form in forms}
    data = Constant.of(nonzero, constant)
    ops = [
        (maker, [encode.sparse(maker, masks[form], data, form)])
        for maker, form in zip(site.makers, forms, strict=True)
    ]
    return Encoded("sparse", zeros, nbytes, ops)


def encode_stored(site: Site, solution: Solution[NDArray[Any]], storage: Storage) -> Encoded:
    """Returns a weight that was pruned and rounded as it will be stored (iOS18).

    Args:
        site: whose weight it is.
        solution: its result; an element that is kept, but zero, is not stored.
        storage: that it was solved for.

    Raises:
        ModelFormatError: the model is older than iOS18.
        NotApplicable: the weight is compressed already, or the form cannot say it.
    """
    check_opset([site], str(STORAGES.name_of(storage)))
    beside = site.constant
    if beside is None:
        raise NotApplicable(str(site.refusal))
    keep = solution.weight != 0
    dtype, others = storage.stored(solution.parts, keep, lambda: layout_of_site(site))

    def stored(array: NDArray[Any]) -> Constant:
        element = beside.dtype.name if array.dtype.kind == "f" else dtype
        return Constant.packed(pack_elements(array, BY_NAME[element]), element, array.shape, beside)

    bits = np.packbits(keep, bitorder="little")
    mask = encode.mask_constant(bits, site.shape, site.opset, beside)
    elements = stored(solution.parts["codes"][keep])
    rest = {name: stored(array) for name, array in others.items()}
    nbytes = sum(constant.nbytes for constant in (mask, elements, *rest.values()))
    parts = {name: (constant,) for name, constant in rest.items()}
    replacements: Replacements = [
        (maker, encode.sparse_joint(maker, storage.form, mask, elements, parts))
        for maker in site.makers
    ]
    encoding = encoding_of(replacements[0][1])
    return Encoded(encoding, keep.size - int(np.count_nonzero(keep)), nbytes, replacements)
