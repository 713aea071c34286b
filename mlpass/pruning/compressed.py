"""Compressed weights that a run left as they are, though more was asked for: told, with the way."""

from __future__ import annotations

from collections.abc import Sequence

from mlpass.plan.config import OpConfig
from mlpass.storage.plain import rounding_of
from mlpass.weights.ensures import Told
from mlpass.weights.joint import JOINT_OPSET, can_be_joint
from mlpass.weights.ways import joint_option


def joint_way(told: Sequence[Told], every: OpConfig | None) -> tuple[str, ...]:
    """Returns what does more to weights that were left alone as they are compressed; or nothing.

    Args:
        told: all weights of a model, and what became of them.
        every: what the config asks for all of them; None where it asks for some alone, whose
            neighbours nobody asked about.
    """
    anew = every is not None and rounding_of(every.storage) is not None
    found = [
        site
        for site, layer in told
        if layer.skipped and layer.skipped == site.refusal
        if (site.is_compressed and site.apart is None if anew else can_be_joint(site))
    ]
    none = all(layer.skipped for _, layer in told)
    if not found or not _is_asked(told, every):
        return ()
    head = "nothing was pruned: " if none else ""
    left = f"{head}{len(found)} of {len(told)} weights are compressed already"
    old = any(opset < JOINT_OPSET for site in found for opset in site.opsets)
    does = "rounds those anew, not as well as from the model that they were made from"
    way = joint_option(raised=old and not anew)
    return (f"{left}; {way} {does if anew else 'prunes those'}",)


def apart_left(told: Sequence[Told], every: OpConfig | None) -> tuple[str, ...]:
    """Returns a note on weights whose outliers are kept apart, which nothing prunes; or none.

    Args:
        told: all weights of a model, and what became of them.
        every: as for `joint_way`.
    """
    found = [site for site, layer in told if layer.skipped and site.apart is not None]
    if not found or not _is_asked(told, every):
        return ()
    text = (
        f"{len(found)} of {len(told)} weights have outliers that are kept apart, and are left as "
        "they are: prune the model that they were made from"
    )
    return (text,)


def _is_asked(told: Sequence[Told], every: OpConfig | None) -> bool:
    """Returns whether something was asked for all weights; or none got what was asked for some."""
    return every is not None or all(layer.skipped for _, layer in told)
