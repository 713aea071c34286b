"""The entries of tables: k-means on one axis, by dynamic programming, for many tables at once.

Clusters of numbers are intervals of their order, so a table is a row of edges in it, and what an
interval weighs and comes to are differences of prefix sums. From edges as densely as theory has
them at the optimum, each round lets every edge move to one of some places, near, far, and where its
neighbours are, and finds the best choice for all edges of a table together.

Source of the first edges: Panter and Dite 1951, "Quantization distortion in pulse-count modulation
with nonuniform spacing of levels": at the optimum entries are as dense as the cube root of the
values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlpass.parallel import map_items

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Places = NDArray[np.integer]
# Whenever it is called: some values, and which of them count.
Pieces = Callable[[], Iterable[tuple[Floats, NDArray[np.bool_]]]]
Shares = Floats | NDArray[np.bool_]
_Bins = tuple[Doubles, Doubles]

_MOST = 1 << 15  # values of a table that are put in order; more are counted
_BINS = 1 << 16  # that they are counted into: as many as there are halves
_COARSE = 64  # parts that the density is read from
_CAPPED = 8  # rounds of capping the density
_CELLS = 4  # of the lattice, for each entry
_WINDOW = 24  # cells to each side that an edge may begin at
_ROUNDS = 60
_ROUGH = 2  # rounds for entries that are only a start, where 0 has come among them
_PHASES = 3  # of places that are far
_ENDS = 6  # edges next to either end that may go near it, and places that they may go to
_AT_ONCE = 1 << 20  # values of the tables that are counted together
_SORTED = 1 << 18  # likewise, put in order: that takes 60 bytes each


def fitted_tables(
    values: Floats, shares: Floats | None, entries: int, zero: bool, *, roughly: bool = False
) -> Floats:
    """Returns the entries of each table, ascending: those with the least weighted square distance.

    Where a table's values are no more than its entries, these are exactly those.

    Args:
        values: (tables, values).
        shares: (tables, values), how much each counts, 0 or more; None where all count alike.
        entries: how many a table has, 2 or more.
        zero: whether one of them is to be 0 exactly.
        roughly: whether they are only a start, and the best on the lattice will do.
    """
    each = values.shape[1]
    step = tables_together(each) if each > _MOST else max(1, _SORTED // each)

    def fit(start: int) -> Floats:
        part = slice(start, start + step)
        own = None if shares is None else shares[part]
        return _fitted(values[part], own, entries, zero, roughly)

    return np.concatenate(map_items(fit, range(0, len(values), step)))


def tables_together(values: int) -> int:
    """Returns how many tables of so many values depend on each other: how long their lines are."""
    return max(1, _AT_ONCE // values) if values > _MOST else 1


def is_large(values: int) -> bool:
    """Returns whether a table of so many values is worked out by itself, and may be in pieces."""
    return values > _AT_ONCE


def fitted_in_pieces(pieces: Pieces, entries: int, zero: bool) -> Floats:
    """Returns the entries of one table that `is_large`, as `fitted_tables` does.

    Args:
        pieces: yields its values and which of them count, whenever it is called.
        entries: how many it has, 2 or more.
        zero: whether one of them is to be 0 exactly.
    """

    def counting() -> Iterator[tuple[Floats, Shares | None]]:
        for values, kept in pieces():
            yield values, None if kept.all() else kept

    line = _lined([_binned(counting)])
    (found,) = _entries_of(line, entries, zero)
    if line.occupied[0] <= entries:
        own = np.empty(0, np.float32)
        for values, kept in pieces():
            own = np.union1d(own, values[kept] + np.float32(0))  # of two zeros one
            if own.size > entries:
                break
        _take_few(found, own, zero)
    table: Floats = found
    return table


def _fitted(
    values: Floats, shares: Floats | None, entries: int, zero: bool, roughly: bool
) -> Floats:
    if shares is not None:
        unreached = ~(shares > 0).any(axis=1, keepdims=True)
        if unreached.any():  # no sample reaches what is kept: all count alike
            shares = np.where(unreached, (values != 0).astype(np.float32), shares)
    line = _in_order(values, shares) if values.shape[1] <= _MOST else _counted(values, shares)
    found = _entries_of(line, entries, zero, roughly)
    for table in np.flatnonzero(line.occupied <= entries):
        own = np.unique(values[table] if shares is None else values[table][shares[table] > 0])
        _take_few(found[table], own, zero)
    return found


def _entries_of(line: _Line, entries: int, zero: bool, roughly: bool = False) -> Floats:
    """Returns the entries of each table on a line, ascending."""
    edges = _first_edges(line, entries - zero)
    if not roughly:
        edges = _improved(line, edges, None, _ROUNDS)
    centres = _centres(line, edges)
    if zero:
        centres = _with_zero(line, centres, _ROUGH if roughly else _ROUNDS)
    found: Floats = np.sort(centres, axis=1).astype(np.float32)
    return found


def _take_few(table: Floats, own: Floats, zero: bool) -> None:
    """Makes the entries of a table its values, with 0 where that is to be one, if these are few."""
    own = np.union1d(own, [np.float32(0)]) if zero or not own.size else own
    if own.size <= table.size:
        table[:] = np.pad(own, (0, table.size - own.size), mode="edge")


class _Line(NamedTuple):
    """The values of some tables in order, or bins of them.

    Attributes:
        weight: (tables, places) the weight of all values before each place.
        moment: like it, of value times weight.
        outer: like it, the value there.
        first: like it, the first place of the same value: an edge between equals is never better.
        occupied: (tables,) how many distinct values there are at least, as far as bins tell.
    """

    weight: Doubles
    moment: Doubles
    outer: Doubles
    first: Places
    occupied: Places


def _in_order(values: Floats, shares: Floats | None) -> _Line:
    """Returns the values themselves."""
    if shares is None:
        ordered = np.sort(values, axis=1)
        weight = np.tile(np.arange(values.shape[1] + 1.0), (len(values), 1))
        moment = _sums(ordered)
    else:
        order = np.argsort(values, axis=1)
        ordered, share = (np.take_along_axis(each, order, axis=1) for each in (values, shares))
        weight, moment = _sums(share), _sums(share.astype(np.float64) * ordered)
    new = np.pad(np.diff(ordered) > 0, ((0, 0), (1, 1)), constant_values=True)
    occupied = np.count_nonzero(new, axis=1) - 1
    first = np.maximum.accumulate(np.where(new, np.arange(new.shape[1], dtype=np.int32), 0), axis=1)
    outer = np.concatenate([ordered, ordered[:, -1:]], axis=1).astype(np.float64)
    return _Line(weight, moment, outer, first, occupied)


def _counted(values: Floats, shares: Floats | None) -> _Line:
    """Returns bins, the occupied ones alone: each is of values that are alike in fp16."""
    each = [None] * len(values) if shares is None else shares
    return _lined([_binned(lambda one=one: [one]) for one in zip(values, each, strict=True)])  # type: ignore[misc]


def _binned(pieces: Callable[[], Iterable[tuple[Floats, Shares | None]]]) -> _Bins:
    """Returns the weight and the moment of each bin of a table that is occupied.

    Args:
        pieces: yields its values and how much each counts, None for alike, whenever it is called.
    """
    largest = max(np.abs(values).max(initial=0) for values, _ in pieces())
    exponent = np.frexp(largest if largest > 0 else np.float32(1))[1]
    weight: Doubles = np.zeros(_BINS)
    moment: Doubles = np.zeros(_BINS)
    bins = np.arange(_BINS, dtype=np.int32)
    for values, share in pieces():
        flat = values.reshape(-1)
        bits = np.ldexp(flat, 15 - exponent).astype(np.float16).view(np.int16).astype(np.int32)
        place = np.where(bits < 0, -(bits & 0x7FFF), bits) + _BINS // 2
        counts = None if share is None else share.reshape(-1)
        moments = flat if counts is None else flat * counts
        weight += np.bincount(place, counts, _BINS)
        # What there is already goes first: the sum is that of one piece, to the bit.
        moment[:] = np.bincount(np.append(bins, place), np.append(moment, moments), _BINS)
    occupied = np.flatnonzero(weight)
    return weight[occupied], moment[occupied]


def _lined(tables: Sequence[_Bins]) -> _Line:
    """Returns the bins of some tables as a line, which is as long as the longest of them."""
    occupied = np.array([weight.size for weight, _ in tables])
    columns = np.arange(max(1, occupied.max()))
    weight, moment = np.zeros((2, len(tables), columns.size))
    for table, own in enumerate(tables):
        weight[table, : occupied[table]], moment[table, : occupied[table]] = own
    means = moment / np.where(weight > 0, weight, 1)
    last = np.take_along_axis(means, np.maximum(occupied - 1, 0)[:, None], axis=1)
    outer = np.concatenate([np.where(weight > 0, means, last), last], axis=1)
    first = np.minimum(np.append(columns, columns.size), occupied[:, None]).astype(np.int32)
    return _Line(_sums(weight), _sums(moment), outer, first, occupied)


def _centres(line: _Line, edges: Places) -> Doubles:
    """Returns the mean of each interval; of one without values the nearest before it."""
    tables, last = len(line.weight), line.weight.shape[1] - 1
    ends = np.zeros((tables, 1), np.intp), np.full((tables, 1), last)
    bounds = np.concatenate([ends[0], edges, ends[1]], axis=1)
    weight = np.diff(np.take_along_axis(line.weight, bounds, axis=1))
    moment = np.diff(np.take_along_axis(line.moment, bounds, axis=1))
    means = moment / np.where(weight > 0, weight, 1)
    place = np.maximum.accumulate(np.where(weight > 0, np.arange(weight.shape[1]), -1), axis=1)
    first = np.argmax(weight > 0, axis=1)[:, None]
    return np.take_along_axis(means, np.where(place < 0, first, place), axis=1)


def _sums(parts: NDArray[np.generic]) -> Doubles:
    """Returns the sums of all parts before each."""
    found = np.zeros((len(parts), parts.shape[1] + 1))
    np.cumsum(parts, axis=1, out=found[:, 1:])
    return found


def _first_edges(line: _Line, entries: int) -> Places:
    """Returns (tables, entries - 1) edges: the best of those on a lattice.

    It is as dense as the cube root of the values.
    """
    last = line.weight.shape[1] - 1
    tail = np.unique((2 ** np.arange(0, np.log2(max(2, last / _COARSE)), 0.25)).astype(np.intp))
    coarse = np.linspace(0, last, _COARSE + 1).astype(np.intp)
    coarse = np.unique(np.concatenate([coarse, tail, last - tail]))  # finer far out
    counts, widths = np.diff(line.weight[:, coarse]), np.diff(line.outer[:, coarse])
    parts = np.cbrt(counts * np.square(widths))
    for _ in range(_CAPPED):  # no part needs more entries than it has values
        most = np.diff(coarse) / entries * parts.sum(axis=1, keepdims=True)
        parts = np.minimum(parts, most)
    dense = _sums(parts)
    wanted = np.arange(entries * _CELLS + 1) / (entries * _CELLS)
    found = [np.interp(wanted * own[-1], own, coarse) for own in dense]
    lattice = np.rint(found).astype(np.intp)
    middle = np.arange(1, entries) * _CELLS
    if entries < 2:
        return lattice[:, middle]
    window = middle[:, None] + np.arange(-_WINDOW, _WINDOW + 1)
    places = [lattice[:, each] for each in np.clip(window, 0, entries * _CELLS)]
    return _moved(line, lattice[:, middle], places, None)


def _with_zero(line: _Line, centres: Doubles, rounds: int) -> Doubles:
    """Returns the centres with 0 among them, the others moved to where they are best beside it."""
    together = np.sort(np.concatenate([centres, np.zeros((len(centres), 1))], axis=1), axis=1)
    number = np.argmax(together == 0, axis=1)
    between = (together[:, 1:] + together[:, :-1]) / 2
    edges = [np.searchsorted(own, each) for own, each in zip(line.outer, between, strict=True)]
    last = line.weight.shape[1] - 1
    found = _centres(line, _improved(line, np.minimum(np.stack(edges), last), number, rounds))
    np.put_along_axis(found, number[:, None], 0, axis=1)
    return found


def _improved(line: _Line, edges: Places, zero: Places | None, rounds: int) -> Places:
    """Returns edges moved to where the square distance is less, by all of a table at once.

    Args:
        line: the values.
        edges: (tables, entries - 1), ascending.
        zero: (tables,) the interval whose entry is 0; None where all are means.
        rounds: at most.
    """
    if edges.shape[1] == 0:
        return edges
    edges, rest = edges.copy(), np.arange(len(edges))
    still = np.zeros(len(edges), np.intp)  # rounds since something moved
    for number in range(rounds):
        part = line if rest.size == len(edges) else _Line(*(each[rest] for each in line))
        places = _places(edges[rest], line.weight.shape[1] - 1, number % _PHASES / _PHASES)
        moved = _moved(part, edges[rest], places, None if zero is None else zero[rest])
        still[rest] = np.where((moved != edges[rest]).any(axis=1), 0, still[rest] + 1)
        edges[rest] = moved
        rest = rest[still[rest] < _PHASES]
        if not rest.size:
            break
    return edges


def _places(edges: Places, last: int, phase: float) -> list[Places]:
    """Returns where each edge may go, (tables, places): near, far, and where its neighbours are.

    Those next to an end of the line may also go near it.

    Args:
        edges: (tables, edges).
        last: the highest place.
        phase: 0 to 1, by which far ones differ from round to round.
    """
    padded = np.pad(edges, ((0, 0), (1, 1)), constant_values=(0, last))
    far = np.unique((2 ** (np.arange(0, np.log2(last) - 2) + phase)).astype(np.intp))
    steps = np.concatenate([-far, [0], far])
    ends = np.tile(np.minimum(last, 1 << np.arange(_ENDS)), (len(edges), 1))
    found = []
    for number in range(edges.shape[1]):
        left, own, right = (padded[:, [number + side]] for side in range(3))
        places = [np.clip(own + steps, 0, last), left, right, (left + own) // 2, (right + own) // 2]
        if number < _ENDS:
            places.append(ends)
        if number >= edges.shape[1] - _ENDS:
            places.append(last - ends)
        found.append(np.concatenate(places, axis=1))
    return found


def _moved(line: _Line, edges: Places, places: Sequence[Places], zero: Places | None) -> Places:
    """Returns the best choice of edges among the places of each, (tables, places)."""
    tables, count = edges.shape
    last = line.weight.shape[1] - 1
    weight, moment = line.weight.reshape(-1), line.moment.reshape(-1)
    origin = (np.arange(tables) * (last + 1))[:, None]
    first = line.first.reshape(-1)
    places = [first[origin + each] for each in places]
    before: Places = np.zeros((tables, 1), np.intp)
    best = np.zeros((tables, 1))
    start = weight[origin + before], moment[origin + before]
    came = np.zeros((count + 1, tables, max(each.shape[1] for each in places)), np.int8)
    for number in range(count + 1):
        after = places[number] if number < count else np.full((tables, 1), last)
        stop = weight[origin + after], moment[origin + after]
        mass = stop[0][:, :, None] - start[0][:, None, :]
        gain = stop[1][:, :, None] - start[1][:, None, :]
        np.square(gain, out=gain)
        mass[mass <= 0] = np.inf
        gain /= mass
        if zero is not None:
            gain[zero == number] = 0
        gain[after[:, :, None] < before[:, None, :]] = -np.inf
        gain += best[:, None, :]
        came[number, :, : after.shape[1]] = gain.argmax(axis=2)
        best, before, start = gain.max(axis=2), after, stop
    rows = np.arange(tables)
    chosen: Places = came[count, :, 0].astype(np.intp)
    found = np.empty_like(edges)
    for number in range(count - 1, -1, -1):
        found[:, number] = places[number][rows, chosen]
        chosen = came[number, rows, chosen].astype(np.intp)
    return found
