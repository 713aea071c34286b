"""What forms come to where a weight is solved for, told of all of a kind by one form: the probe."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlpass.calibrate.menus import Form, Offer
from mlpass.parallel import map_items
from mlpass.solvers.estimate import Excerpt, relative_error
from mlpass.solvers.gram import Gram
from mlpass.solvers.held_out import PLENTY, Choice, HeldOut, choose, tried_rows
from mlpass.solvers.problem import Method
from mlpass.solvers.solve import solve
from mlpass.sparsity.layout import Layout
from mlpass.sparsity.mode import Mode
from mlpass.sparsity.modes import Percentile
from mlpass.storage.palette import Palette

PLAIN = Form(Percentile(0.0), Palette(4))
_OF_ZEROS = Form(Percentile(0.5), Palette(4))


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

    def whole(self) -> NDArray[np.generic]:
        """Returns the weight in the plain probe.

        Raises:
            NotApplicable: it cannot be solved for; the text says why.
            CalibrationError: a Gram is not positive semidefinite.
        """
        return self._solved(PLAIN, self._weight, self._layout, self._way(PLAIN).choice)

    def as_solved(
        self, offers: Sequence[Offer], near: Sequence[Form], some: Excerpt
    ) -> tuple[list[Offer], dict[Form, NDArray[np.generic]]]:
        """Returns offers as a solve makes them, and the rows that it leaves of each form near.

        A solve gains as much on the other forms of a kind. Where none of a kind is near, estimates
        remain.

        Args:
            offers: as they are estimated.
            near: the forms that are solved for.
            some: rows of the weight.

        Raises:
            NotApplicable: as of `whole`.
            CalibrationError: likewise.
        """

        def solved(form: Form) -> tuple[NDArray[np.generic], float]:
            way = self._way(_probe_of(form))
            found = self._solved(form, some.weight, some.layout, way.choice)
            return found, some.error(found, self._gram)

        gains: dict[Form, list[float]] = {_probe_of(form): [] for form in near}
        for probe in gains:  # before threads ask for it
            self._way(probe)
        both = dict(zip(near, map_items(solved, near), strict=True))
        for offer in offers:
            if offer.form in both and offer.error > 0:
                gains[_probe_of(offer.form)].append(both[offer.form][1] / offer.error)

        def as_solved(offer: Offer) -> Offer:
            probe = _probe_of(offer.form)
            if probe not in gains:
                return offer
            gain, growth = float(np.median(gains[probe] or [1.0])), self._way(probe).growth
            error = both[offer.form][1] if offer.form in both else gain * offer.error
            return offer._replace(
                error=error, risk=offer.risk if growth is None else growth * error
            )

        return [*map(as_solved, offers)], {form: found for form, (found, _) in both.items()}

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
        )
        found = self._solved(probe, few.weight, few.layout, choice)
        seen = relative_error(few.weight, found, self._gram, few.layout)
        return Way(choice, choice.error / seen if choice.error and seen > 0 else None)

    def _solved(
        self, form: Form, weight: NDArray[np.generic], layout: Layout, choice: Choice
    ) -> NDArray[np.generic]:
        found = solve(
            weight,
            self._gram,
            self._mode_in(form),
            method=choice.method,
            storage=form.storage,
            layout=layout,
            shrinkage=choice.shrinkage,
        )
        return found.weight


def _probe_of(form: Form) -> Form:
    return _OF_ZEROS if form.has_zeros else PLAIN
