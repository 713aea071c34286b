"""What each form costs a weight: its bytes, and its error on the inputs that the samples bring."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from math import prod
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlpass.arrays import host
from mlpass.calibrate.again import Further, approach
from mlpass.calibrate.layers import mode_of
from mlpass.calibrate.menus import (
    DENSE,
    LOSSLESS,
    Form,
    Menu,
    Offer,
    forms_of,
    has_tails,
    kept_nbytes,
)
from mlpass.calibrate.probes import Probes
from mlpass.errors import NotApplicable
from mlpass.parallel import map_items
from mlpass.plan.steps import Step
from mlpass.solvers.allocate import lower_hull
from mlpass.solvers.budget import divide
from mlpass.solvers.estimate import Excerpt, diagonal_gram, estimated, excerpt, relative_error
from mlpass.solvers.gram import Gram
from mlpass.solvers.held_out import HeldOut
from mlpass.solvers.nearest import nearest
from mlpass.solvers.problem import Method
from mlpass.solvers.solve import solve
from mlpass.sparsity.layout import Layout
from mlpass.sparsity.modes import Mode, Percentile
from mlpass.storage.exact import file_nbytes
from mlpass.storage.quantized import Quantized
from mlpass.weights.footprint import footprint
from mlpass.weights.lossless import check_decoded, encode_lossless, rows_of_site, smallest_form
from mlpass.weights.reading import layout_to_solve, magnitude, weight_of
from mlpass.weights.rows import HeldRows
from mlpass.weights.sites import Site

_COARSE = Quantized("int4")  # tried of each weight, to see what that does
_QUARTER = 0.25  # of what is left of one that codes make, which may have few values: as coarse
_EXACT = 1e-6  # an error below it tells nothing of others: codes can say the weight as it is
# How far above the hull of estimates a form may be that is still solved for: a solver gains more on
# some forms than on others.
_NEAR = 1.3
_MORE = 2.0  # times as many bytes as a weight may come to keep: so many it may take as it is


class Trial(NamedTuple):
    """A change of a weight by which its influence is measured.

    Attributes:
        noise: relative output error of the weight that it makes.
        solved: the weight as a solve leaves it; None where each element is rounded by itself.
        rows: the numbers of those that were solved for; None for all. To the others these lend
            their errors.
    """

    noise: float
    solved: NDArray[np.generic] | None = None
    rows: NDArray[np.intp] | None = None


class Prices(NamedTuple):
    """What is known of a weight before the budget is divided.

    Attributes:
        offers: of forms; one where nothing is left to choose.
        trial: by which its influence is measured; None where it is not.
        work: multiplications of a sample.
        every: form, also those not worth a solve: they are taken to gain as others do by one.
    """

    offers: list[Offer]
    trial: Trial | None = None
    work: float = 0.0
    every: Sequence[Offer] = ()


def least_risk(
    menus: Mapping[Site, Sequence[Offer]], factors: Mapping[Site, float], nbytes: int
) -> dict[Site, Offer]:
    """Returns the offer that each weight takes where together they risk least.

    Raises:
        ConfigError: the smallest offers take more.
    """
    chosen = divide(
        [[offer.nbytes for offer in menu] for menu in menus.values()],
        [[factors[site] * offer.risk for offer in menu] for site, menu in menus.items()],
        nbytes,
    )
    return {site: menu[at] for (site, menu), at in zip(menus.items(), chosen, strict=True)}


def untouched(site: Site, menu: Menu) -> Offer:
    """Returns the offer to leave a weight as it is."""
    nbytes = menu.nbytes(site, DENSE)
    assert nbytes is not None  # it has a form already
    return Offer(DENSE, nbytes, 0.0, 0.0)


def prices_of(
    step: Step,
    gram: Gram | None,
    method: Method,
    menu: Menu,
    parts: HeldOut | None = None,
    *,
    share: float = 0.25,
) -> Prices:
    """Returns what each form that is worth it costs a weight.

    Forms are estimated first, and solved for where they are near the front; large weights by some
    of their rows.

    Args:
        step: of a weight that may get any form.
        gram: of its inputs; None where there are no samples: errors are then the weight's own, as
            where all inputs are zero.
        method: that solves.
        menu: of bytes.
        parts: of the Gram; None where nothing is kept back.
        share: of its bytes that it may come to keep: the solve that comes nearest to that is its
            trial. What solves leave does something else to the model's outputs than plain rounding,
            which is largest where the inputs are, and which a solver sees to first.

    Raises:
        NotApplicable: it cannot be solved for; the text says why.
        CalibrationError: the Gram is not positive semidefinite.
    """
    site = step.site
    if gram is not None and not host(gram.diagonal).any():
        gram = None  # inputs of nothing but zeros tell nothing of a weight
    weight, layout, used = _read(step, gram)
    mode_in, rounded = partial(_mode_in, site), _coarse(site, weight, layout)
    coarse, probes, trial = rounded, None, None
    if gram is not None and not gram.is_diagonal:
        how = method.still if site.is_masked else method
        probes = Probes(weight, layout, gram, parts, how, mode_in)
        whole = probes.whole
        if relative_error(weight, whole, gram, layout) > _EXACT:
            coarse = whole
    some = excerpt(weight, coarse, layout, used)
    open_to_it = forms_of(site, outliers=has_tails(some.weight))
    sizes = [(form, menu.nbytes(site, form)) for form in open_to_it]
    before = untouched(site, menu)
    wanted = max(1.0, share * before.nbytes)
    own = _exact(site, before, some, _MORE * wanted)
    forms = [(form, nbytes) for form, nbytes in sizes if nbytes is not None and nbytes < own.nbytes]

    def estimate(each: tuple[Form, int]) -> Offer:
        form, nbytes = each
        error, alone = estimated(some, used, mode_in(form), form.storage)
        return Offer(form, nbytes, alone if probes is None else error, alone)

    estimates = map_items(estimate, forms)
    front = _near([own, *estimates])
    if probes is not None:
        near = [form for n in front if not _keeps_codes(site, form := estimates[n - 1].form)]
        estimates, solved = probes.as_solved(estimates, near, some, wanted)
        trial = _trial(weight, layout, used, solved, some.picked)
    if trial is None:
        trial = Trial(relative_error(weight, rounded, used, layout))
    every = [own, *estimates]
    return Prices(_unbeaten([own, *(every[number] for number in front)]), trial, every=every)


def fixed_prices(step: Step, gram: Gram | None, method: Method) -> Prices:
    """Returns what a weight costs whose form the config says.

    Raises:
        NotApplicable: it cannot be solved for, or is not made smaller; the text says why.
        CalibrationError: the Gram is not positive semidefinite.
    """
    weight, layout, used = _read(step, gram)
    mode = mode_of(step, magnitude(weight))
    how = approach(step, mode, method)
    found = solve(weight, used, how.mode, method=how.method, storage=how.storage, layout=layout)
    if step.storage is not None and step.storage.exact:
        encoded = encode_lossless(step.site, found.weight, found.keep)
        nbytes = footprint(encoded.ops)
    else:
        nbytes = kept_nbytes(step.site, found.keep, step.storage)
    offer = Offer(Form(mode, step.storage), nbytes, found.error, found.error)
    some = excerpt(weight, None, layout, used)
    changed = some.like(found.weight, layout)
    return Prices([offer], _trial(weight, layout, used, changed, some.picked))


def tried(site: Site, trial: Trial) -> NDArray[np.generic]:
    """Returns a weight with a change.

    Raises:
        NotApplicable: it has no layout.
    """
    weight, layout = weight_of(site), layout_to_solve(site)
    if trial.solved is None:
        return _coarse(site, weight, layout)
    return _tried(weight, layout, trial.solved, trial.rows)


def _trial(
    weight: NDArray[np.generic],
    layout: Layout,
    gram: Gram,
    solved: NDArray[np.generic],
    rows: NDArray[np.intp] | None,
) -> Trial:
    """Returns the trial of a weight that was solved for, or some of whose rows were."""
    changed = _tried(weight, layout, solved, rows)
    return Trial(relative_error(weight, changed, gram, layout), solved, rows)


def _tried(
    weight: NDArray[np.generic],
    layout: Layout,
    solved: NDArray[np.generic],
    rows: NDArray[np.intp] | None,
) -> NDArray[np.generic]:
    """Returns a weight with the errors of some rows that were solved for, and like ones elsewhere.

    What a solve leaves of a row depends on the inputs and on how large the row is.
    """
    if rows is None:
        return solved
    every = layout.split(weight)[0].astype(np.float32)
    sizes = np.sqrt(np.square(every).sum(axis=(1, 2), keepdims=True))
    own = sizes[rows]
    errors = np.divide(solved - every[rows], own, where=own > 0, out=np.zeros_like(every[rows]))
    turns, lender = np.divmod(np.arange(len(every)), len(rows))
    signs = np.where(turns % 2, -1, 1)[:, None, None]
    changed = (every + signs * sizes * errors[lender]).astype(weight.dtype)
    changed[rows] = solved
    return layout.join(changed[None])


def _coarse(site: Site, weight: NDArray[np.generic], layout: Layout) -> NDArray[np.generic]:
    if site.has_codes:  # it may be as coarse already
        live = np.count_nonzero(weight) / max(1, weight.size)
        mode = Percentile(min(1.0, 1 - live * (1 - _QUARTER)))
        return np.where(mode.keep(np.abs(weight)), weight, weight.dtype.type(0))
    return nearest(weight, np.ones(weight.shape, bool), _COARSE, layout).weight


def _exact(site: Site, before: Offer, some: Excerpt, most: float) -> Offer:
    """Returns the offer of a weight as it is, in the fewest bytes that keep all of its values.

    Args:
        site: whose weight it is.
        before: to leave it as it is.
        some: rows of it, which tell whether it is worth a look.
        most: bytes that are worth it.
    """
    with suppress(NotApplicable):
        check_decoded(site)
        found = smallest_form(HeldRows(some.weight, some.layout), site.opset)
        if sum(found.sizes) * prod(site.shape) <= most * some.weight.size:
            nbytes = file_nbytes(smallest_form(rows_of_site(site), site.opset).sizes)
            if nbytes < before.nbytes:
                return before._replace(form=LOSSLESS, nbytes=nbytes)
    return before


def _read(step: Step, gram: Gram | None) -> tuple[NDArray[np.generic], Layout, Gram]:
    weight, layout = weight_of(step.site), layout_to_solve(step.site, step.mode)
    magnitude(weight)  # refuses NaN and inf
    if gram is not None:
        return weight, layout, gram
    ones = np.ones((layout.sizes[0], layout.columns), np.float32)
    return weight, layout, diagonal_gram(ones)


def _mode_in(site: Site, form: Form) -> Mode:
    """Returns what makes the mask of a weight in a form: what is zero in it stays so."""
    assert form.mode is not None  # as it is, nothing makes one
    return Further(form.mode) if site.is_masked else form.mode


def _keeps_codes(site: Site, form: Form) -> bool:
    """Returns whether a form is a weight's own with zeros: of some rows alone it has no grid."""
    return form.storage is None and site.has_codes


def _near(offers: Sequence[Offer]) -> list[int]:
    """Returns the numbers of the offers that are near the lower hull of error over bytes."""
    saved = np.array([offers[0].nbytes - each.nbytes for each in offers], float)
    errors = np.array([each.error for each in offers])
    hull = lower_hull(saved, errors)
    limits = np.interp(saved, saved[hull], errors[hull])
    near = (errors <= _NEAR * limits) & (saved <= saved[hull[-1]])
    return [number for number in np.flatnonzero(near).tolist() if number]


def _unbeaten(offers: Sequence[Offer]) -> list[Offer]:
    """Returns the offers that no other beats in bytes and risk."""
    found: list[Offer] = []
    for offer in sorted(offers, key=lambda each: (each.nbytes, each.risk)):
        if not found or offer.risk < found[-1].risk:
            found.append(offer)
    return found
