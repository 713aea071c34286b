"""A budget of bytes for all weights, divided: the form that each of them gets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import TYPE_CHECKING, NamedTuple

from tqdm import tqdm

from mlpass.calibrate.calibration import Calibration
from mlpass.calibrate.constants import exact_constants
from mlpass.calibrate.influence import influences
from mlpass.calibrate.menus import Menu, Offer, opens_more
from mlpass.calibrate.prices import Prices, fixed_prices, least_risk, prices_of, untouched
from mlpass.calibrate.sums import Observed
from mlpass.calibrate.uniform import best_uniform, spent
from mlpass.calibrate.walk import observe_dense
from mlpass.errors import ConfigError, NotApplicable
from mlpass.plan.config import Config
from mlpass.plan.sizes import parse_size
from mlpass.plan.steps import ADAPTER, Step
from mlpass.program.ir import Program
from mlpass.report.records import BudgetRecord, LayerRecord
from mlpass.solvers.problem import Method
from mlpass.solvers.sparsegpt import SparseGPT
from mlpass.sparsity.modes import Percentile
from mlpass.weights.footprint import rest_of_files
from mlpass.weights.joint import can_be_joint
from mlpass.weights.sites import Site
from mlpass.weights.ways import joint_option

if TYPE_CHECKING:
    from mlpass.program.mlmodel import ModelLike

_FREE = Percentile(0.0)  # itself, not what equals it: the mode of weights that get their share
_MORE = (
    'minimum_deployment_target="iOS18" (--minimum-deployment-target iOS18) opens more forms: '
    "groups of rows with a table each, 3 and 4 bits, zeros beside them"
)
# Times the least risk: with less than that the same form for all is taken at once. Of many
# divisions the one that seems best has had more of chance on its side.
_ALIKE = 1.05
_ADAPTERS = "; --adapters (adapters=True in the Config) gives adapters their share, too"


@dataclass(frozen=True)
class Budget:
    """What the weights of a model may take together, as a user says it.

    Attributes:
        size: bytes of its weight files, a text such as "3.5MB", or a share such as "0.25x"; or
        bits: of each element of its weights.
    """

    size: str | int | None = None
    bits: float | None = None

    def __post_init__(self) -> None:
        if self.size is not None and self.bits is not None:
            raise ConfigError("budget: give a size or bits, not both")
        number = isinstance(self.bits, int | float) and not isinstance(self.bits, bool)
        if self.bits is not None and not (number and 0 < self.bits <= 32):
            raise ConfigError(f"bits: must be a number above 0, up to 32. Got {self.bits!r}.")
        if self.size is not None:
            parse_size("budget", self.size, 1)

    def __str__(self) -> str:
        """How messages show it."""
        return f"{self.bits:g} bits" if self.size is None else str(self.size)

    def nbytes(self, before: int, elements: int) -> int:
        """Returns it in bytes, of weight files that take `before` and hold so many elements."""
        if self.size is None:
            return int((self.bits or 0.0) * elements / 8)
        return parse_size("budget", self.size, before)


@dataclass(frozen=True)
class Division:
    """A budget that is divided.

    Attributes:
        steps: of a plan, each weight with the form that it gets.
        influences: what a unit of each weight's error adds to that of the model's outputs.
        record: for the report, before it is known what came of it.
        constants: that are not weights, each to be stored exactly in fewer bytes.
        name: what it is, in a few words.
        rival: the best that one form for all weights comes to, to be judged beside it; None where
            none fits, where it is it, or there are no samples.
    """

    steps: list[Step]
    influences: Mapping[Site, float]
    record: BudgetRecord
    constants: list[Step] = field(default_factory=list)
    name: str = ""
    rival: Division | None = None

    def reported(self, layers: Sequence[LayerRecord], nbytes: int) -> BudgetRecord:
        """Returns the record with what came of it.

        Args:
            layers: a record for each of the steps, then the constants.
            nbytes: of the weight files that were written.
        """
        own = zip(self.steps, layers, strict=False)  # the constants' records come last
        errors = [
            self.influences[step.site] * (layer.error or 0.0)
            for step, layer in own
            if step.site in self.influences
        ]
        known = any(layer.error is not None for layer in layers)
        return replace(self.record, used=nbytes, measured=sum(errors) if known else None)


def open_config(config: Config | None, storage: object) -> Config:
    """Returns a config that leaves the form of every weight that it does not name to the budget.

    Raises:
        ConfigError: it leaves none.
    """
    if storage is not None:
        raise ConfigError(
            f"storage: with a budget each weight gets its own; drop one of both. Got {storage!r}."
        )
    config = Config() if config is None else config
    if config.global_config is not None:
        raise ConfigError(
            f"budget: the config gives every weight {config.global_config}, so nothing is left to "
            "divide; drop one of both, or name the weights that it is for in op_name_configs"
        )
    return replace(config, global_config=_FREE)


def divide_budget(
    model: ModelLike,
    programs: Sequence[Program],
    steps: Sequence[Step],
    calibration: Calibration | None,
    budget: Budget,
    before: int,
) -> Division:
    """Returns a plan in which the weights take no more than a budget, at the least summed risk.

    Args:
        model: to run: an open package, or a program's graph.
        programs: of the model.
        steps: of a plan from `open_config`.
        calibration: how weights are solved for on samples; None where they are not.
        budget: of all weight files.
        before: what those take now.

    Raises:
        ConfigError: the budget is more than they take, or less than they can; or no file has any.
        MlpassError: as `prune_calibrated`.
    """
    if not before:
        raise ConfigError(
            "budget: is for weight files, and this model has none: all that it holds is stated in "
            "its program"
        )
    allowed = budget.nbytes(before, sum(prod(step.site.shape) for step in steps))
    if allowed >= before:
        raise ConfigError(
            f"budget: {budget} is {allowed} bytes, and the weights take {before} as they are: "
            "there is nothing to do"
        )
    members = [step for step in steps if step.prunes]
    exact = exact_constants(programs)
    makers = [step.site.parts or step.site.makers for step in members]
    makers += [each.step.site.makers for each in exact]
    rest = rest_of_files(programs, {op for ops in makers for op in ops})
    rest += sum(each.nbytes for each in exact)
    menu = Menu()
    old = any(opens_more(step.site) for step in members)
    said = _Said(budget, allowed, before, _MORE if old else None, _left(steps))
    free = [step.site for step in members if step.mode is _FREE]
    _check_least(rest + sum(map(menu.least, free)), said)  # before anything runs
    own = sum(untouched(site, menu).nbytes for site in free)
    share = max(0.0, allowed - rest) / max(1, own)
    prices, unheard = _prices(model, steps, members, calibration, menu, share)
    factors = dict.fromkeys(prices, 1.0)
    if calibration is not None:
        factors = influences(model, prices, calibration)
    menus = {step.site: prices[step.site].offers for step in members}
    least = sum(min(each.nbytes for each in menu) for menu in menus.values())
    _check_least(rest + least, said._replace(left=_still(said.left, unheard)))
    elements = sum(prod(step.site.shape) for step in steps)

    def division(
        picked: Mapping[Site, Offer], name: str, rival: Division | None = None
    ) -> Division:
        planned = rest + sum(offer.nbytes for offer in picked.values())
        predicted = sum(factors[site] * offer.error for site, offer in picked.items())
        record = BudgetRecord(allowed, planned, elements, predicted, note=said.note)
        chosen = [_picked(step, picked) for step in steps]
        return Division(chosen, factors, record, [each.step for each in exact], name, rival)

    def risk(picked: Mapping[Site, Offer]) -> float:
        return sum(factors[site] * offer.risk for site, offer in picked.items())

    rival = None
    picked = least_risk(menus, factors, allowed - rest)
    same = None if calibration is None else best_uniform(prices, factors, allowed - rest)
    if same is not None:
        more = spent(same, prices, factors, allowed - rest)
        name = f"all weights in {same.form}"
        rival = division(more, name if more == same.offers else f"{name}, some in more bytes")
        if more != picked and risk(more) <= _ALIKE * risk(picked):
            return rival
    return division(picked, "a form for each weight", rival)


def _prices(
    model: ModelLike,
    steps: Sequence[Step],
    members: Sequence[Step],
    calibration: Calibration | None,
    menu: Menu,
    share: float,
) -> tuple[dict[Site, Prices], int]:
    """Returns the prices of all weights of a plan, on what samples show of their inputs.

    Returned is also how many weights stay as they are, as no sample reaches them.
    """
    if calibration is None:
        alone = ((step, None) for step in members)
        return _priced(alone, len(members), SparseGPT(), menu, share), 0
    method, samples = calibration.method, len(calibration.sample_data)
    with observe_dense(model, steps, calibration) as sites:
        prices = _priced(sites, len(members), method, menu, share, samples)
    beyond = [step for step in members if step.site not in prices]
    if calibration.fallback == "magnitude":
        prices |= _priced(((step, None) for step in beyond), len(beyond), method, menu, share)
        return prices, 0
    prices |= {step.site: Prices([untouched(step.site, menu)]) for step in beyond}
    return prices, len(beyond)


class _Said(NamedTuple):
    """A budget, in bytes, of weights that take `before`; and what would make more of it.

    Attributes:
        budget: as a user says it.
        nbytes: that it is.
        before: what the weights take.
        note: what opens more forms; None where nothing does.
        left: how many stay as they are, and why; None where none do.
    """

    budget: Budget
    nbytes: int
    before: int
    note: str | None
    left: str | None


def _check_least(least: int, said: _Said) -> None:
    """Raises ConfigError where weights that take so much at the least do not fit."""
    if least > said.nbytes:
        note = "".join(f"; {each}" for each in (said.left, said.note) if each is not None)
        least = min(least, said.before)  # the last in a file has no padding
        raise ConfigError(
            f"budget: {said.budget} is {said.nbytes} bytes, and the weights cannot take less than "
            f"{least} ({least / said.before:.3f}x){note}"
        )


def _still(left: str | None, unheard: int) -> str | None:
    """Returns what is told of weights that stay as they are, with those that no sample reaches."""
    if not unheard:
        return left
    text = (
        f"no sample reaches {unheard} of them, which stay as they are: give samples that do, or "
        'fallback="magnitude" (--fallback magnitude)'
    )
    return text if left is None else f"{left}; {text}"


def _left(steps: Sequence[Step]) -> str | None:
    """Returns how many weights stay as they are, why the largest does, and the way out."""
    left = [step for step in steps if not step.prunes]
    if not left:
        return None
    largest = max(left, key=lambda step: prod(step.site.shape))
    text = f"{len(left)} of {len(steps)} stay as they are ({largest.site.name}: {largest.skipped})"
    if any(step.skipped == ADAPTER for step in left):
        text += _ADAPTERS
    joint = [step.site for step in left if can_be_joint(step.site)]
    if not joint:
        return text
    way = joint_option(raised=any(opens_more(site) for site in joint))
    return f"{text}; {way} gives those their share that are compressed already"


def _priced(
    sites: Iterable[tuple[Step, Observed | None]],
    count: int,
    method: Method,
    menu: Menu,
    share: float,
    samples: int = 1,
) -> dict[Site, Prices]:
    """Returns the prices of weights, one after another as samples show their inputs."""
    found: dict[Site, Prices] = {}
    for step, observed in tqdm(sites, total=count, desc="weighing", unit="weight", disable=None):
        if observed is not None and observed.gram is None:
            continue
        gram = None if observed is None else observed.gram
        parts = None if observed is None else observed.parts
        tokens = 0 if observed is None else observed.tokens
        try:
            prices = (
                prices_of(step, gram, method, menu, parts, share=share)
                if step.mode is _FREE
                else fixed_prices(step, gram, method)
            )
        except NotApplicable:  # the run itself will say why
            prices = Prices([untouched(step.site, menu)])
        work = prod(step.site.shape) * tokens / max(1, samples)
        found[step.site] = prices._replace(work=work)
    return found


def _picked(step: Step, picked: Mapping[Site, Offer]) -> Step:
    if step.mode is not _FREE or step.site not in picked:
        return step
    form = picked[step.site].form
    if form.mode is None:
        return replace(step, mode=None, skipped="the budget leaves it as it is")
    return replace(step, mode=form.mode, storage=form.storage)
