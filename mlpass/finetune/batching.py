"""Batches: a program for one sample runs on many.

A converted program has its batch size everywhere: in the shapes that it reshapes to, in slices, in
initial states. So it is not edited. What depends on the samples goes through it as `PerSample`, and
each op is mapped over that: by a rule where one is known, else by `torch.func.vmap`, else sample by
sample. A batch of B is B single runs by construction.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from mlpass.arrays import Namespace
from mlpass.runtime.control import CONTROL
from mlpass.runtime.function_plan import BlockPlan, OpPlan
from mlpass.runtime.kernels.arguments import integer

Kernel = Callable[..., Any]
Rule = Callable[[Kernel, Any, Mapping[str, Any]], Any]

# They hand on what they are given without looking into it.
_STRUCTURAL = frozenset(
    {"read_state", "write_state", "coreml_update_state", "make_list", "list_read", "list_write"}
)


@dataclass(frozen=True, eq=False, repr=False)
class PerSample:
    """A value that differs from sample to sample.

    Attributes:
        samples: (samples, ...).
    """

    samples: Tensor

    def __repr__(self) -> str:
        return f"{len(self.samples)} x {tuple(self.samples.shape[1:])}"

    def __bool__(self) -> bool:
        raise ValueError(
            "which way it goes depends on the sample, so it cannot run on a batch: train with "
            "batches of one"
        )


def mapped(block: BlockPlan) -> BlockPlan:
    """Returns a block whose ops take batches."""
    return replace(block, steps=tuple(map(_mapped_step, block.steps)))


def _mapped_step(step: OpPlan) -> OpPlan:
    function = step.function
    if step.op.type not in CONTROL and step.op.type not in _STRUCTURAL:
        function = _over_samples(function, _RULES.get(step.op.type))
    return replace(step, function=function, blocks=tuple(map(mapped, step.blocks)))


def _over_samples(function: Kernel, rule: Rule | None) -> Kernel:
    """Returns a kernel that maps another over the batches among its arguments."""
    one_by_one = False

    def run(xp: Namespace, **arguments: object) -> object:
        nonlocal one_by_one
        batches = [item.samples for item in _items(arguments) if isinstance(item, PerSample)]
        if not batches:
            return function(xp, **arguments)
        if rule is not None and (made := rule(function, xp, arguments)) is not None:
            return made

        def run_one(*samples: Tensor) -> object:
            return function(xp, **_filled(arguments, iter(samples)))

        if not one_by_one:
            try:
                made = torch.func.vmap(run_one)(*batches)
                return _each(PerSample, made)
            except (RuntimeError, TypeError, ValueError):
                # It reads a value, writes in place, or has no batching rule: or it is wrong, and
                # says so again.
                one_by_one = True
        return _stacked([run_one(*sample) for sample in zip(*batches, strict=True)])

    return run


def _items(arguments: Mapping[str, object]) -> Iterator[object]:
    for value in arguments.values():
        yield from value if isinstance(value, tuple) else (value,)


def _filled(arguments: Mapping[str, object], samples: Iterator[Tensor]) -> dict[str, object]:
    """Returns the arguments with the next of `samples` in the place of each batch."""

    def fill(value: object) -> object:
        if isinstance(value, tuple):
            return tuple(map(fill, value))
        return next(samples) if isinstance(value, PerSample) else value

    return {parameter: fill(value) for parameter, value in arguments.items()}


def _each(function: Callable[[Any], Any], made: object) -> Any:
    return tuple(map(function, made)) if isinstance(made, tuple) else function(made)


def _stacked(made: list[Any]) -> Any:
    """Returns the results of single samples as batches."""
    if isinstance(made[0], tuple):
        return tuple(_stacked(list(parts)) for parts in zip(*made, strict=True))
    shapes = [tuple(one.shape) if isinstance(one, Tensor) else type(one).__name__ for one in made]
    if not isinstance(made[0], Tensor) or len(set(shapes)) > 1:
        listed = ", ".join(map(str, dict.fromkeys(shapes)))
        raise ValueError(
            f"its results differ from sample to sample ({listed}), so it cannot run on a batch: "
            "train with batches of one"
        )
    return PerSample(torch.stack(made))


def _gather(function: Kernel, xp: Namespace, arguments: Mapping[str, Any]) -> Any:
    """Returns rows of one table for all samples, which a check of the indices keeps from vmap."""
    table, indices = arguments["x"], arguments["indices"]
    plain = integer(arguments.get("axis", 0)) == 0 == integer(arguments.get("batch_dims", 0))
    if isinstance(table, PerSample) or not plain:
        return None
    return PerSample(function(xp, **{**arguments, "indices": indices.samples}))


def _pad(function: Kernel, xp: Namespace, arguments: Mapping[str, object]) -> object:
    """Returns all samples padded, which counts axes from the last one."""
    if not isinstance(arguments["x"], PerSample) or isinstance(arguments["pad"], PerSample):
        return None
    return PerSample(function(xp, **{**arguments, "x": arguments["x"].samples}))


def _recur(function: Kernel, xp: Namespace, arguments: Mapping[str, object]) -> object:
    """Returns what a recurrent layer makes of all samples side by side on its batch axis."""
    given = {name: value for name, value in arguments.items() if isinstance(value, PerSample)}
    states = [name for name in ("initial_h", "initial_c") if name in arguments]
    if not set(given) <= {"x", *states}:
        return None
    count = len(next(iter(given.values())).samples)

    def side_by_side(value: Any) -> Tensor:
        samples = (
            value.samples if isinstance(value, PerSample) else value.expand(count, *value.shape)
        )
        return samples.movedim(0, -3).flatten(-3, -2)  # (..., batch, width), sample by sample

    joined = {name: side_by_side(arguments[name]) for name in ("x", *states)}
    made = function(xp, **{**arguments, **joined})
    return tuple(PerSample(part.unflatten(-2, (count, -1)).movedim(-3, 0)) for part in made)


_RULES: dict[str, Rule] = {
    "gather": _gather,
    "pad": _pad,
    "lstm": _recur,
    "gru": _recur,
    "rnn": _recur,
}
