"""One form for all weights: the best of those that fit, by what is known of each."""

from __future__ import annotations

from itertools import product

import pytest

from mlpass import Percentile
from mlpass.calibrate.menus import DENSE, Form
from mlpass.calibrate.prices import Offer, Prices
from mlpass.calibrate.uniform import best_uniform, spent
from mlpass.storage.palette import Palette

TWO, FOUR = (Form(Percentile(0.0), Palette(bits)) for bits in (2, 4))


def prices(two, four):
    known = [Offer(DENSE, 100, 0.0, 0.0), Offer(FOUR, 25, four, four)]
    return Prices(known, every=[*known, Offer(TWO, 12, two, two)])


@pytest.fixture
def both():
    return {"one": prices(0.5, 0.1), "two": prices(0.4, 0.2), "three": Prices([known_fixed()])}


def known_fixed():
    return Offer(Form(Percentile(0.5), None), 10, 0.3, 0.3)


@pytest.mark.parametrize(("nbytes", "form"), [(60, FOUR), (59, TWO), (34, TWO)])
def test_the_best_that_fits(both, nbytes, form):
    found = best_uniform(both, dict.fromkeys(both, 1.0), nbytes)
    assert found.form == form
    assert found.offers["three"] == known_fixed()
    assert sum(offer.nbytes for offer in found.offers.values()) <= nbytes


def test_none_fits(both):
    assert best_uniform(both, dict.fromkeys(both, 1.0), 33) is None


def test_a_weight_that_cannot_get_it_stays_as_it_is(both):
    both["four"] = Prices([Offer(DENSE, 7, 0.0, 0.0)], every=[Offer(DENSE, 7, 0.0, 0.0)])
    found = best_uniform(both, dict.fromkeys(both, 1.0), 67)
    assert found.form == FOUR
    assert found.offers["four"].form == DENSE


@pytest.mark.parametrize("nbytes", [24, 36, 37, 49, 50, 136, 200])
def test_what_is_left_is_spent_where_it_pays_most(nbytes):
    pair = {"one": prices(0.5, 0.1), "two": prices(0.4, 0.02)}
    factors = {"one": 1.0, "two": 2.0}
    same = best_uniform(pair, factors, 24)
    assert same.form == TWO
    found = spent(same, pair, factors, nbytes)
    tried = product(*([same.offers[site], *each.offers] for site, each in pair.items()))

    def risk(offers):
        return sum(
            factor * each.risk for factor, each in zip(factors.values(), offers, strict=True)
        )

    fit = [each for each in tried if sum(offer.nbytes for offer in each) <= nbytes]
    assert risk(found.values()) == pytest.approx(min(map(risk, fit)))
    assert sum(offer.nbytes for offer in found.values()) <= nbytes
