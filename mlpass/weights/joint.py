"""Pruning weights that are quantized or palettized already, into joint sparse forms."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from mlpass.errors import ModelFormatError, NotApplicable
from mlpass.parallel import SLAB, map_ahead
from mlpass.program import encode
from mlpass.program.dtypes import pack_elements
from mlpass.program.ir import Constant, Op, Raw
from mlpass.sparsity.packing import mask_part
from mlpass.weights.decoding import elements_of
from mlpass.weights.record import stored_bytes
from mlpass.weights.sites import Site

JOINT_OPSET = 18


def has_joint_form(site: Site) -> bool:
    """Returns whether a site is compressed in a way that a joint sparse form exists for."""
    return site.is_compressed and site.apart is None and site.makers[0].type in encode.JOINT_FORMS


def check_opset(sites: Sequence[Site], option: str = "joint_compression") -> None:
    """Raises ModelFormatError where a function is too old for the joint forms `option` asks for."""
    newest = max((opset for site in sites for opset in site.opsets), default=0)
    for site in sites:
        if site.opset < JOINT_OPSET:
            what = "this" if newest < JOINT_OPSET else f"a function that has {site.name!r}"
            raise ModelFormatError(
                f"{option} needs an iOS18 model, {what} is iOS{site.opset}: raise a package with "
                "--minimum-deployment-target iOS18 (minimum_deployment_target='iOS18' in Python); "
                "convert with minimum_deployment_target=coremltools.target.iOS18 otherwise"
            )


def joint_ops(site: Site, mask: Raw, kept: int) -> tuple[list[tuple[Op, list[Op]]], int]:
    """Returns what replaces the ops of a compressed site, and the bytes it then takes.

    Args:
        site: of one of the joint forms.
        mask: the bits of what is kept of the weight as the ops read it, least significant first;
            unset where it is zero already.
        kept: how many elements are.

    Raises:
        NotApplicable: its joint form does not exist, or would not be smaller; the text says why.
    """
    stored_name = encode.JOINT_FORMS[site.makers[0].type][0]
    (stored,) = site.makers[0].inputs[stored_name]
    if not isinstance(stored, Constant):
        raise NotApplicable(f"its {stored_name} are made by another op")
    if stored.shape != site.shape:
        raise NotApplicable("it is palettized by vectors, which are shared by several elements")
    nbytes = encode.sparse_nbytes(stored.size, kept, stored.dtype)
    if nbytes >= stored.nbytes:
        raise NotApplicable(f"its joint sparse form would not be smaller, with {kept} kept")
    pieces = partial(_kept_pieces, stored, mask)
    data = Constant.in_pieces(pieces, stored.dtype.name, (kept,), stored)
    bits = encode.mask_constant(mask, site.shape, site.opset, stored)
    rest = stored_bytes(site) - stored.nbytes
    return [(maker, encode.joint(maker, bits, data)) for maker in site.makers], rest + nbytes


def _kept_pieces(stored: Constant, mask: Raw) -> Iterator[Raw]:
    """Yields the elements of a constant that a mask has, packed."""
    whole = None if stored.part is not None else stored.read().reshape(-1)

    def chosen(start: int) -> NDArray[np.generic]:
        stop = min(start + SLAB, stored.size)
        values = elements_of(stored, start, stop) if whole is None else whole[start:stop]
        return np.compress(mask_part(mask, start, stop), values)

    # What does not fill a byte goes with the next piece.
    rest: NDArray[np.generic] = np.zeros(0, np.uint8)
    for values in map_ahead(chosen, range(0, stored.size, SLAB)):
        values = np.concatenate([rest.astype(values.dtype), values])
        end = values.size // 8 * 8
        yield pack_elements(values[:end], stored.dtype)
        rest = values[end:]
    yield pack_elements(rest, stored.dtype)
