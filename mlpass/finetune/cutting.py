"""Where a program is cut into regions: stretches of its ops that are trained one after another.

Any program can be cut anywhere, since what a stretch is given are the values that are live at its
start, and what it gives those that are live at its end. Few should be: at a residual stream, or at
the end of a block. A region holds a nonlinearity and a trained weight at least, for a single
product is what solvers already fit best.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple

from mlpass.program.ir import TensorType, Value
from mlpass.runtime.control import CONTROL
from mlpass.runtime.function_plan import FunctionPlan, OpPlan, made_in, reads
from mlpass.runtime.stretches import Bounds, linked, ops_of, uses_of

_NAMES = """
relu relu6 clamped_relu leaky_relu prelu thresholded_relu elu gelu sigmoid silu sigmoid_hard
scaled_tanh softplus softplus_parametric softsign softmax instance_norm layer_norm l2_norm
local_response_norm max_pool l2_pool rnn gru lstm scaled_dot_product_attention abs acos asin
atan atanh ceil cos cosh erf exp exp2 clip floor inverse log round rsqrt sign sin sinh sqrt
square tan tanh threshold pow maximum minimum reduce_max reduce_min reduce_l2_norm
reduce_log_sum_exp reduce_sum_square
"""
_BENT = frozenset(_NAMES.split())
_TRAINING = 16  # bytes of a trained element: in fp32 itself, its gradient, two moments of Adam
_KEPT = 4  # bytes of an element that an op makes, kept for the gradient
_AHEAD = 2  # so many regions more are looked into for a narrower cut


class Region(NamedTuple):
    """A stretch of a function's steps.

    Attributes:
        start: its first step.
        end: the step after its last.
        inputs: the values live at its start that it reads, in the order in which they are made.
        outputs: the values that it makes and that are live at its end, likewise.
    """

    start: int
    end: int
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]


def cut(
    plan: FunctionPlan,
    weights: Mapping[Value, int],
    budget: int,
    batch_size: int = 1,
    whole: Sequence[Bounds] = (),
) -> list[Region]:
    """Returns a function's steps as regions, each step in one.

    A cut is at the first place with fewer live elements than any before it in the region, and than
    any in the two smallest regions that could follow. It is never within control flow, between ops
    that share a state, or where something else than tensors is live.

    Args:
        plan: of the function.
        weights: how many elements train for each constant value that is a weight.
        budget: bytes that the training of a region may take, where it can be cut that small.
        batch_size: samples a batch.
        whole: bounds of steps that are in one region, as those of functions that read one weight.
    """
    steps = plan.block.steps
    live = _live(plan)
    widths = [sum(_size(value) for value in values) for values in live]
    kept = [*linked(plan), *whole]
    inner = {at for start, end in kept for at in range(start + 1, end)}
    places = [
        at
        for at in range(1, len(steps))
        if at not in inner and all(isinstance(value.type, TensorType) for value in live[at])
    ]
    known = list(accumulate((_Held.of(step, weights, batch_size) for step in steps), _Held.plus))
    sums = [_Held(0, 0, 0), *known]
    edges = [0]
    while (place := _next(places, edges[-1], sums, widths, budget)) is not None:
        edges.append(place)
    return [_region(plan, live, *bounds) for bounds in pairwise([*edges, len(steps)])]


def cut_alike(
    plan: FunctionPlan, regions: Sequence[Region], likes: Mapping[Value, Value]
) -> list[Region]:
    """Returns the regions of another model's function that end where those of a first one do.

    Args:
        plan: of the other function.
        regions: of the first one.
        likes: for the first one's values those of the other.
    """
    places = {value: at for at, step in enumerate(plan.block.steps, 1) for value in step.op.outputs}
    edges = [0]
    for region in regions[:-1]:
        found = [places.get(likes[value], 0) for value in region.outputs if value in likes]
        edges.append(max([edges[-1], *found]))
    live = _live(plan)
    return [_region(plan, live, *bounds) for bounds in pairwise([*edges, len(plan.block.steps)])]


def windows(plan: FunctionPlan, regions: Sequence[Region], count: int) -> list[Region]:
    """Returns each run of so many neighbouring regions as one; all of them, where they are fewer.

    Args:
        plan: of the function.
        regions: of it.
        count: of those that make one.
    """
    if count == 1:
        return list(regions)
    live = _live(plan)
    last = max(1, len(regions) - count + 1)
    parts = [regions[first : first + count] for first in range(last)]
    return [_region(plan, live, part[0].start, part[-1].end) for part in parts]


class _Held(NamedTuple):
    """What some steps hold: trained weights, nonlinearities, bytes of training."""

    weights: int
    bent: int
    nbytes: int

    @classmethod
    def of(cls, step: OpPlan, weights: Mapping[Value, int], batch_size: int) -> _Held:
        ops = list(ops_of(step))
        read = dict.fromkeys(value for value in reads(step.op) if value in weights)
        made = sum(_size(value) for op in ops for value in op.outputs)
        trained = sum(weights[value] for value in read)
        bent = sum(op.type in _BENT or op.type in CONTROL for op in ops)
        return cls(len(read), bent, _TRAINING * trained + _KEPT * batch_size * made)

    def plus(self, other: _Held) -> _Held:
        return _Held(*map(sum, zip(self, other, strict=True)))

    def over(self, before: _Held) -> _Held:
        return _Held(*(all_ - some for all_, some in zip(self, before, strict=True)))

    @property
    def is_region(self) -> bool:
        return self.weights > 0 and self.bent > 0


def _next(
    places: Sequence[int],
    start: int,
    sums: Sequence[_Held],
    widths: Sequence[int],
    budget: int,
) -> int | None:
    """Returns where the region that begins at `start` ends; None at the end of the function."""
    rest = [at for at in places if at > start]
    able = [at for at in rest if sums[at].over(sums[start]).is_region]
    able = [at for at in able if sums[-1].over(sums[at]).is_region]
    if not able:
        return None
    small = [at for at in able if sums[at].over(sums[start]).nbytes <= budget] or able[:1]
    for at in small:
        end = at
        for _ in range(_AHEAD):
            found = (to for to in rest if to > end and sums[to].over(sums[end]).is_region)
            end = next(found, len(sums) - 1)
        ahead = [widths[to] for to in rest if at < to <= end]
        behind = [widths[to] for to in able if to < at]
        if widths[at] <= min([*ahead, *behind], default=widths[at]):
            return at
    if sums[-1].over(sums[start]).nbytes <= budget:
        return None
    return min(small, key=lambda at: (widths[at], -at))


def _live(plan: FunctionPlan) -> list[list[Value]]:
    """Returns the values that are there before each step, and after the last, and still needed."""
    steps, uses = plan.block.steps, uses_of(plan)
    made = dict.fromkeys(plan.block.inputs, -1)
    made |= {value: place for place, step in enumerate(steps) for value in step.op.outputs}
    live: list[list[Value]] = [[] for _ in range(len(steps) + 1)]
    for value, place in made.items():
        for at in range(place + 1, max(uses.get(value, (-1,))) + 1):
            live[at].append(value)
    return live


def _region(plan: FunctionPlan, live: Sequence[list[Value]], start: int, end: int) -> Region:
    steps = plan.block.steps[start:end]
    read = {value for step in steps for value in reads(step.op)}
    inner = {value for step in steps for block in step.op.blocks for value in made_in(block)}
    made = {value for step in steps for value in step.op.outputs}
    inputs = tuple(value for value in live[start] if value in read - inner)
    return Region(start, end, inputs, tuple(value for value in live[end] if value in made))


def _size(value: Value) -> int:
    return value.type.size if isinstance(value.type, TensorType) else 0
