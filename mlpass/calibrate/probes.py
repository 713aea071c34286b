"""What forms come to where a weight is solved for, told of all of a kind by one form: the probe."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlpass.calibrate.menus import Form, Offer
from mlpass.parallel import map_items
from mlpass.solvers.estimate import Excerpt, relative_error
from mlpass.solvers.gram import Gram
from mlpass.solvers.held_out import PLENTY, Choice, HeldOut, choose, tried_rows
from mlpass.solvers.problem import Method
from mlpass.solvers.settle import ROUNDS
from mlpass.solvers.solve import solve
from mlpass.sparsity.layout import Layout
from mlpass.sparsity.mode import Mode
from mlpass.sparsity.modes import Percentile
from mlpass.storage.palette import Palette

PLAIN = Form(Percentile(0.0), Palette(4))
_OF_ZEROS = Form(Percentile(0.5), Palette(4))
_ONE = 1  # round of settling, where solves are but compared
_ABOUT = 0.15  # how far from what is wanted a form may be, as a logarithm, that is solved for
_LITTLE = 1 << 25  # multiplications of a weight's columns: with no more, all that is near is


class Way(NamedTuple):
    """How a weight is solved for in forms of one kind: with zeros, or without.

    Attributes:
        choice: of the method.
        growth: how many times as large an error is on rows kept back; None where none are, or where
            they tell of no error, being nothing but zeros: an element's own loss, which is fitted
            to no inputs, is then the risk.
    """

    choice: Choice
    growth: float | None = None


class Probes:
    """Solves for a weight, or some of its rows, in one form and another."""

    def __init__(
        self,
        weight: NDArray[np.generic],
        layout: Layout,
        gram: Gram,
        parts: HeldOut | None,
        method: Method,
        mode_in: Callable[[Form], Mode],
    ) -> None:
        """Notes what is to be solved for.

        Args:
            weight: in the shape of `layout`.
            layout: of the weight.
            gram: of its inputs, which is not diagonal.
            parts: of the Gram; None where nothing is kept back.
            method: that was asked for.
            mode_in: what makes the mask of a form.
        """
        self._weight, self._layout, self._gram, self._parts = weight, layout, gram, parts
        self._method, self._mode_in = method, mode_in
        self._ways: dict[Form, Way] = {}

    @cached_property
    def whole(self) -> NDArray[np.generic]:
        """The weight in the plain probe.

        Raises:
            NotApplicable: it cannot be solved for; the text says why.
            CalibrationError: a Gram is not positive semidefinite.
        """
        return self._solved(PLAIN, self._weight, self._layout, self._way(PLAIN).choice)

    def as_solved(
        self, offers: Sequence[Offer], near: Sequence[Form], some: Excerpt, wanted: float
    ) -> tuple[list[Offer], NDArray[np.generic]]:
        """Returns offers as a solve makes them, and the rows that it leaves of one near the room.

        How many times the estimate a solve comes to changes slowly with the bytes of a form. So of
        each kind some forms are solved for, and tell of those between and beyond; where none of a
        kind is near, estimates remain. Most are settled in one round, and the probe tells what
        further ones do; not so the one of the rows, which is to do to the model's outputs what a
        solve does. Of small weights all that are near are solved for, to the end.

        Args:
            offers: as they are estimated.
            near: the forms that may matter.
            some: rows of the weight.
            wanted: bytes that the weight may come to take.

        Raises:
            NotApplicable: as of `whole`.
            CalibrationError: likewise.
        """
        of_form = {offer.form: offer for offer in offers}
        kinds: dict[Form, list[Offer]] = {PLAIN: [], _OF_ZEROS: []}
        for form in near:
            kinds[_probe_of(form)].append(of_form[form])
        little = some.weight.size * self._layout.columns <= _LITTLE
        most = kinds.values() if little else (_telling(kind, wanted) for kind in kinds.values())
        told = [each for kind in most for each in kind]
        known = [*told, *(offer for offer in offers if offer.form == PLAIN)]
        nearest = min(known, key=lambda each: _apart(each, wanted)).form if known else PLAIN
        rounds = {each.form: ROUNDS if little else _ONE for each in told} | {nearest: ROUNDS}
        rounds.pop(PLAIN, None)  # the whole weight tells of it
        rough = [form for form, count in rounds.items() if count == _ONE]
        if rough:
            rounds[PLAIN] = _ONE

        def solved(form: Form) -> NDArray[np.generic]:
            choice = self._way(_probe_of(form)).choice
            return self._solved(form, some.weight, some.layout, choice, rounds[form])

        for form in rounds:  # before threads ask for it
            self._way(_probe_of(form))
        rows = dict(zip(rounds, map_items(solved, [*rounds]), strict=True))
        errors = {form: some.error(found, self._gram) for form, found in rows.items()}
        begun, rows[PLAIN] = errors.get(PLAIN, 0.0), some.like(self.whole, self._layout)
        errors[PLAIN] = some.error(rows[PLAIN], self._gram)
        rest = errors[PLAIN] / begun if begun > 0 else 1.0  # what further rounds make of one
        errors |= {form: rest * errors[form] for form in rough}
        lines = {probe: _Gains.of(known, errors, probe) for probe, kind in kinds.items() if kind}

        def as_solved(offer: Offer) -> Offer:
            probe = _probe_of(offer.form)
            if probe not in lines:
                return offer
            error = errors.get(offer.form, offer.error * lines[probe].at(offer.nbytes))
            growth = self._way(probe).growth
            return offer._replace(
                error=error, risk=offer.risk if growth is None else growth * error
            )

        return [*map(as_solved, offers)], rows[nearest]

    def _way(self, probe: Form) -> Way:
        """Returns how forms of a kind are solved for, found once."""
        if probe not in self._ways:
            self._ways[probe] = self._find_way(probe)
        return self._ways[probe]

    def _find_way(self, probe: Form) -> Way:
        """Returns how forms of a kind are solved for.

        Where rows are plentiful there is nothing to choose, and errors grow as those of a least
        squares fit do; else the probe tells both on a few of the weight's rows.
        """
        parts, columns = self._parts, self._layout.columns
        if parts is None:
            return Way(Choice(self._method))
        if parts.rows >= PLENTY * columns:
            return Way(Choice(self._method), (parts.rows + columns) / (parts.rows - columns))
        few = tried_rows(self._weight, self._layout, self._gram)
        choice = choose(
            few.weight,
            parts,
            self._mode_in(probe),
            method=self._method,
            storage=probe.storage,
            target=None,
            layout=few.layout,
            rounds=_ONE,
        )
        found = self._solved(probe, few.weight, few.layout, choice, _ONE)
        seen = relative_error(few.weight, found, self._gram, few.layout)
        return Way(choice, choice.error / seen if choice.error and seen > 0 else None)

    def _solved(
        self,
        form: Form,
        weight: NDArray[np.generic],
        layout: Layout,
        choice: Choice,
        rounds: int = ROUNDS,
    ) -> NDArray[np.generic]:
        found = solve(
            weight,
            self._gram,
            self._mode_in(form),
            method=choice.method,
            storage=form.storage,
            layout=layout,
            shrinkage=choice.shrinkage,
            rounds=rounds,
        )
        return found.weight


def _probe_of(form: Form) -> Form:
    return _OF_ZEROS if form.has_zeros else PLAIN


def _apart(offer: Offer, wanted: float) -> float:
    return abs(float(np.log(offer.nbytes / wanted)))


def _telling(offers: Sequence[Offer], wanted: float) -> list[Offer]:
    """Returns those of a kind that tell of all: near what is wanted, and the smallest.

    Larger ones lose so little that what a solve makes of it changes nothing.
    """
    if not offers:
        return []
    nearest = min(offers, key=lambda each: _apart(each, wanted))
    smallest = min(offers, key=lambda each: each.nbytes)
    return [each for each in offers if each in (nearest, smallest) or _apart(each, wanted) < _ABOUT]


class _Gains(NamedTuple):
    """How many times the estimated error a solve comes to, by the bytes of a form.

    Attributes:
        nbytes: ascending.
        gains: of each.
    """

    nbytes: NDArray[np.floating]
    gains: NDArray[np.floating]

    @staticmethod
    def of(offers: Sequence[Offer], errors: Mapping[Form, float], probe: Form) -> _Gains:
        """Returns those of the offers of one kind, from the errors that solves leave."""
        points = sorted(
            {
                (each.nbytes, errors[each.form] / each.error)
                for each in offers
                if _probe_of(each.form) == probe and each.error > 0
            }
        )
        nbytes, gains = np.array(points or [(1, 1.0)], float).T
        return _Gains(nbytes, gains)

    def at(self, nbytes: int) -> float:
        """Returns the gain of a form of so many bytes."""
        return float(np.interp(np.log(nbytes), np.log(self.nbytes), self.gains))
