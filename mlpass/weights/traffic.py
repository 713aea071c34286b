"""What an inference reads of its weights."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from math import prod

from mlpass.program.dtypes import BY_NAME
from mlpass.program.ir import Function, Op
from mlpass.weights.ops.record import is_gathered
from mlpass.weights.record import stored_bytes
from mlpass.weights.sites import Site


def read_bytes(
    functions: Iterable[Function],
    sites: Sequence[Site],
    size: Callable[[Site], int] = stored_bytes,
) -> int:
    """Returns the bytes of the weights that one inference reads.

    Each counts once for every op that reads it, in a loop too. A table that rows are gathered from
    does not count: few of its rows are read.

    Args:
        functions: that run.
        sites: of the model.
        size: gives the bytes of a weight; as it is stored by default.
    """
    ops = {op for function in functions for op in function.block.walk()}
    return sum(size(site) * _reads(site, ops) for site in sites)


def dense_bytes(site: Site) -> int:
    """Returns the bytes of a weight whose elements are stored one by one."""
    return BY_NAME[site.dtype].nbytes(prod(site.shape))


def unpacked_bytes(site: Site) -> int:
    """Returns the bytes of a weight where masks are taken out as it is loaded."""
    return dense_bytes(site) if site.is_sparse else stored_bytes(site)


def _reads(site: Site, ops: Collection[Op]) -> int:
    return sum(use.op in ops and not is_gathered(use.op.type, use.parameter) for use in site.uses)
