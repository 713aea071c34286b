"""What a run tells beside its table: what was asked for and did not happen, or does not pay."""

from __future__ import annotations

from collections.abc import Sequence

from mlpass.calibrate.cheaper import int8_way
from mlpass.plan.config import Config, op_config_of
from mlpass.plan.steps import Step
from mlpass.program.mlpackage import Package
from mlpass.pruning.compressed import joint_way
from mlpass.report.records import LayerRecord
from mlpass.weights.ensures import Told
from mlpass.weights.ways import quantize_way


def notes_of(
    package: Package,
    steps: Sequence[Step],
    told: Sequence[Told],
    config: Config | None,
    divided: bool,
) -> tuple[str, ...]:
    """Returns the notes of a report.

    Args:
        package: that was read.
        steps: what was to become of each weight.
        told: what did.
        config: that left compressed weights alone; None where it was for them.
        divided: whether a budget was, which asks nothing for all weights.
    """
    layers = [layer for _, layer in told]
    names = [each.name for each in package.chunks]
    notes = int8_way(layers, names) + whole_outputs(steps, layers)
    left = [layer for site, layer in told if site.is_sparse and layer.encoding == "sparse"]
    opset = min((site.opset for site, _ in told), default=0)
    notes += quantize_way(layers, left, names, opset)
    if config is not None:
        notes += joint_way(told, None if divided else op_config_of(config.global_config))
    return notes


def whole_outputs(steps: Sequence[Step], layers: Sequence[LayerRecord]) -> tuple[str, ...]:
    """Returns notes on weights whose outputs are the model's, and on a mode that zeroes whole ones.

    Args:
        steps: what was to become of each weight.
        layers: a record for each.
    """
    spared = [step for step in steps if step.spared is not None]
    gone = [
        step.site.name
        for step, layer in zip(steps, layers, strict=True)
        if step.mode and step.mode.whole_outputs and step.site.is_last
        if layer.zeros and not layer.skipped
    ]
    notes = []
    if spared:
        names = ", ".join(step.site.name for step in spared)
        first = spared[0]
        notes.append(
            f"{names}: got no zeros, as no weight comes after and {first.spared} would zero whole "
            "outputs of the model; to have it so, name such in a config: "
            f'op_name_configs={{"{first.site.name}": {first.spared}}}'
        )
    if gone:
        notes.append(
            f"whole outputs of the model are zero now: no weight comes after {', '.join(gone)}"
        )
    return tuple(notes)
