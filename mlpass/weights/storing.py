"""How a pruned weight is stored: the ops that take the place of its constant."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from mlpass.arrays import HostArray
from mlpass.errors import ModelFormatError, NotApplicable
from mlpass.program import encode
from mlpass.program.dtypes import BY_NAME, DType, pack_elements
from mlpass.program.ir import Constant, Op, Raw
from mlpass.registries import STORAGES
from mlpass.report.records import LayerRecord
from mlpass.solvers.solve import Solution
from mlpass.sparsity.layout import Layout
from mlpass.sparsity.modes import Mask, Mode
from mlpass.sparsity.packing import pack, zero_out
from mlpass.storage.exact import Exact
from mlpass.storage.storage import NEEDS_IOS18, Form, Parts, Storage
from mlpass.weights.apart import rest_ops
from mlpass.weights.joint import joint_ops
from mlpass.weights.reading import decoded, layout_to_solve
from mlpass.weights.record import (
    ATTRIBUTES,
    WITH_OUTLIERS,
    encoding_of,
    nbytes_of,
    untouched_record,
)
from mlpass.weights.rows import HeldRows
from mlpass.weights.sites import Site

Replacements = list[tuple[Op, list[Op]]]
# Given the type of a code, and that and the shape in which they are stated, their constant.
MakeCodes = Callable[[DType, str, tuple[int, ...]], Constant]


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

    @property
    def ops(self) -> list[Op]:
        """The ops that stand in for others, each once."""
        return ops_in(self.replacements)

    def record(self, site: Site, mode: Mode | None, storage: Storage | None) -> LayerRecord:
        """Returns the record of a site that is written so; by magnitude where nobody says more."""
        return replace(
            untouched_record(site, counted=False),
            mode=str(mode),
            storage=None if storage is None else str(storage),
            method="magnitude",
            zeros=self.zeros,
            sparsity=self.zeros / math.prod(site.shape),
            encoding=self.encoding,
            bytes_after=self.nbytes,
        )


def ops_in(replacements: Replacements) -> list[Op]:
    """Returns the ops that stand in for others, each once."""
    return [*dict.fromkeys(op for _, ops in replacements for op in ops)]


def encode_weight(site: Site, weight: NDArray[np.generic], keep: Mask) -> Encoded:
    """Returns a pruned weight as it will be stored: sparse where that is smaller.

    Args:
        site: whose weight it is.
        weight: in the site's shape and dtype.
        keep: the same shape; what is False becomes zero.

    Raises:
        NotApplicable: no way to store it would be smaller.
    """
    if site.is_sparse:
        site = decoded(site)
    constant = site.constant
    if constant is None:
        return encode_joint(site, weight, keep)
    mask, nonzero = pack(weight, keep)
    return encode_mask(
        site,
        mask,
        nonzero.size,
        lambda: Constant.of(nonzero, constant),
        lambda: Constant.of(zero_out(weight, keep), constant),
    )


def encode_joint(
    site: Site,
    weight: NDArray[np.generic],
    keep: Mask,
    codes: NDArray[np.generic] | None = None,
) -> Encoded:
    """Returns a compressed weight as it will be stored, pruned, its scales or tables as they are.

    Args:
        site: whose weight it is.
        weight: in the site's shape and dtype.
        keep: the same shape; what is False becomes zero.
        codes: of its values, the same shape; None where those stay what they are.

    Raises:
        NotApplicable: its joint form does not exist, or would not be smaller.
    """
    keep = keep & (weight != 0)
    bits = np.packbits(keep, bitorder="little")
    return encode_joint_mask(site, bits, int(np.count_nonzero(keep)), codes)


def encode_joint_mask(
    site: Site, mask: Raw, kept: int, codes: NDArray[np.generic] | None = None
) -> Encoded:
    """Returns the same of the bits of what is kept and not zero, least significant first.

    Raises:
        NotApplicable: its joint form does not exist, or would not be smaller.
    """
    replacements, nbytes = joint_ops(site, mask, kept, codes)
    encoding = encoding_of([*site.parts, *replacements[0][1]])
    return Encoded(encoding, math.prod(site.shape) - kept, nbytes, replacements)


def encode_mask(
    site: Site,
    mask: Raw,
    kept: int,
    nonzero: Callable[[], Constant],
    zeroed: Callable[[], Constant],
) -> Encoded:
    """Returns a pruned weight as it will be stored: sparse where that is smaller.

    Args:
        site: whose weight it is; one that is not compressed.
        mask: the bits of the elements that are stored, least significant first.
        kept: how many those are.
        nonzero: makes the constant of those.
        zeroed: makes the constant of all elements, the others 0.

    Raises:
        NotApplicable: no way to store it would be smaller.
    """
    constant = site.constant
    assert constant is not None
    size = constant.size
    zeros = size - kept
    forms = [encode.form_of(opset) for opset in site.opsets]
    nbytes = encode.sparse_nbytes(size, kept, constant.dtype, len(set(forms)))
    if min(nbytes, constant.nbytes) > constant.stored_nbytes:
        raise NotApplicable(
            f"it is cast from {constant.stored_nbytes} bytes, and would take "
            f"{min(nbytes, constant.nbytes)} with {zeros} of its elements zero"
        )
    if nbytes >= constant.nbytes:
        new = zeroed()
        ops = [(maker, [encode.dense(maker, new)]) for maker in site.makers]
        return Encoded("dense", zeros, constant.nbytes, ops)
    masks = {form: encode.mask_constant(mask, constant.shape, form, constant) for form in forms}
    data = nonzero()
    ops = [
        (maker, [encode.sparse(maker, masks[form], data, form)])
        for maker, form in zip(site.makers, forms, strict=True)
    ]
    return Encoded("sparse", zeros, nbytes, ops)


def encode_stored(site: Site, solution: Solution[HostArray], storage: Storage) -> Encoded:
    """Returns a weight that was pruned and rounded as it will be stored.

    Args:
        site: whose weight it is.
        solution: its result; an element that is kept, but zero, is not stored beside a mask.
        storage: that it was solved for.

    Raises:
        ModelFormatError: the model is too old for the storage.
        NotApplicable: the weight is compressed already, or the form cannot say it.
    """
    check_storage([site], storage)
    check_storage([site], storage, zeros=not solution.keep.all())
    if site.constant is None:
        raise NotApplicable(str(site.refusal))
    parts = dict(solution.parts)
    apart, rest = parts.pop("apart", None), parts.pop("rest", None)
    nonzero = solution.weight != 0
    if apart is not None:  # codes and rest make up an element together
        nonzero |= apart
    kept = int(np.count_nonzero(nonzero))
    masked = not solution.keep.all() and storage.masked(nonzero.size, kept)
    encoded = _encoded(site, parts, storage, layout_to_solve(site), nonzero, masked)
    if apart is None or rest is None:
        return encoded
    return with_outliers(encoded, site, np.packbits(apart, bitorder="little"), rest)


def with_outliers(encoded: Encoded, site: Site, apart: Raw, rest: NDArray[np.generic]) -> Encoded:
    """Returns a weight as it will be stored, with outliers beside its codes.

    Args:
        encoded: the weight without them.
        site: whose weight it is.
        apart: the bits of which elements are outliers, least significant first.
        rest: what they are more than their codes, in the order in which they are stored.
    """
    if not rest.size:
        return encoded
    beside = rest_ops(site, apart, rest)
    nbytes = nbytes_of(dict.fromkeys(ops[0] for _, ops in beside))
    return encoded._replace(
        encoding=encoded.encoding + WITH_OUTLIERS,
        nbytes=encoded.nbytes + nbytes,
        replacements=encoded.replacements + beside,
    )


def encode_exact(site: Site, weight: HeldRows, exact: Exact) -> Encoded:
    """Returns a weight as it will be stored in a form that decodes to exactly its values.

    Raises:
        NotApplicable: the form cannot say it.
    """
    layout, start, codes = weight.layout, 0, []
    for rows in weight.stored():
        codes.append(exact.codes(start, rows))
        start += len(rows)
    joined = layout.join(np.concatenate(codes).reshape(layout.sizes))
    parts = {"codes": joined, **exact.others()}
    return _encoded(site, parts, exact.form, layout, weight.weight != 0, exact.masked)


def _encoded(
    site: Site, parts: Parts, form: Form, layout: Layout, nonzero: Mask, masked: bool
) -> Encoded:
    """Returns the parts of a weight as they will be stored, in every function that has it."""

    def made(element: DType, dtype: str, shape: tuple[int, ...]) -> Constant:
        codes = parts["codes"][nonzero] if masked else parts["codes"]
        return Constant.packed(pack_elements(codes, element), dtype, shape, site.constant)

    kept = int(np.count_nonzero(nonzero))
    bits = np.packbits(nonzero, bitorder="little") if masked else None
    return encode_codes(site, parts, form, layout, kept, bits, made)


def encode_codes(
    site: Site,
    parts: Parts,
    form: Form,
    layout: Layout,
    kept: int,
    mask: Raw | None,
    made: MakeCodes,
) -> Encoded:
    """Returns the parts of a weight as they will be stored, in every function that has it.

    Args:
        site: whose weight it is.
        parts: that stand for it.
        form: that they are stored in.
        layout: of the weight.
        kept: how many of its elements are not zero.
        mask: the bits of those, least significant first; None where codes of all are stored.
        made: makes the constant of the codes that are.

    Raises:
        NotApplicable: the form cannot say it.
    """
    beside = site.constant
    assert beside is not None  # asked before

    def other(name: str, array: NDArray[np.generic], code: str) -> Constant:
        if name in ATTRIBUTES:
            return Constant.of(array)
        element = beside.dtype.name if array.dtype.kind == "f" else code
        raw = pack_elements(array, BY_NAME[element])
        return Constant.packed(raw, element, array.shape, beside)

    def form_in(opset: int) -> Callable[[Op], list[Op]]:
        """Returns what makes the ops that stand in for a maker; all share their constants."""
        stored = form.stored(parts, layout, opset)
        code = stored.element
        others = {name: (other(name, each, code),) for name, each in stored.others.items()}
        element, shape = BY_NAME[code], site.shape if mask is None else (kept,)
        if stored.packed:  # as the bytes that they make
            codes = made(element, "uint8", (element.nbytes(math.prod(shape)),))
        else:
            codes = made(element, element.name, shape)
        if mask is None:
            given = {stored.codes: (codes,), **others}
            return lambda maker: [encode.whole(maker, stored.form, given)]
        bits = encode.mask_constant(mask, site.shape, opset, beside)
        return lambda maker: encode.sparse_joint(maker, stored.form, bits, codes, others)

    opsets = [encode.form_of(opset) for opset in site.opsets]
    forms = {opset: form_in(opset) for opset in sorted({*opsets})}
    replacements: Replacements = [
        (maker, forms[opset](maker)) for maker, opset in zip(site.makers, opsets, strict=True)
    ]
    new = ops_in(replacements)
    return Encoded(encoding_of(new), math.prod(site.shape) - kept, nbytes_of(new), replacements)


def check_storage(sites: Sequence[Site], storage: Storage, *, zeros: bool | None = None) -> None:
    """Raises ModelFormatError where a function is too old for a storage; the text has the cure.

    Args:
        sites: the weights that it is for.
        storage: that is asked for.
        zeros: whether zeros are asked for, which take a mask; None to check the storage itself.
    """
    what = storage.needs_ios18
    if zeros is not None:
        what = "a mask, which zeros take," if zeros else None
    name = STORAGES.name_of(storage) or str(storage)
    for site in () if what is None else sites:
        if site.opset < encode.SUB_BYTE_OPSET:
            newest = max(opset for each in sites for opset in each.opsets)
            old = newest < encode.SUB_BYTE_OPSET
            where = "this model" if old else f"a function that has {site.name!r}"
            instead = "target_sparsity 0" if zeros else storage.in_ios16
            raise ModelFormatError(
                f"{name}: {what} {NEEDS_IOS18}; {where} is iOS{site.opset}. Or ask for {instead}, "
                "which iOS16 has"
            )
