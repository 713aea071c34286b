"""The sums of one activation, which grow as samples come by."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby
from operator import attrgetter
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlpass.arrays import Array, inner, placed
from mlpass.calibrate.aims import Aim, Crossed
from mlpass.errors import NotApplicable
from mlpass.program.ir import Op
from mlpass.runtime.ops import label_of
from mlpass.solvers.accumulate import GramSum, sum_of_grams
from mlpass.solvers.gram import Gram
from mlpass.solvers.held_out import HeldOut
from mlpass.weights.reading import layout_of_site, weight_of
from mlpass.weights.sites import Site

_HELD = 8  # one sample of so many is kept back
_SPLIT = 4  # of a single sample, one row of so many


class Whose(NamedTuple):
    """Whose inputs rows are, as an error tells it."""

    sample: int
    op: Op

    def __str__(self) -> str:
        return f" (sample {self.sample}, {label_of(self.op)!r})"


@dataclass(eq=False)
class Gathered:
    """A Gram that grows.

    Attributes:
        crossed: the sums of what the dense model's have over them; None where none are wanted.
        refusal: why there are no such inputs.
        samples: those that brought rows, each with its place among them.
        tokens: how many input rows most samples brought, and those that are kept back.
        sums: likewise of most samples, and of those that are kept back.
        counts: likewise of a table that is gathered from, how often each row was read.
        aim: what a site that meets only these inputs is to aim at, once that was asked for.
        neighbours: whether the rows of a sample are places of one picture.
    """

    crossed: Crossed | None = None
    refusal: str | None = None
    samples: dict[int, int] = field(default_factory=dict)
    tokens: list[int] = field(default_factory=lambda: [0, 0])
    sums: tuple[GramSum, GramSum] = field(default_factory=lambda: (GramSum(), GramSum()))
    counts: list[Any] = field(default_factory=lambda: [None, None])
    aim: Aim | None = None
    neighbours: bool = False

    def add(self, inputs: Iterable[Chunk], op: Op) -> None:
        """Takes the input rows of some samples, in chunks.

        Rows are summed where they are: numpy's arrays, or torch's on their device.

        Raises:
            CalibrationError: there is NaN or inf among them.
        """
        for held, some in groupby(inputs, key=attrgetter("held")):
            self.sums[held].add_all(self._rows(some, op))

    def fresh(self) -> Gathered:
        """Returns what the next samples go into, to be taken in then."""
        return Gathered(None if self.crossed is None else self.crossed.fresh())

    def take(self, other: Gathered) -> None:
        """Takes in what the next samples brought; `other` is not to be used any more.

        Raises:
            CalibrationError: the columns are others.
        """
        self.refusal = self.refusal or other.refusal
        if self.crossed is not None and other.crossed is not None:
            self.crossed.take(other.crossed)
        self.neighbours |= other.neighbours
        for sample in other.samples:
            self.samples.setdefault(sample, len(self.samples))
        for held, (mine, others) in enumerate(zip(self.sums, other.sums, strict=True)):
            mine.take(others)
            self.tokens[held] += other.tokens[held]
            before, count = self.counts[held], other.counts[held]
            self.counts[held] = (
                count if before is None else before if count is None else before + count
            )

    def settle(self) -> None:
        """Sums what is held back, so that nothing but sums is kept."""
        for one in self.sums:
            one.settle()

    def is_held(self, sample: int) -> bool:
        """Returns whether a sample is kept back: of its cohort the second with rows, the tenth."""
        return self.samples.get(sample, 0) % _HELD == 1

    def noted(self, sample: int, rows: Iterable[Array]) -> Iterator[Array]:
        """Yields a sample's chunks but for empty ones, and notes that it came by.

        One without rows, as of an expert that no token of a sample reaches, adds nothing.
        """
        for chunk in rows:
            if tokens_of(chunk):
                self.samples.setdefault(sample, len(self.samples))
            yield chunk

    def _rows(self, inputs: Iterable[Chunk], op: Op) -> Iterator[tuple[Any, Whose]]:
        """Counts chunks, and yields those with rows, with what to call them in an error."""
        for sample, rows, held in inputs:
            tokens = tokens_of(rows)
            if not tokens:
                continue
            self.tokens[held] += tokens
            if rows.ndim == 1:
                before = self.counts[held]
                self.counts[held] = np.asarray(rows if before is None else before + rows)
            else:
                yield rows, Whose(sample, op)

    @property
    def is_table(self) -> bool:
        """Whether there are counts, and no sums."""
        return any(one is not None for one in self.counts)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of `totals`, which themselves take copies to make."""
        for one in self.counts:
            if one is not None:
                return tuple(one.shape)
        return self.sums[0].shape or self.sums[1].shape

    def totals(self, numbers: Sequence[int]) -> list[Array]:
        """Returns Grams that add up to that of some rows; none where there are no such rows.

        Args:
            numbers: 0 for most samples, 1 for those kept back.
        """
        if not self.is_table:
            return [self.sums[number].total() for number in numbers if self.sums[number].shape]
        known = any(self.tokens[number] for number in numbers)
        return [np.asarray(self.reads(numbers), np.float32)] if known else []

    def reads(self, numbers: Sequence[int]) -> NDArray[np.float64]:
        """Returns how often each row of a table was read, likewise.

        A row that the samples happen not to read is read by others: once, say.
        """
        found = np.full(self.shape, float(0 in numbers))
        for number in numbers:
            if self.counts[number] is not None:
                found += self.counts[number]
        return found

    @cached_property
    def grams(self) -> tuple[Gram, HeldOut]:
        """What `grams_of` returns for all sites that meet only these inputs."""
        return _grams([self])


