"""Pruning weights that are quantized or palettized already, into joint sparse forms."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mlpass.errors import ModelFormatError, NotApplicable
from mlpass.program import encode
from mlpass.program.dtypes import pack_elements
from mlpass.program.ir import Constant, Op
from mlpass.sparsity.modes import Mask
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


def joint_ops(site: Site, keep: Mask) -> tuple[list[tuple[Op, list[Op]]], int]:
    """Returns what replaces the ops of a compressed site, and the bytes it then takes.

    Args:
        site: of one of the joint forms.
        keep: of the weight as the ops read it; False where it is zero already.

    Raises:
        NotApplicable: its joint form does not exist, or would not be smaller; the text says why.
    """
    stored_name = encode.JOINT_FORMS[site.makers[0].type][0]
    (stored,) = site.makers[0].inputs[stored_name]
    if not isinstance(stored, Constant):
        raise NotApplicable(f"its {stored_name} are made by another op")
    if stored.shape != site.shape:
        raise NotApplicable("it is palettized by vectors, which are shared by several elements")
    kept = int(np.count_nonzero(keep))
    nbytes = encode.sparse_nbytes(keep.size, kept, stored.dtype)
    if nbytes >= stored.nbytes:
        raise NotApplicable(f"its joint sparse form would not be smaller, with {kept} kept")
    elements = pack_elements(stored.read()[keep], stored.dtype)
    data = Constant.packed(elements, stored.dtype.name, (kept,), stored)
    bits = np.packbits(keep.reshape(-1), bitorder="little")
    mask = encode.mask_constant(bits, site.shape, site.opset, stored)
    rest = stored_bytes(site) - stored.nbytes
    return [(maker, encode.joint(maker, mask, data)) for maker in site.makers], rest + nbytes
