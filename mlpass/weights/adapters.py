"""Adapters: pairs of low rank beside a weight that functions share, as LoRA makes them.

A function that has one gives `base(x) + up(down(x))`, with a scale wherever that was put. Its pair
is in that function alone, or in some; the base weight is in more, and its op meets the same input.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import prod

from mlpass.errors import NotApplicable
from mlpass.program.ir import Op, Program, Value
from mlpass.program.reads import values_of
from mlpass.runtime.ops import is_constant
from mlpass.weights.ops.record import is_gathered, layout_of
from mlpass.weights.site import Site, Use

_SMALLER = 2  # so many times at least is the rank in what the pair takes, and in what it gives

Reading = tuple[Site, Use]


def find_adapters(programs: Iterable[Program], sites: Sequence[Site]) -> set[Site]:
    """Returns the weights that are halves of adapters."""
    shared = {site.functions for site in sites}
    if len(shared) < 2:
        return set()  # all functions have all weights
    readings = {use.op: (site, use) for site in sites for use in site.uses}
    found: set[Site] = set()
    for program in programs:
        for function in program.functions.values() if len(program.functions) > 1 else ():
            ops = [*function.block.walk()]
            way = _Way(ops, readings)
            for op in ops:
                terms = way.given(op) if op.type == "add" else []
                for up, other in (terms, terms[::-1]) if len(terms) == 2 else ():
                    found |= way.pair(up, other)
    return found


class _Way:
    """The way back from a value, through what changes each element alone or moves it."""

    def __init__(self, ops: Sequence[Op], readings: Mapping[Op, Reading]) -> None:
        self._makers = {value: op for op in ops for value in op.outputs}
        self._stated = {value for value, op in self._makers.items() if is_constant(op)}
        self._readings = readings

    def pair(self, made: Value, other: Value) -> set[Site]:
        """Returns the pair that makes one term of a sum, where the other is a base weight's."""
        up, inner = self._before(made)
        down, given = self._before(inner)
        if up is None or down is None or not _is_low_rank(down, up):
            return set()
        pair, begin = {down[0], up[0]}, self._begin(given)
        found = any(
            begin is self._begin(met)
            and all({*base.functions} > {*each.functions} for each in pair)
            for base, met in self._bases(other)
        )
        return pair if found else set()

    def given(self, op: Op) -> list[Value]:
        """Returns what an op is given that is not made of constants alone."""
        return [value for value in values_of(op) if value not in self._stated]

    def _before(self, value: Value | None) -> tuple[Reading | None, Value | None]:
        """Returns the weight whose op makes a value, and what that op meets; None without one."""
        while value is not None:
            op = self._makers.get(value)
            if op is None or len(given := self.given(op)) != 1 or op.blocks:
                break
            (value,) = given
            if op in self._readings:
                return self._readings[op], value
        return None, None

    def _begin(self, value: Value | None) -> Value | None:
        """Returns what a value is made of by ops that are given nothing else.

        They may be given it in several forms, as where indices that count from the end are mended.
        """
        while value is not None:
            value, given = self._chain(value)
            beginnings = {self._chain(one)[0] for one in given}
            if len(beginnings) != 1:
                break
            (value,) = beginnings
        return value

    def _chain(self, value: Value) -> tuple[Value, list[Value]]:
        """Returns where a chain of ops begins that makes a value, and what else leads to there."""
        while True:
            op = self._makers.get(value)
            given = [] if op is None or op in self._readings or op.blocks else self.given(op)
            if len(given) != 1:
                return value, given
            (value,) = given

    def _bases(self, value: Value) -> Iterator[tuple[Site, Value]]:
        """Yields the weights whose outputs are added up to a value, each with what it meets."""
        waiting = [value]
        while waiting:
            value = waiting.pop()
            reading, met = self._before(value)
            if reading is not None and met is not None:
                yield reading[0], met
                continue
            begin = self._begin(value)
            op = None if begin is None else self._makers.get(begin)
            if op is not None and op.type == "add":
                waiting += self.given(op)


def _is_low_rank(down: Reading, up: Reading) -> bool:
    """Returns whether two weights come to a matrix of a much lower rank than its size."""
    try:
        (_, rank, channels, positions), (groups, rows, inner, window) = map(_sizes, (down, up))
    except NotApplicable:
        return False
    small = _SMALLER * rank <= min(channels * positions, rows)
    return small and groups == 1 and rank == inner * window


def _sizes(reading: Reading) -> tuple[int, int, int, int]:
    """Returns the groups, rows, channels and positions of a weight as its op reads it."""
    site, use = reading
    if is_gathered(use.op.type, use.parameter):
        return 1, site.shape[-1], prod(site.shape[:-1]), 1  # of a table, as from one hot
    return layout_of(use.op.type, use.parameter, use.position, site.shape, use.settings).sizes
