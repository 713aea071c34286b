"""How far outputs are from those of the dense model, by what kind of output each is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mlpass.errors import CalibrationError, ConfigError, close_matches
from mlpass.finetune.entry import Entry, Stage
from mlpass.finetune.feeding import Outputs
from mlpass.finetune.module import ProgramModule
from mlpass.program.ir import Op, TensorType, Value

_SAME = frozenset({"cast", "identity"})  # what they give is of the kind of what they are given
_SMALL = 1e-3  # of the mean power of a token: the least that a token's own counts
_TINY = 1e-30
_FAR = -1e9  # stands for a logit of minus infinity


class Kind(NamedTuple):
    """What an output is.

    Attributes:
        name: "logits", "probabilities" or "values".
        axis: counted from the last one: that a softmax goes along, or that makes a token.
    """

    name: str
    axis: int = -1


Kinds = Mapping[str | None, Mapping[str, Kind]]  # by function, as samples call it, and output


def kinds_of(
    module: ProgramModule, logits: str | None = None, functions: Sequence[str | None] = (None,)
) -> Kinds:
    """Returns the kind of each output of a module's functions.

    Logits are what a softmax reads, or the logarithm of what it gives; probabilities are what it
    gives, those of a classifier among them.

    Args:
        module: the module.
        logits: names of outputs that are logits whatever the program says, with commas between.
        functions: as samples call them.

    Raises:
        ConfigError: there is no such output.
    """
    found = {function: _kinds(module.entry(function)) for function in functions}
    names = list(dict.fromkeys(name for own in found.values() for name in own))
    told = [] if logits is None else [name.strip() for name in logits.split(",")]
    for name in told:
        if name not in names:
            others = close_matches(name, names) or f"; there are {', '.join(names)}"
            raise ConfigError(f"logits: there is no output {name!r}{others}")
        for own in found.values():
            own.update({name: Kind("logits")} if name in own else {})
    return found


def output_loss(kinds: Mapping[str, Kind], outputs: Outputs, wanted: Outputs, count: int) -> Tensor:
    """Returns the mean over float outputs of how far each is from what is wanted.

    Of logits and probabilities it is the Kullback-Leibler divergence in nats, the mean over tokens;
    of others the mean over tokens of ||output - wanted||^2 / ||wanted||^2, a token being what lies
    along the last axis. A token counts by its own size, since a few may be a thousand times as
    large as the others, and would be all that is learned. Places that are masked do not count: see
    `masked_places`.

    An output without elements, as of a sample that has no rows, is as it should be: 0.

    Args:
        kinds: of the outputs.
        outputs: of a batch.
        wanted: likewise, the dense model's.
        count: of samples in the batch.

    Raises:
        CalibrationError: there is no float output to compare, or one is of another shape.
    """
    parts = []
    for name, kind in kinds.items():
        if name in outputs and name in wanted and wanted[name].is_floating_point():
            check_shapes(name, outputs, wanted)
            made, target = (_by_sample(each[name], count) for each in (outputs, wanted))
            loss = _LOSSES[kind.name](made, target, kind.axis) if target.numel() else made.sum()
            parts.append(loss)
    if not parts:
        raise CalibrationError(
            f"outputs: not one of {', '.join(wanted)} is a float output of both models"
        )
    return torch.stack(parts).mean()


def check_shapes(name: str, made: Outputs, wanted: Outputs) -> None:
    """Raises CalibrationError where an output is of another shape than is wanted."""
    one, other = (tuple(each[name].shape) for each in (made, wanted))
    if one != other:
        raise CalibrationError(
            f"outputs: {name!r} has shape {other} in the dense model, {one} in the other: where "
            "that depends on its values there is nothing to train towards"
        )


def _by_sample(output: Tensor, count: int) -> Tensor:
    """Returns an output of a batch as (samples, rows, ...)."""
    rows = len(output) // count if output.ndim else 1
    return output.reshape(count, rows, *output.shape[1:])


def masked_places(made: Tensor, target: Tensor) -> Tensor:
    """Returns where outputs do not count: infinity is wanted, or minus infinity made, as by a mask.

    Where that is all that is made, it is not a mask, and counts.
    """
    infinite = target.isinf()
    masked = infinite | made.isneginf()
    return infinite if masked.all() else masked


def _between_logits(made: Tensor, target: Tensor, axis: int) -> Tensor:
    masked = masked_places(made, target)
    if masked.any():
        made, target = (each.masked_fill(masked, _FAR) for each in (made, target))
    wanted, given = target.log_softmax(axis), made.log_softmax(axis)
    return (wanted.exp() * (wanted - given)).sum(axis).mean()


def _between_probabilities(made: Tensor, target: Tensor, axis: int) -> Tensor:
    logs = target.clamp_min(_TINY).log() - made.clamp_min(_TINY).log()
    return (target * logs).sum(axis).mean()


def _between_values(made: Tensor, target: Tensor, axis: int) -> Tensor:
    error, masked = made - target, masked_places(made, target)
    if masked.any():
        target, error = (each.masked_fill(masked, 0) for each in (target, error))
    power, error = (each.square().sum(axis) for each in (target, error))
    return (error / (power + _SMALL * power.mean()).clamp_min(_TINY)).mean()


_LOSSES = {
    "logits": _between_logits,
    "probabilities": _between_probabilities,
    "values": _between_values,
}


def _kinds(entry: Entry) -> dict[str, Kind]:
    found: dict[str, Kind] = {}
    for stage in entry.stages:
        for name, result in stage.results.items():
            found[name] = _kind(stage, result) if isinstance(result, Value) else Kind("values")
    return {each.name: found[each.name] for each in entry.outputs if each.name in found}


def _kind(stage: Stage, result: Value) -> Kind:
    ops = [step.op for step in stage.plan.block.steps]
    makers = {value: op for op in ops for value in op.outputs}
    logarithm = False
    value: Value | None = result
    while value is not None and (op := makers.get(value)) is not None:
        if op.type == "softmax":
            return Kind("logits" if logarithm else "probabilities", _axis(stage, op))
        if op.type not in _SAME and (logarithm or op.type != "log"):
            break
        logarithm = logarithm or op.type == "log"
        value = next((each for each in op.inputs["x"] if isinstance(each, Value)), None)
    for op in _readers(ops, makers, result):
        if op.type == "softmax":
            return Kind("logits", _axis(stage, op))
    return Kind("values")


def _readers(ops: list[Op], makers: Mapping[Value, Op], result: Value) -> Iterator[Op]:
    """Yields the ops that read a value, or what is the same by another type."""
    root = result
    while (op := makers.get(root)) is not None and op.type in _SAME:
        (before,) = op.inputs["x"]
        if not isinstance(before, Value):
            break
        root = before
    same = {root}
    for op in ops:
        if not same.isdisjoint(op.inputs.get("x", ())):
            yield op
            same |= set(op.outputs) if op.type in _SAME else set()


def _axis(stage: Stage, op: Op) -> int:
    """Returns the axis of a softmax, counted from the last one."""
    (value,) = op.inputs["x"]
    rank = len(value.type.shape) if isinstance(value.type, TensorType) else 0
    axis = int(stage.part.constants[op.inputs["axis"][0]]) if "axis" in op.inputs else -1
    return axis - rank if axis >= 0 else axis
