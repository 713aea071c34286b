"""What a run tells beside its table: what was asked for and did not happen, or does not pay."""

from __future__ import annotations

from collections.abc import Sequence

from mlpass.calibrate.cheaper import int8_way
from mlpass.plan.config import Config, op_config_of
from mlpass.plan.steps import Step
from mlpass.program.mlpackage import Package
from mlpass.pruning.compressed import joint_way
from mlpass.pruning.last import zeroed_outputs
from mlpass.weights.ensures import Told


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
    zeroed = {site for site, layer in told if layer.zeros and not layer.skipped}
    notes = int8_way([layer for _, layer in told], package.name)
    notes += zeroed_outputs(package.programs, steps, zeroed)
    if config is not None:
        notes += joint_way(told, None if divided else op_config_of(config.global_config))
    return notes