def grams_of(
    site: Site, matrices: Sequence[Gathered], tables: Sequence[Gathered]
) -> tuple[Gram, HeldOut]:
    """Returns the Gram of all that a site's readers met, and those of its parts.

    Args:
        site: a weight.
        matrices: what those met who multiply with it, of one shape.
        tables: what those met who gather from it.
    """
    if matrices and tables:
        return _grams(matrices, lambda total, numbers: _with_reads(site, total, tables, numbers))
    met = matrices or tables
    return met[0].grams if len(met) == 1 else _grams(met)


def _grams(
    met: Sequence[Gathered], changed: Callable[[Array, Sequence[int]], Array] | None = None
) -> tuple[Gram, HeldOut]:
    def gram(*numbers: int) -> Gram | None:
        totals = [total for one in met for total in one.totals(numbers)]
        if not totals:
            return None
        total = sum_of_grams(totals)
        return Gram(total if changed is None else changed(total, numbers))

    whole = gram(0, 1)
    assert whole is not None  # there are rows
    rows, held = sum(sum(one.tokens) for one in met), sum(one.tokens[1] for one in met)
    alone = len(set().union(*(one.samples for one in met))) == 1
    neighbours = alone and any(one.neighbours for one in met)
    return whole, HeldOut(gram(0), gram(1), rows, held, alone, neighbours)


def _with_reads(
    site: Site, total: Array, tables: Sequence[Gathered], numbers: Sequence[int]
) -> Array:
    counts = np.sum([one.reads(numbers) for one in tables], axis=0)
    return with_gathering(site, total, counts)


class Chunk(NamedTuple):
    """Input rows of a sample: (groups, rows, columns), or how often each was read: (columns,).

    Attributes:
        sample: its number.
        rows: the chunk.
        held: whether they are kept back.
    """

    sample: int
    rows: Any
    held: bool


def halves(sample: int, number: int, rows: Any) -> Iterator[Chunk]:
    """Yields a chunk of the only sample there is in two: the last quarter of its rows is kept back.

    Args:
        sample: its number.
        number: of the chunk; of chunks too short to split, every fourth is kept back.
        rows: the chunk.
    """
    if rows.ndim == 1:
        yield Chunk(sample, rows, False)
    elif rows.shape[1] < _SPLIT:
        yield Chunk(sample, rows, number % _SPLIT == _SPLIT - 1)
    else:
        first = rows.shape[1] - rows.shape[1] // _SPLIT
        yield Chunk(sample, rows[:, :first, :], False)
        yield Chunk(sample, rows[:, first:, :], True)


def tokens_of(rows: Any) -> int:
    """Returns how many input rows a chunk has."""
    return int(rows.sum()) if rows.ndim == 1 else int(rows.shape[1])


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
