"""The plan of a run: a mode and a storage for each weight site, or why it is left as it is."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlpass.errors import ConfigError, NotApplicable
from mlpass.plan.config import Config, OpConfig
from mlpass.plan.lookup import look_up, unmatched
from mlpass.plan.untrained import reason_untrained
from mlpass.sparsity.modes import Mask, Mode, Percentile
from mlpass.sparsity.pieces import Scores
from mlpass.sparsity.select import (
    Cut,
    count_keys,
    keep_above,
    keys_of,
    keys_type,
    lowest_of_many,
)
from mlpass.storage.plain import rounding_of
from mlpass.storage.storage import NEEDS_IOS18, Storage
from mlpass.weights.apart import check_sums
from mlpass.weights.joint import JOINT_OPSET, OLD, has_joint_form, is_old
from mlpass.weights.ops.record import WEIGHT_OPS
from mlpass.weights.reading import scores_of
from mlpass.weights.sites import Site
from mlpass.weights.storing import check_storage

ADAPTER = "adapter, left as it is"  # the reason; a note says how to include those


@dataclass(frozen=True)
class Step:
    """What is to become of one site.

    Attributes:
        site: the site.
        mode: that prunes it; None where it is skipped.
        skipped: the reason; None where it is pruned.
        cut: where the mode ranks all weights together, what that means for this one.
        storage: to whose values what is kept is rounded; None where it stays as it is.
        spared: the mode of the config for every weight, where it would zero whole outputs of the
            model; None where it does not.
    """

    site: Site
    mode: Mode | None
    skipped: str | None
    cut: SiteCut | None = None
    storage: Storage | None = None
    spared: Mode | None = None

    @property
    def prunes(self) -> bool:
        """Whether its site gets what its mode and storage say."""
        return self.skipped is None and self.mode is not None


class SiteCut(NamedTuple):
    """A cut through the scores of one weight, and the float type whose keys it is stated in."""

    cut: Cut
    dtype: np.dtype[np.generic]


def plan(sites: Sequence[Site], config: Config, *, joint: bool = False) -> list[Step]:
    """Returns one step for each of `sites`, in their order.

    Args:
        sites: of a model.
        config: which mode each gets.
        joint: whether those whose values are quantized or palettized are pruned, too.

    Raises:
        ConfigError: an entry of the config matches nothing, or two contradict each other; or a
            weight is to get outliers whose op cannot add them.
    """
    if problem := unmatched(config, names_of(sites), set(WEIGHT_OPS)):
        raise ConfigError(problem)
    steps = [_step(site, config, joint) for site in sites]
    return [_with_outliers(step) if _has_outliers(step) else step for step in steps]


def names_of(sites: Sequence[Site]) -> set[str]:
    """Returns every name that a config may call one of the sites by."""
    return {name for site in sites for name in _names(site)}


def check_storages(steps: Sequence[Step]) -> None:
    """Raises ModelFormatError where a function is too old for the storage that its weights get."""
    for step in steps:
        if step.storage is not None and not step.storage.exact and step.skipped is None:
            check_storage([step.site], step.storage)
            if step.mode is not None and step.mode.target != 0:
                check_storage([step.site], step.storage, zeros=True)


def keep_by_cut(score: NDArray[np.generic], cut: SiteCut) -> Mask:
    """Returns the keep mask that a cut through all weights gives one of them."""
    keys = keys_of(score.astype(cut.dtype, copy=False)).reshape(-1)
    return keep_above(keys, cut.cut)[0].reshape(score.shape)


def check_zeroes(step: Step, weight: NDArray[np.generic], keep: Mask) -> None:
    """Raises NotApplicable where a mask zeroes nothing, or nothing that a mask has not before."""
    if keep.all():
        raise NotApplicable(f"{step.mode} zeroes nothing in it")
    if step.site.is_masked and not weight[~keep].any():
        raise NotApplicable(f"{step.mode} zeroes nothing more in it")


def rank_globally(steps: Sequence[Step]) -> list[Step]:
    """Returns the steps with a cut for each that is ranked together with others.

    Weights are read part by part, two or three times over.
    """
    result = list(steps)
    modes = {step.mode: None for step in steps if step.mode is not None and _is_global(step)}
    for mode in modes:
        members: dict[int, Scores] = {}
        for index, step in enumerate(result):
            if step.mode == mode and step.skipped is None:
                try:
                    members[index] = scores_of(step.site)
                    members[index].check()
                except NotApplicable as reason:
                    del members[index]
                    result[index] = replace(step, skipped=str(reason))
        for index, cut in zip(members, _cuts([*members.values()], mode), strict=True):
            result[index] = replace(result[index], cut=cut)
    return result


def _cuts(weights: Sequence[Scores], mode: Mode) -> Iterator[SiteCut]:
    """Yields the cut of each weight, the ties going to the first."""
    dtypes = {scores.dtype for scores in weights}
    dtype = np.dtype(np.float16 if dtypes == {np.dtype(np.float16)} else np.float32)
    sources = [source for scores in weights for source in scores.sources(dtype)]
    size = sum(scores.size for scores in weights)
    key, ties = lowest_of_many(sources, math.floor((mode.target or 0.0) * size), keys_type(dtype))
    for scores in weights:
        here = min(ties, count_keys(scores.sources(dtype), key)) if ties else 0
        ties -= here
        yield SiteCut(Cut(key, here), dtype)


def _has_outliers(step: Step) -> bool:
    return step.skipped is None and step.storage is not None and step.storage.apart > 0


def _with_outliers(step: Step) -> Step:
    """Returns a step whose weight is to have outliers, skipped where its op has two weights."""
    check_sums(step.site)
    if step.site.adds_up:
        return step
    return replace(step, skipped="an op multiplies it with another weight: it can have no outliers")


def _is_global(step: Step) -> bool:
    return step.mode is not None and step.mode.ranks_together and not step.skipped


def _step(site: Site, config: Config, joint: bool) -> Step:
    op_types = tuple(dict.fromkeys(use.op.type for use in site.uses))
    found = look_up(config, _names(site), op_types)
    if refusal := _refusal(site, found.op_config, joint):
        return Step(site, None, refusal)
    if found.op_config is None:
        return Step(site, None, f"{found.why} is None")
    if site.is_adapter and not config.adapters and not found.is_by_name:
        return Step(site, None, ADAPTER)
    mode, storage = found.op_config.mode, rounding_of(found.op_config.storage)
    if mode is None and storage is None:
        return Step(site, None, f"{found.why} names no mode, and no storage other than it has")
    skipped = _unfit(site, found.op_config.weight_threshold or 0) or _too_old(site, storage)
    step = Step(site, mode or Percentile(0.0), skipped, storage=storage)
    return _spared(step) if found.is_general else step


def _spared(step: Step) -> Step:
    """Returns a step that zeroes no whole outputs of the model: what is stored still is."""
    mode = step.mode
    whole = mode is not None and mode.whole_outputs and mode.target
    if step.skipped or not whole or not step.site.is_last:
        return step
    if step.storage is not None:
        return replace(step, mode=Percentile(0.0), spared=mode)
    reason = f"no weight comes after it: {mode} would zero whole outputs of the model"
    return replace(step, mode=None, skipped=reason, spared=mode)


def _refusal(site: Site, op_config: OpConfig | None, joint: bool) -> str | None:
    """Returns why a site must be left as it is, None where what it gets may be done to it.

    What is sparse may become so further, or get a storage. What is quantized or palettized has been
    rounded before: only `joint` has it done again, or zeros put among its codes. A storage that
    keeps values as they are is for all that is compressed.
    """
    storage = None if op_config is None else rounding_of(op_config.storage)
    exact = storage is not None and storage.exact and op_config.mode is None  # type: ignore[union-attr]
    again = joint and site.is_compressed and (storage is not None or has_joint_form(site))
    if joint and op_config is not None and site.is_compressed and not (again or site.is_sparse):
        return site.other_use or (OLD if is_old(site) else site.refusal)
    return site.other_use if site.is_sparse or exact or again else site.refusal


def _too_old(site: Site, storage: Storage | None) -> str | None:
    """Returns why the zeros of a site cannot stay beside a storage's codes, None where they can."""
    if not site.is_masked or storage is None or storage.exact or site.opset >= JOINT_OPSET:
        return None
    return f"its zeros take a mask beside the codes of {storage}, which {NEEDS_IOS18}"


def _unfit(site: Site, weight_threshold: int) -> str | None:
    """Returns why no mode may prune a site, None where one may."""
    size, rank = math.prod(site.shape), len(site.shape)
    if size <= weight_threshold:
        return f"its {size} elements are no more than weight_threshold {weight_threshold}"
    if not 2 <= rank <= 5:
        return f"its rank is {rank}; weights of rank 2 to 5 can be pruned"
    return reason_untrained(site)


def _names(site: Site) -> tuple[str, ...]:
    """Returns every name that a config may call a site by: its own, and its readers'."""
    readers = [
        name
        for use in site.uses
        for name in (use.op.name, *(value.name for value in use.op.outputs[:1]))
    ]
    makers = [maker.name for maker in site.makers]
    return tuple(
        dict.fromkeys(name for name in (site.name, *site.names, *makers, *readers) if name)
    )
