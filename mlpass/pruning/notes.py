"""What a run tells beside its table: what was asked for and did not happen, or does not pay."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from mlpass.calibrate.calibration import Calibration
from mlpass.calibrate.cheaper import int8_way
from mlpass.plan.config import OpConfig
from mlpass.plan.steps import ADAPTER, Step
from mlpass.program.encode import FIRST_SPARSE_OPSET
from mlpass.program.mlpackage import Package
from mlpass.pruning.compressed import apart_left, joint_way
from mlpass.report.records import LayerRecord
from mlpass.runtime.sources import functions_of
from mlpass.weights.ensures import Told
from mlpass.weights.ways import quantize_way


def notes_of(
    package: Package,
    steps: Sequence[Step],
    told: Sequence[Told],
    every: OpConfig | None,
    *,
    joint: bool,
) -> tuple[str, ...]:
    """Returns the notes of a report.

    Args:
        package: that was read.
        steps: what was to become of each weight.
        told: what did.
        every: what was asked for all weights; None where it was for some alone, or a budget.
        joint: whether compressed weights took part.
    """
    layers = [layer for _, layer in told]
    names = [each.name for each in package.chunks]
    compressed = {site.name for site, _ in told if site.has_codes}
    notes = int8_way(layers, names, compressed) + whole_outputs(steps, layers)
    left = [layer for site, layer in told if site.is_sparse and layer.encoding == "sparse"]
    notes += adapters_left(layers)
    opset = min((site.opset for site, _ in told), default=0)
    notes += quantize_way(layers, left, names, opset)
    if any(site.opset < FIRST_SPARSE_OPSET and _is_compressed(layer) for site, layer in told):
        text = (
            f"raised to iOS{FIRST_SPARSE_OPSET} (macOS13): iOS{opset}, which it was for, has no "
            "compressed weights"
        )
        notes = (*notes, text)
    if not joint:
        notes += joint_way(told, every)
    return notes + apart_left(told, every)


def adapters_left(layers: Sequence[LayerRecord]) -> tuple[str, ...]:
    """Returns a note on adapters that were left as they are; or none."""
    adapters = sum(layer.skipped == ADAPTER for layer in layers)
    if not adapters:
        return ()
    text = (
        f"{adapters} weights are adapters, beside weights that functions share, and left as "
        "they are: adapters=True in the Config (--adapters) includes them, a name in "
        "op_name_configs one of them"
    )
    return (text,)


def _is_compressed(layer: LayerRecord) -> bool:
    return layer.skipped is None and layer.encoding != "dense"


def unheard(
    package: Package, layers: Sequence[LayerRecord], calibration: Calibration | None
) -> tuple[str, ...]:
    """Returns a note where weights were solved for on samples of some functions, and others' too.

    Args:
        package: that was read.
        layers: what became of its weights.
        calibration: that they were solved for with; None without samples.
    """
    if calibration is None:
        return ()
    heard = {name for name in calibration.functions if name is not None}
    if not heard:
        name = calibration.function_name or package.function_name
        some = (each for chunk in package.chunks for each in functions_of(chunk, name))
        heard = {function.name for _, function in some}
    others = [
        {place.rpartition("/")[2] for place in layer.functions} - heard
        for layer in layers
        if layer.samples
    ]
    silent = set().union(*others)
    if not silent:
        return ()
    text = (
        f"{sum(map(bool, others))} weights were solved for on samples of {_listed(heard)} alone, "
        f"and are read by {_listed(silent)} as well: sample_data={{function: samples}} "
        "(--sample-data FUNCTION=PATH, once for each) has all of them heard"
    )
    return (text,)


def _listed(names: Collection[str]) -> str:
    return ", ".join(sorted(names))


def whole_outputs(steps: Sequence[Step], layers: Sequence[LayerRecord]) -> tuple[str, ...]:
    """Returns notes on weights whose outputs are the model's, and on those that are all zero."""
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
