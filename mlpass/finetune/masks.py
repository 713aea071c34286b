"""Keep masks while the sparsity rises: each mode at a part of its target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mlpass.errors import ExecutionError, NotApplicable
from mlpass.program.dtypes import BY_NAME
from mlpass.sparsity.layout import Layout
from mlpass.sparsity.modes import Mask, Mode, Percentile
from mlpass.storage.storage import Storage
from mlpass.weights.nearest import encode_nearest
from mlpass.weights.reading import layout_for, magnitude
from mlpass.weights.sites import Site


@dataclass(frozen=True, eq=False)
class PrunedParameter:
    """A weight that is pruned.

    Attributes:
        name: of the parameter.
        mode: that prunes it.
        layout: of the weight; None where it has none and the mode needs none.
        storage: to whose values it is rounded as it is written; None where it stays as it is.
    """

    name: str
    mode: Mode
    layout: Layout | None
    storage: Storage | None = None

    @property
    def target(self) -> float:
        """The sparsity that its mode leads to."""
        assert self.mode.target is not None  # `pruned_parameter` refuses such a mode
        return self.mode.target

    @property
    def ranked_globally(self) -> bool:
        """Whether it is ranked together with the other weights of its mode."""
        return self.mode.ranks_together


def at_sparsity(mode: Mode, sparsity: float, nested: bool = False) -> Mode:
    """Returns a mode at some sparsity on the way to its target.

    n:m goes by whole zeros in every m. Before the first of them it prunes without structure, as
    coremltools does; or not at all, where it is to be `nested`: each mask within the one before.
    """
    reached = mode.at(sparsity)
    none_yet = reached.target == 0 < sparsity
    return Percentile(sparsity) if none_yet and not nested else reached


def pruned_parameter(
    name: str, site: Site, mode: Mode, storage: Storage | None = None
) -> PrunedParameter:
    """Returns what prunes a site.

    Args:
        name: of its parameter.
        site: the site, opened.
        mode: that prunes it.
        storage: in which it is to be written.

    Raises:
        ConfigError: the mode names no sparsity.
        NotApplicable: the mode or the storage does not fit the weight; the text says why.
    """
    mode.at(0.0)  # refuses a mode without a sparsity
    layout = layout_for(site, mode)
    mode.keep(np.zeros(site.shape, np.float32), layout)  # says here what it has to say
    if storage is not None:
        nothing = np.zeros(site.shape, str(BY_NAME[site.dtype].numpy))
        encode_nearest(site, nothing, nothing == 0, mode, storage)  # likewise
    return PrunedParameter(name, mode, layout, storage)


def keep_masks(
    weights: Sequence[PrunedParameter],
    masters: Mapping[str, NDArray[np.generic]],
    sparsities: Mapping[str, float],
    *,
    nested: bool,
) -> dict[str, Mask]:
    """Returns the keep mask of each weight by its magnitude.

    Args:
        weights: to prune; those that are ranked together must be given together.
        masters: by name; what must not stay is zero there.
        sparsities: of each, by name.
        nested: see `at_sparsity`.

    Raises:
        ExecutionError: a weight holds NaN or inf.
    """
    masks: dict[str, Mask] = {}
    together: dict[Mode, list[PrunedParameter]] = {}
    for weight in weights:
        mode = at_sparsity(weight.mode, sparsities[weight.name], nested)
        if weight.ranked_globally:
            together.setdefault(mode, []).append(weight)
        else:
            masks[weight.name] = mode.keep(_score(weight.name, masters), weight.layout)
    for mode, members in together.items():
        scores = [_score(weight.name, masters) for weight in members]
        keep = mode.keep(np.concatenate([score.reshape(-1) for score in scores]))
        parts = np.split(keep, np.cumsum([score.size for score in scores])[:-1])
        for weight, score, part in zip(members, scores, parts, strict=True):
            masks[weight.name] = part.reshape(score.shape)
    return masks


def _score(name: str, masters: Mapping[str, NDArray[np.generic]]) -> NDArray[np.floating]:
    try:
        return magnitude(masters[name])
    except NotApplicable as reason:
        raise ExecutionError(f"{name!r}: {reason}: train with a lower rate") from None
