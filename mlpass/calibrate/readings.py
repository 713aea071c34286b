"""Which ops read which weights, and which of these readings meet the same inputs."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from mlpass.calibrate.aims import Crossed
from mlpass.calibrate.gathered import Gathered
from mlpass.calibrate.skips import Stream, find_streams
from mlpass.errors import NotApplicable
from mlpass.plan.steps import Step
from mlpass.program.ir import Constant, Op, TensorType, Value
from mlpass.runtime.interpreter import Interpreter
from mlpass.sparsity.layout import Layout
from mlpass.weights.ops.record import WEIGHT_OPS, WeightOp, layout_of
from mlpass.weights.sites import Site, Use


@dataclass(eq=False)
class Activation:
    """Inputs that one reading meets, or several, which then share a Gram.

    Attributes:
        number: of all that are summed.
        feeder: the first op that meets them, at whose stop they are summed.
        users: the sites whose Grams they go into, and that are not given out yet.
        gathered: the sums.
        streams: of users, what their outputs are added to, where the dense model's is followed.
    """

    number: int
    feeder: Op
    users: set[Site]
    gathered: Gathered
    streams: Mapping[Site, Stream]

    def forget(self, site: Site) -> None:
        """Lets go of the sums where no other site needs them."""
        if site in self.users:
            self.users.remove(site)
            if not self.users:
                self.gathered = Gathered()


@dataclass(eq=False)
class Reading:
    """One use of a site.

    Attributes:
        step: what is to become of the site.
        use: the use.
        activation: what it meets; None where nobody needs the Gram of that.
    """

    step: Step
    use: Use
    activation: Activation | None = None

    @property
    def feeds(self) -> bool:
        """Whether its op is the one at whose stop its inputs are summed."""
        return self.activation is not None and self.activation.feeder is self.use.op

    @property
    def record(self) -> WeightOp:
        """How its op reads a weight."""
        return WEIGHT_OPS[self.use.op.type][self.use.parameter]  # has one for every use of a site

    @cached_property
    def layout(self) -> Layout | None:
        """How the op reads the weight; None where that is not as the matrix of dot products."""
        use, shape = self.use, self.step.site.shape
        try:
            return layout_of(use.op.type, use.parameter, use.position, shape, use.settings)
        except NotApplicable:
            return None

    def check(self, shape: Sequence[int]) -> None:
        """Raises ValueError where inputs (groups, rows, columns) do not fit the weight."""
        if self.layout is None:
            return
        wanted = self.layout.sizes[0], self.layout.columns
        if (shape[0], shape[2]) != wanted:
            raise ValueError(
                f"it is given (groups, columns) {(shape[0], shape[2])}, its {self.use.parameter} "
                f"has {wanted}"
            )


def find_readings(
    steps: Iterable[Step],
    interpreter: Interpreter,
    known: Callable[[Site], bool],
    dense: bool,
) -> list[Reading]:
    """Returns every reading of a site that is to be solved for.

    Args:
        steps: what is to become of each site; skipped ones are not looked at.
        interpreter: that runs the model.
        known: whether a site's Gram is not needed.
        dense: whether sites aim at the dense model.
    """
    plans = [part.plan for part in interpreter.parts]
    blocks = [block for plan in plans for block in plan.function.block.walk_blocks()]
    homes = {op: block for block in blocks for op in block.ops}
    makers = {value: op for plan in plans for value, op in plan.makers.items()}
    found: list[Reading] = []
    alike: dict[Hashable, list[Reading]] = {}
    for step in steps:
        for use in (use for use in step.site.uses if step.prunes and use.op in homes):
            found.append(reading := Reading(step, use))
            key = homes[use.op], *_what_it_meets(reading, makers)
            alike.setdefault(key, []).append(reading)
    order = {op: number for number, op in enumerate(homes)}  # within each block
    runners = interpreter.members if dense else ()
    streams = {op: one for runner in runners for op, one in find_streams(runner).items()}
    made = {value: number for op, number in order.items() for value in op.outputs}
    count = 0
    for some in alike.values():
        sites = {reading.step.site for reading in some if not known(reading.step.site)}
        if not sites:
            continue
        feeder = min((reading.use.op for reading in some), key=order.__getitem__)
        there = {
            reading.step.site: streams[reading.use.op]
            for reading in some
            if reading.step.site in sites and reading.use.op in streams
        }
        before = {
            site: stream
            for site, stream in there.items()
            if made.get(stream[0], -1) < order[feeder]
        }
        crossed = Crossed({site.name for site in before}) if dense else None
        activation = Activation(count, feeder, sites, Gathered(crossed), before)
        count += 1
        for reading in some:
            reading.activation = activation
    return found


def _what_it_meets(reading: Reading, makers: Mapping[Value, Op]) -> tuple[Hashable, ...]:
    """Returns a key that is equal for two readings in a block that meet the same inputs."""
    use = reading.use
    parts = reading.record.key(use.op, use.parameter, use.position)
    return use.op.type, use.parameter, use.position, *(_identity(part, makers) for part in parts)


def _identity(part: Hashable, makers: Mapping[Value, Op]) -> Hashable:
    """Returns what an argument is, or where it is a small constant what it says."""
    if isinstance(part, Value):
        maker = makers.get(part)
        if maker is None or maker.type != "const":
            return part
        (stated,) = maker.inputs["val"]
        return _identity(stated, makers) if isinstance(stated, Constant) else part
    if not isinstance(part, Constant):
        return part
    if part.in_file or not isinstance(part.type, TensorType):
        return part
    value = part.read()
    return part.type, value.tobytes() if isinstance(value, np.ndarray) else repr(value)
