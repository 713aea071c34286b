"""One form for all weights: the best of those that fit, by what is known of each."""

from __future__ import annotations

import pytest

from mlpass import Percentile
from mlpass.calibrate.menus import DENSE, Form
from mlpass.calibrate.prices import Offer, Prices
from mlpass.calibrate.uniform import best_uniform
from mlpass.storage.palette import Palette

TWO, FOUR = (Form(Percentile(0.0), Palette(bits)) for bits in (2, 4))


def prices(two, four):
    known = [Offer(DENSE, 100, 0.0), Offer(FOUR, 25, four)]
    return Prices(known, guesses=[*known, Offer(TWO, 12, two)])


@pytest.fixture
def both():
    return {"one": prices(0.5, 0.1), "two": prices(0.4, 0.2), "three": Prices([known_fixed()])}


def known_fixed():
    return Offer(Form(Percentile(0.5), None), 10, 0.3)


@pytest.mark.parametrize(("nbytes", "form"), [(60, FOUR), (59, TWO), (34, TWO)])
def test_the_best_that_fits(both, nbytes, form):
    found = best_uniform(both, dict.fromkeys(both, 1.0), nbytes)
    assert found.form == form
    assert found.offers["three"] == known_fixed()
    assert sum(offer.nbytes for offer in found.offers.values()) <= nbytes


def test_none_fits(both):
    assert best_uniform(both, dict.fromkeys(both, 1.0), 33) is None


def test_a_weight_that_cannot_get_it_stays_as_it_is(both):
    both["four"] = Prices([Offer(DENSE, 7, 0.0)], guesses=[Offer(DENSE, 7, 0.0)])
    found = best_uniform(both, dict.fromkeys(both, 1.0), 67)
    assert found.form == FOUR
    assert found.offers["four"].form == DENSE
