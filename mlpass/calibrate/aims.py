"""What the dense model's activations have over the pruned one's, summed side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from typing import NamedTuple

from mlpass.arrays import Array
from mlpass.errors import NotApplicable
from mlpass.program.ir import Value
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
        streams: of the sites that read it, what their outputs are added to.
        refusal: why there are no such sums.
    """

    streams: dict[Site, Value]
    refusal: str | None = None
    _inputs: tuple[CrossSum, CrossSum] = field(default_factory=_two)
    _drifts: dict[Site, tuple[CrossSum, CrossSum]] = field(default_factory=dict)

    def refuse(self, reason: str) -> None:
        """Gives up, and lets go of what is summed."""
        self.refusal = self.refusal or reason
        self.streams, self._inputs, self._drifts = {}, _two(), {}

    def leave(self, site: Site) -> None:
        """Lets go of a site's stream."""
        self.streams.pop(site)
        self._drifts.pop(site, None)

    def watched(
        self,
        chunks: Iterator[Array],
        dense: Iterator[Array],
        drifts: Mapping[Site, Array],
        is_held: Callable[[], bool],
    ) -> Iterator[Array]:
        """Yields the inputs that an op meets, and sums what those of the dense model have over.

        Args:
            chunks: in the pruned model, (groups, samples, columns).
            dense: the same in the dense one.
            drifts: what the streams of the dense model have over, (groups, samples, rows) each.
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
                for site, drift in drifts.items():
                    self._add_drift(site, chunk, drift[:, start:stop, ...], held)
            except NotApplicable as reason:
                self.refuse(str(reason))
            start = stop
            yield chunk
            if self.refusal:
                break
        yield from chunks

    def _add_drift(self, site: Site, chunk: Array, drift: Array, held: bool) -> None:
        """Takes in what a stream has over; one that is not of the outputs' size is let go of."""
        if drift.shape[:2] != chunk.shape[:2]:  # one that is broadcast as it is added
            self.leave(site)
        if site in self.streams:
            self._drifts.setdefault(site, _two())[held].add(chunk, drift)

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

    def drift(self, site: Site, part: int) -> Array | None:
        """Returns the sum for what a site is added to, likewise."""
        return self._drifts[site][part].total() if site in self._drifts else None


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
    drifts = [reduce(plus, [one.drift(site, number) for one in crossed]) for number in (0, 1)]
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
