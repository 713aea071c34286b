"""Weights that are quantized or palettized already, as codes: pruned into joint sparse forms."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlpass.errors import ModelFormatError, NotApplicable
from mlpass.parallel import SLAB, map_ahead
from mlpass.program import encode
from mlpass.program.dtypes import pack_elements
from mlpass.program.ir import Argument, Constant, Op, Raw
from mlpass.sparsity.packing import mask_part
from mlpass.weights.decoding import elements_of
from mlpass.weights.record import stored_bytes
from mlpass.weights.sites import Site

JOINT_OPSET = 18
_OLD_FORM = "constexpr_affine_dequantize"  # has no joint form until it is raised
OLD = f"it is quantized by {_OLD_FORM}, which no mask goes with"  # the reason
ANEW = "give a storage that it is rounded to anew, such as int8 (--quantize int8)"


class Coded(NamedTuple):
    """What a site's values are coded by.

    Attributes:
        form: the op type of the form that is not sparse.
        elements: the codes that are stored: all, or those that a mask has.
        mask: of those; None where all are stored.
        others: the form's other parameters: scale and offset, or tables.
    """

    form: str
    elements: Constant
    mask: Constant | None
    others: Mapping[str, tuple[Argument, ...]]

    @property
    def nbytes(self) -> int:
        """The stored bytes of codes and mask."""
        return self.elements.nbytes + (0 if self.mask is None else self.mask.nbytes)

    def codes(self) -> NDArray[np.generic]:
        """Returns the codes of all elements, in the weight's shape; 0 where the mask has a gap."""
        stored = np.asarray(self.elements.read())
        if self.mask is None:
            return stored
        mask = np.asarray(self.mask.read()) != 0
        codes = np.zeros(mask.shape, stored.dtype)
        codes[mask] = stored
        return codes


def has_joint_form(site: Site) -> bool:
    """Returns whether a site is compressed in a way that a joint sparse form exists for."""
    return site.is_compressed and site.apart is None and _coding(site) is not None


def can_be_joint(site: Site) -> bool:
    """Returns whether a site has a joint sparse form, or would have one once it is raised."""
    return has_joint_form(site) or is_old(site)


def is_old(site: Site) -> bool:
    """Returns whether a site has a joint sparse form only once it is raised."""
    return site.is_compressed and site.makers[0].type == _OLD_FORM


def coded(site: Site) -> Coded:
    """Returns what a site's values are coded by.

    Raises:
        NotApplicable: it has no joint form, or not one whose codes are stored one by one.
    """
    found = _coding(site)
    if found is None:
        raise NotApplicable(str(site.refusal))
    op, form = found
    whole_name, _, mask_name, kept_name = encode.JOINT_FORMS[form]
    name = whole_name if op.type == form else kept_name
    (elements,), masks = op.inputs[name], op.inputs.get(mask_name, (None,))
    mask = masks[0]
    if not isinstance(elements, Constant) or not (mask is None or isinstance(mask, Constant)):
        raise NotApplicable(f"its {name} are made by another op; {ANEW}")
    if (elements if mask is None else mask).shape != site.shape:
        raise NotApplicable(f"it is palettized by vectors, which several elements share; {ANEW}")
    others = {key: given for key, given in op.inputs.items() if key not in (name, mask_name)}
    return Coded(form, elements, mask, others)


def _coding(site: Site) -> tuple[Op, str] | None:
    """Returns the op that makes a site's values of codes, and the form that is not sparse."""
    maker = site.makers[0]
    if maker.type in encode.JOINT_FORMS:
        return maker, maker.type
    made = maker.inputs.get("nonzero_data", (None,))[0] if site.is_masked else None
    plain = {sparse: form for form, (_, sparse, _, _) in encode.JOINT_FORMS.items()}
    ops = (op for op in site.parts if made in op.outputs and op.type in plain)
    return next(((op, plain[op.type]) for op in ops), None)


def check_opset(sites: Sequence[Site]) -> None:
    """Raises ModelFormatError where a function is too old for joint forms."""
    newest = max((opset for site in sites for opset in site.opsets), default=0)
    for site in sites:
        if site.opset < JOINT_OPSET:
            what = "this" if newest < JOINT_OPSET else f"a function that has {site.name!r}"
            raise ModelFormatError(
                f"joint_compression needs an iOS18 model, {what} is iOS{site.opset}: raise a "
                "package with --minimum-deployment-target iOS18 "
                "(minimum_deployment_target='iOS18' in Python); convert with "
                "minimum_deployment_target=coremltools.target.iOS18 otherwise"
            )


def joint_ops(
    site: Site, mask: Raw, kept: int, codes: NDArray[np.generic] | None = None
) -> tuple[list[tuple[Op, list[Op]]], int]:
    """Returns what replaces the ops of a compressed site, and the bytes it then takes.

    Args:
        site: of one of the joint forms.
        mask: the bits of what is kept of the weight as the ops read it, least significant first;
            unset where it is zero already.
        kept: how many elements are.
        codes: of all elements, in the site's shape; None where they stay what they are.

    Raises:
        NotApplicable: its joint form does not exist, or would not be smaller; the text says why.
    """
    form = coded(site)
    stored = form.elements
    size = int(np.prod(site.shape))
    nbytes = encode.sparse_nbytes(size, kept, stored.dtype)
    if (nbytes >= form.nbytes and codes is None) or nbytes > form.nbytes:
        raise NotApplicable(f"its joint sparse form would not be smaller, with {kept} kept")
    if form.mask is not None and codes is None:
        codes = form.codes()
    pieces = partial(_kept_pieces, stored, mask, codes)
    data = Constant.in_pieces(pieces, stored.dtype.name, (kept,), stored)
    bits = encode.mask_constant(mask, site.shape, site.opset, stored)
    rest = stored_bytes(site) - form.nbytes
    if form.mask is None:  # each has scales or tables of its own
        return [(maker, encode.joint(maker, bits, data)) for maker in site.makers], rest + nbytes
    if len(site.makers) > 1 and not all(
        isinstance(one, Constant) for given in form.others.values() for one in given
    ):
        raise NotApplicable("its scales or tables are made by another op in each function")
    ops = [
        (maker, encode.sparse_joint(maker, form.form, bits, data, form.others))
        for maker in site.makers
    ]
    return ops, rest + nbytes


def _kept_pieces(stored: Constant, mask: Raw, codes: NDArray[np.generic] | None) -> Iterator[Raw]:
    """Yields the codes that a mask has, packed."""
    if codes is None and stored.part is None:
        codes = stored.read()
    flat = None if codes is None else np.asarray(codes, stored.dtype.numpy).reshape(-1)
    size = stored.size if flat is None else flat.size

    def chosen(start: int) -> NDArray[np.generic]:
        stop = min(start + SLAB, size)
        values = elements_of(stored, start, stop) if flat is None else flat[start:stop]
        return np.compress(mask_part(mask, start, stop), values)

    # What does not fill a byte goes with the next piece.
    rest: NDArray[np.generic] = np.zeros(0, np.uint8)
    for values in map_ahead(chosen, range(0, size, SLAB)):
        values = np.concatenate([rest.astype(values.dtype), values])
        end = values.size // 8 * 8
        yield pack_elements(values[:end], stored.dtype)
        rest = values[end:]
    yield pack_elements(rest, stored.dtype)
