"""The rows of several samples below each other, so that one large product does for all of them."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import NamedTuple

from mlpass.arrays import Array, Namespace
from mlpass.runtime.ops import Source


class Joined(NamedTuple):
    """Rows, with what each sample was.

    Attributes:
        source: what they were read from.
        rows: (rows of all samples, columns).
        shapes: of each sample: (..., columns).
    """

    source: tuple[Source, ...]
    rows: Array
    shapes: Sequence[tuple[int, ...]]

    def split(self, xp: Namespace, made: Array) -> list[Array]:
        """Returns what was made of the rows, (rows, columns), by sample."""
        results, stop = [], 0
        for shape in self.shapes:
            start, stop = stop, stop + prod(shape[:-1])
            results.append(xp.reshape(made[start:stop], (*shape[:-1], made.shape[-1])))
        return results


def join(xp: Namespace, source: tuple[Source, ...], inputs: Sequence[Array]) -> Joined:
    """Returns the rows of what samples bring, (..., columns) each."""
    rows = [xp.reshape(x, (prod(x.shape[:-1]), x.shape[-1])) for x in inputs]
    joined = rows[0] if len(rows) == 1 else xp.concat(rows, axis=0)
    return Joined(source, joined, [tuple(x.shape) for x in inputs])
