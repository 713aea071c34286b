"""The sums of one activation, which grow as samples come by."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlpass.arrays import Array, inner, placed
from mlpass.calibrate.aims import Aim, Crossed
from mlpass.errors import NotApplicable
from mlpass.program.ir import Op
from mlpass.solvers.accumulate import GramSum, sum_of_grams
from mlpass.solvers.gram import Gram
from mlpass.weights.reading import layout_of_site, weight_of
from mlpass.weights.sites import Site


@dataclass(eq=False)
class Gathered:
    """A Gram that grows.

    Attributes:
        feeder: the first op that meets these inputs.
        crossed: the sums of what the dense model's have over them; None where none are wanted.
        refusal: why there are no such inputs.
        samples: those that came by.
        tokens: how many input rows they brought.
        sums: of most samples, and of those that are kept back where there is something to choose.
        counts: of a table that is gathered from, how often each row was read.
        aim: what a site that meets only these inputs is to aim at, once that was asked for.
    """

    feeder: Op
    crossed: Crossed | None = None
    refusal: str | None = None
    samples: set[int] = field(default_factory=set)
    tokens: int = 0
    sums: tuple[GramSum, GramSum] = field(default_factory=lambda: (GramSum(), GramSum()))
    counts: Any = None
    aim: Aim | None = None

    def add(self, inputs: Iterable[tuple[int, Any]], label: str, held: bool = False) -> None:
        """Takes the input rows of some samples, in chunks.

        Rows are summed where they are: numpy's arrays, or torch's on their device.

        Args:
            inputs: the number of a sample, and a chunk of its: (groups, rows, columns), or how
                often each was read: (columns,).
            label: of the op that meets them.
            held: whether the samples are kept back.

        Raises:
            CalibrationError: there is NaN or inf among them.
        """
        self.sums[held].add_all(self._rows(inputs, label))

    def _rows(self, inputs: Iterable[tuple[int, Any]], label: str) -> Iterator[tuple[Any, str]]:
        """Counts chunks, and yields those with rows, with what to call them in an error.

        One without rows, as of an expert that no token of a sample reaches, adds nothing.
        """
        for sample, chunk in inputs:
            tokens = int(chunk.sum()) if chunk.ndim == 1 else chunk.shape[1]
            if not tokens:
                continue
            self.samples.add(sample)
            self.tokens += tokens
            if chunk.ndim == 1:
                # A row that these samples happen not to read is read by others: once, say.
                before = np.ones(chunk.shape) if self.counts is None else self.counts
                self.counts = before + chunk
            else:
                yield chunk, f" (sample {sample}, {label!r})"

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of `total`, which itself takes a copy to make."""
        if self.counts is not None:
            return tuple(self.counts.shape)
        return self.sums[0].shape or self.sums[1].shape

    @property
    def total(self) -> Array:
        """The Gram of all that was added, or its diagonal."""
        if self.counts is None:
            return sum_of_grams([one.total() for one in self.sums if one.shape])
        return np.asarray(self.counts, np.float32)

    @cached_property
    def gram(self) -> Gram:
        """The same, shared by all sites that meet only these inputs."""
        return Gram(self.total)


def with_gathering(site: Site, total: Array, counts: NDArray[np.float64]) -> Array:
    """Returns the Gram of a table that is multiplied with and gathered from, as tied ones are.

    What a changed row costs those who gather it is its square sum, as often as it is read. Averaged
    over the rows, and with the outputs of both readers given the same weight, that is something on
    the diagonal of the Gram.

    Args:
        site: the table.
        total: its Gram, (1, columns, columns).
        counts: how often each row was read.
    """
    try:
        layout = layout_of_site(site)
    except NotApplicable:
        return total
    if layout.axes[1] != (0,) or layout.sizes[0] != 1 or layout.sizes[1] != counts.size:
        return total  # rows that are gathered are not rows of the matrix
    weight = layout.split(weight_of(site))[0].reshape(counts.size, -1).astype(np.float32)
    read = float(counts @ np.einsum("rc,rc->r", weight, weight).astype(np.float64))
    multiplied = inner(weight.T @ weight, total[0])
    if not np.isfinite(multiplied) or read == 0:
        return total
    extra = np.eye(total.shape[1]) * (multiplied / read * counts.mean())
    return total + placed(extra, total)
