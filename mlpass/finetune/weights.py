"""The weights that are trained: which they are, and how they go back into a package."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from mlpass.errors import ExecutionError
from mlpass.plan.untrained import reason_untrained
from mlpass.program import encode
from mlpass.program.dtypes import BY_NAME
from mlpass.program.ir import Constant, Program
from mlpass.sparsity.modes import Mask, Mode
from mlpass.storage.storage import Storage
from mlpass.weights.nearest import encode_nearest
from mlpass.weights.ops.record import WEIGHT_OPS, find_record
from mlpass.weights.reading import decoded, weight_of
from mlpass.weights.sites import Site, find_sites
from mlpass.weights.storing import Encoded, encode_weight

_AFFINE = frozenset({"gamma", "beta"})
# What training moves in ops that read no weights. The mean and variance of a batch_norm are not
# among it: a converted program has them frozen.
_OTHERS: dict[str, frozenset[str]] = {
    "batch_norm": _AFFINE,
    "instance_norm": _AFFINE,
    "layer_norm": _AFFINE,
    "prelu": frozenset({"alpha"}),
}


def find_trained(programs: Iterable[Program]) -> list[Site]:
    """Returns the sites of all that might be trained: weights, biases, gains."""
    moved = dict(_OTHERS)
    for op_type, records in WEIGHT_OPS.items():
        for record in records.values():
            if record.trains:
                moved[op_type] = (
                    moved.get(op_type, frozenset()) | record.beside | {record.parameter}
                )
    return find_sites(programs, moved)


def is_weight(site: Site) -> bool:
    """Returns whether a site is a weight, which may be pruned, rather than a bias or the like."""
    return any(find_record(use.op.type, use.parameter) is not None for use in site.uses)


def is_trained(site: Site) -> bool:
    """Returns whether a site, opened, is a float that training may move."""
    return site.refusal is None and reason_untrained(site) is None


def opened(site: Site) -> Site:
    """Returns a sparse site as the dense one that it stands for; any other as it is."""
    return decoded(site) if site.is_sparse else site


def encode_trained(
    site: Site,
    master: NDArray[np.float32],
    keep: Mask | None,
    mode: Mode | None = None,
    storage: Storage | None = None,
) -> Encoded | None:
    """Returns a trained weight as it will be stored, None where it is what is stored already.

    Args:
        site: whose weight it is.
        master: the weight.
        keep: its mask, None where it is not pruned.
        mode: that made the mask.
        storage: to whose values it is rounded; None where it stays as it is.

    Raises:
        ExecutionError: a value is too large for the site's type, or is not a number.
    """
    constant = site.constant
    assert constant is not None  # no other is trained
    with np.errstate(over="ignore"):
        weight = master.astype(str(BY_NAME[site.dtype].numpy))
    lost = ~np.isfinite(weight)
    if lost.any():
        value = float(master[np.unravel_index(int(np.argmax(lost)), lost.shape)])
        raise ExecutionError(
            f"{site.name!r}: holds {value:g}, which does not fit {site.dtype}: train with a "
            "lower rate"
        )
    if mode is not None and storage is not None:
        kept = np.ones(weight.shape, bool) if keep is None else keep
        return encode_nearest(site, weight, kept, mode, storage)
    if keep is not None and not keep.all():
        return encode_weight(site, weight, keep.copy())
    if keep is None and np.array_equal(weight, weight_of(site)):
        return None
    new = Constant.of(weight, constant)
    ops = [(maker, [encode.dense(maker, new)]) for maker in site.makers]
    return Encoded("dense", int(np.count_nonzero(weight == 0)), constant.nbytes, ops)
