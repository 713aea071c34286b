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
    if not found or (every is None and not none):
        return ()
    head = "nothing was pruned: " if none else ""
    left = f"{head}{len(found)} of {len(told)} weights are compressed already"
    old = any(opset < JOINT_OPSET for site in found for opset in site.opsets)
    does = "rounds those anew, not as well as from the model that they were made from"
    way = joint_option(raised=old and not anew)
    return (f"{left}; {way} {does if anew else 'prunes those'}",)
