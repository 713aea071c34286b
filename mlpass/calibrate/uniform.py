"""The same form for every weight that a budget divides: what a division has to beat."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from mlpass.calibrate.menus import Form, Offer
from mlpass.calibrate.prices import Prices, least_risk
from mlpass.weights.sites import Site


class Uniform(NamedTuple):
    """One form for all weights.

    Attributes:
        form: the form.
        offers: what each weight comes to; as it is where it cannot get the form.
    """

    form: Form
    offers: dict[Site, Offer]


def best_uniform(
    prices: Mapping[Site, Prices], factors: Mapping[Site, float], nbytes: int
) -> Uniform | None:
    """Returns the form for all weights that fits at the least estimated risk; None without one."""
    forms = {offer.form for each in prices.values() for offer in each.every}
    found = [
        (sum(factors[site] * offer.risk for site, offer in tried.offers.items()), str(form), tried)
        for form in forms
        if form.mode is not None
        for tried in [Uniform(form, {site: _offer(each, form) for site, each in prices.items()})]
        if sum(offer.nbytes for offer in tried.offers.values()) <= nbytes
    ]
    return min(found, key=lambda each: each[:2])[2] if found else None


def spent(
    uniform: Uniform, prices: Mapping[Site, Prices], factors: Mapping[Site, float], nbytes: int
) -> dict[Site, Offer]:
    """Returns what weights of one form come to where what it leaves of the bytes is spent as well.

    Each gets that form, or one of more bytes and less risk: those for which it pays most.
    """

    def menu(site: Site, own: Offer) -> list[Offer]:
        more = (each for each in prices[site].offers if each.nbytes > own.nbytes)
        return [own, *(each for each in more if each.risk < own.risk)]

    menus = {site: menu(site, own) for site, own in uniform.offers.items()}
    return least_risk(menus, factors, nbytes)


def _offer(prices: Prices, form: Form) -> Offer:
    """Returns what a weight comes to in a form; as it is where it cannot get that."""
    known = prices.every or prices.offers
    own = max(known, key=lambda offer: offer.nbytes)
    return next((offer for offer in known if offer.form == form), own)
