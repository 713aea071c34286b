"""What the dense model's activations have over the pruned one's, summed side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from typing import NamedTuple

from mlpass.arrays import Array
from mlpass.errors import NotApplicable
from mlpass.solvers.aim import Moved
from mlpass.solvers.cross_sum import CrossSum, plus
from mlpass.solvers.gram import Gram
from mlpass.solvers.held_out import HeldOut
from mlpass.weights.sites import Site

TOO_FEW = "too few samples reach it to keep some back"


class Aim(NamedTuple):
    """What most samples tell of a site, what those that were kept back do, and what all do."""

    learnt: Moved
    held: Moved
    whole: Moved


def _two() -> tuple[CrossSum, CrossSum]:
    return CrossSum(), CrossSum()


@dataclass(eq=False)
class Crossed:
    """How an activation of the dense model differs from the pruned one's, summed with the latter.

    Sums are pairs: of most samples, and of those that are kept back.

    Attributes:
        followed: names of the sites that read it whose outputs are added to a stream.
        refusal: why there are no such sums.
    """

    followed: set[str]
    refusal: str | None = None
    _inputs: tuple[CrossSum, CrossSum] = field(default_factory=_two)
    _drifts: dict[str, tuple[CrossSum, CrossSum]] = field(default_factory=dict)

    def fresh(self) -> Crossed:
        """Returns what the next samples go into, to be taken in then."""
        return Crossed(set(self.followed), self.refusal)

    def take(self, other: Crossed) -> None:
        """Takes in what the next samples brought; `other` is not to be used any more."""
        if other.refusal:
            self.refuse(other.refusal)
        for name in self.followed - other.followed:
            self.leave(name)
        if self.refusal:
            return
        for mine, its in zip(self._inputs, other._inputs, strict=True):
            mine.take(its)
        for name in self.followed & other._drifts.keys():
            own = self._drifts.setdefault(name, _two())
            for mine, its in zip(own, other._drifts[name], strict=True):
                mine.take(its)

    def refuse(self, reason: str) -> None:
        """Gives up, and lets go of what is summed."""
        self.refusal = self.refusal or reason
        self.followed, self._inputs, self._drifts = set(), _two(), {}

    def leave(self, name: str) -> None:
        """Lets go of a site's stream."""
        self.followed.discard(name)
        self._drifts.pop(name, None)

    def watched(
        self,
        chunks: Iterator[Array],
        dense: Iterator[Array],
        drifts: Mapping[str, Array],
        is_held: Callable[[], bool],
    ) -> Iterator[Array]:
        """Yields the inputs that an op meets, and sums what those of the dense model have over.

        Args:
            chunks: in the pruned model, (groups, samples, columns).
            dense: the same in the dense one.
            drifts: what the streams of the dense model have over, by the name of the site that is
                added to each, (groups, samples, rows).
            is_held: returns whether the sample is kept back, once its first chunk is there.
        """
        start = 0
        for chunk in chunks:
            other, held = next(dense, None), is_held()
            stop = start + chunk.shape[1]
            try:
                if other is None or other.shape != chunk.shape:
                    raise NotApplicable("its inputs are of other shapes in the dense model")
                self._inputs[held].add(chunk, other - chunk)
                for name, drift in drifts.items():
                    self._add_drift(name, chunk, drift[:, start:stop, ...], held)
            except NotApplicable as reason:
                self.refuse(str(reason))
            start = stop
            yield chunk
            if self.refusal:
                break
        yield from chunks

    def _add_drift(self, name: str, chunk: Array, drift: Array, held: bool) -> None:
        """Takes in what a stream has over; one that is not of the outputs' size is let go of."""
        if drift.shape[:2] != chunk.shape[:2]:  # one that is broadcast as it is added
            self.leave(name)
        if name in self.followed:
            self._drifts.setdefault(name, _two())[held].add(chunk, drift)

    def flush(self) -> None:
        """Sums what is held back: activations that may change now."""
        try:
            for sums in (self._inputs, *self._drifts.values()):
                for one in sums:
                    one.flush()
        except NotApplicable as reason:
            self.refuse(str(reason))

    def inputs(self, part: int) -> Array | None:
        """Returns the sum for the inputs: 0 of most samples, 1 of those kept back."""
        return self._inputs[part].total()

    def drift(self, name: str, part: int) -> Array | None:
        """Returns the sum for what a site is added to, likewise."""
        return self._drifts[name][part].total() if name in self._drifts else None


def aim_of(
    site: Site, crossed: Sequence[Crossed], known: Aim | None, gram: Gram, parts: HeldOut
) -> Aim:
    """Returns what a site is to aim at.

    Raises:
        NotApplicable: it cannot aim at the dense model; the text says why.
    """
    for one in crossed:
        if one.refusal:
            raise NotApplicable(one.refusal)
    plain = known or _aim(crossed, gram, parts)
    drifts = [reduce(plus, [one.drift(site.name, number) for one in crossed]) for number in (0, 1)]
    several = (*drifts, plus(*drifts))
    return Aim(
        *(
            replace(Moved.of(moved.gram, None, drift), cross=moved.cross)
            for moved, drift in zip(plain, several, strict=True)
        )
    )


def _aim(crossed: Sequence[Crossed], gram: Gram, parts: HeldOut) -> Aim:
    """Returns the same without streams."""
    if parts.learnt is None or parts.held is None:
        raise NotApplicable(TOO_FEW)
    first, second = (reduce(plus, [one.inputs(number) for one in crossed]) for number in (0, 1))
    return Aim(
        Moved.of(parts.learnt, first),
        Moved.of(parts.held, second),
        Moved.of(gram, plus(first, second)),
    )
