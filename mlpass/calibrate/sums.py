"""What the samples tell about each weight site: gathered on the way through a program."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlpass.arrays import Array, inner, placed
from mlpass.errors import NotApplicable
from mlpass.halves import widened
from mlpass.plan.steps import Step
from mlpass.program.ir import Block, Constant, Op, TensorType, Value
from mlpass.runtime.backends.base import Backend
from mlpass.runtime.constants import Constants
from mlpass.runtime.matrix_inputs import matrix_inputs, row_counts
from mlpass.runtime.ops import label_of
from mlpass.runtime.plan import Plan
from mlpass.runtime.replay import Shown
from mlpass.solvers.accumulate import GramSum, sum_of_grams
from mlpass.solvers.gram import Gram
from mlpass.weights.reading import layout_of_site, weight_of
from mlpass.weights.sites import Site, Use


@dataclass(frozen=True, eq=False)
class Observed:
    """What the samples told about a site.

    Attributes:
        gram: of its inputs; of a table that is gathered from a diagonal one: how often each row
            was read. None where there is none.
        refusal: why there is none.
        samples: how many samples reached it.
        tokens: how many input rows it met.
    """

    gram: Gram | None
    refusal: str | None
    samples: int
    tokens: int


# Given steps and what was observed of each, returns the weight to go on with, None for the old one.
Decide = Callable[[Sequence[tuple[Step, Observed]]], Sequence[NDArray[Any] | None]]


def looking(look: Callable[[Step, Observed], None]) -> Decide:
    """Returns what shows each site to `look`, and decides to go on with the old weights."""

    def decide(sites: Sequence[tuple[Step, Observed]]) -> list[None]:
        for step, observed in sites:
            look(step, observed)
        return [None] * len(sites)

    return decide


class SiteGrams:
    """A visitor of replays who gathers each site's Gram, and has it decided as soon as it is whole.

    Readings of one activation share one Gram, and their sites are decided together. A site that
    several ops read is decided at the last of them, on the sum of what all met.
    """

    def __init__(
        self,
        steps: Iterable[Step],
        plans: Sequence[Plan],
        backend: Backend,
        decide: Decide,
        known: Callable[[Site], bool],
    ) -> None:
        """Has seen nothing yet.

        Args:
            steps: what is to become of each site; skipped ones are not looked at.
            plans: of the functions that will run.
            backend: that they run on.
            decide: called once for each site that the functions read, with those that become
                whole at once.
            known: whether a site's decision needs no Gram.
        """
        self._backend = backend
        self._decide = decide
        self._readings: dict[Op, list[_Reading]] = {}
        self._gathered: dict[Hashable, _Gathered] = {}
        self._open: dict[Site, int] = {}
        self._users: dict[Hashable, set[Site]] = {}
        homes = {op: block for plan in plans for op, block in _homes(plan)}
        self._makers = {value: op for plan in plans for value, op in plan.makers.items()}
        order = {op: number for number, op in enumerate(homes)}
        for step in steps:
            if step.skipped or step.mode is None:
                continue
            for use in step.site.uses:
                if use.op in homes:
                    self._note(step, use, homes[use.op], needed=not known(step.site))
        for readings in self._readings.values():
            for reading in readings:
                gathered = self._gathered.get(reading.key)
                if gathered is not None and order[reading.use.op] < order[gathered.feeder]:
                    gathered.feeder = reading.use.op

    def _note(self, step: Step, use: Use, home: Block, needed: bool) -> None:
        key = (home, self._activation(use))
        reading = _Reading(step, use, key)
        self._readings.setdefault(use.op, []).append(reading)
        self._open[step.site] = self._open.get(step.site, 0) + 1
        if needed:
            self._gathered.setdefault(key, _Gathered(use.op))
            self._users.setdefault(key, set()).add(step.site)

    def _activation(self, use: Use) -> Hashable:
        """Returns what two uses have in common that meet the same inputs.

        That is the op's type, every argument but weight and bias, and, since windows depend on it,
        the shape of a convolution's kernel.
        """
        op = use.op
        parts: list[Hashable] = [op.type, use.parameter, use.position]
        for parameter, arguments in sorted(op.inputs.items()):
            for position, argument in enumerate(arguments):
                if (parameter, position) == (use.parameter, use.position):
                    shape = getattr(argument.type, "shape", ())
                    parts.append(shape[2:] if op.type.startswith("conv") else None)
                elif parameter != "bias":
                    parts.append((parameter, self._identity(argument)))
        return tuple(parts)

    def _identity(self, argument: Value | Constant) -> Hashable:
        """Returns an argument, or where it is a small constant what it says."""
        if isinstance(argument, Value):
            maker = self._makers.get(argument)
            if maker is None or maker.type != "const":
                return argument
            (stated,) = maker.inputs["val"]
            return self._identity(stated) if isinstance(stated, Constant) else argument
        if argument.in_file or not isinstance(argument.type, TensorType):
            return argument
        value = argument.read()
        return argument.type, value.tobytes() if isinstance(value, np.ndarray) else repr(value)

    @property
    def sites(self) -> set[Site]:
        """The sites that are yet to be decided."""
        return set(self._open)

    def wants(self, op: Op) -> bool:
        """Returns whether an op reads a site, and more than a Gram that is whole before it."""
        return any(self._brings(op, reading) for reading in self._readings.get(op, ()))

    def _brings(self, op: Op, reading: _Reading) -> bool:
        gathered = self._gathered.get(reading.key)
        return gathered is None or gathered.feeder is op

    def see(self, op: Op, kernel: Callable[..., Any], shown: Shown) -> None:
        """Adds what samples bring to the Grams of an op's sites.

        Raises:
            CalibrationError: that holds NaN or inf.
        """
        fed = set()
        for reading in self._readings[op]:
            gathered = self._gathered.get(reading.key)
            if gathered is None or gathered.feeder is not op or reading.key in fed:
                continue
            fed.add(reading.key)
            inputs = {
                sample: self._inputs(reading.use, kernel, arguments)
                for sample, arguments in shown.items()
            }
            try:
                gathered.add(inputs, label_of(op))
            except NotApplicable as reason:
                gathered.refusal = str(reason)

    def _inputs(
        self, use: Use, kernel: Callable[..., Any], arguments: Mapping[str, Any]
    ) -> Iterator[Any]:
        """Yields the inputs of a use, in the backend's arrays, where they are."""
        xp, op = self._backend.xp, use.op
        if op.type == "gather":
            yield self._backend.to_numpy(row_counts(xp, arguments))
        else:
            yield from matrix_inputs(xp, op.type, use.parameter, use.position, arguments, kernel)

    def settle(self, ops: Sequence[Op], constants: Constants) -> None:
        """Decides the sites that no later op reads, and lets the program go on with the results."""
        whole = []
        for reading in (reading for op in ops for reading in self._readings.get(op, ())):
            site = reading.step.site
            self._open[site] -= 1
            if not self._open[site]:
                del self._open[site]
                whole.append((reading.step, self._observed(site)))
        for (step, _), weight in zip(whole, self._decide(whole), strict=True):
            self._forget(step.site)
            if weight is not None:
                array = self._backend.from_numpy(widened(weight))
                for maker in step.site.makers:
                    constants.replace(maker.outputs[-1], array)

    def _observed(self, site: Site) -> Observed:
        keys = [key for key, users in self._users.items() if site in users]
        parts = [self._gathered[key] for key in keys]
        tables = [part for part in parts if part.samples and part.counts is not None]
        matrices = [part for part in parts if part.samples and part.counts is None]
        met = matrices or tables
        if not met:
            reasons = [part.refusal for part in parts if part.refusal]
            return Observed(None, (reasons or ["no sample reaches it"])[0], 0, 0)
        if len({part.shape for part in met}) > 1:
            return Observed(None, "its readers meet inputs of different shapes", 0, 0)
        if matrices and tables:
            counts = np.sum([part.counts for part in tables], axis=0)
            total = sum_of_grams([part.total for part in matrices])
            gram = Gram(_with_gathering(site, total, counts))
        elif len(met) > 1:
            gram = Gram(sum_of_grams([part.total for part in met]))
        else:
            gram = met[0].gram
        samples = set().union(*(part.samples for part in met))
        return Observed(gram, None, len(samples), sum(part.tokens for part in met))

    def _forget(self, site: Site) -> None:
        for key, users in list(self._users.items()):
            users.discard(site)
            if not users:
                del self._users[key], self._gathered[key]


@dataclass(frozen=True, eq=False)
class _Reading:
    """One use of a site; readings of equal key meet the same inputs."""

    step: Step
    use: Use
    key: Hashable


@dataclass(eq=False)
class _Gathered:
    """A Gram that grows.

    Attributes:
        feeder: the first op that meets these inputs.
        refusal: why there are no such inputs.
        samples: those that came by.
        tokens: how many input rows they brought.
        counts: of a table that is gathered from, how often each row was read.
    """

    feeder: Op
    refusal: str | None = None
    samples: set[int] = field(default_factory=set)
    tokens: int = 0
    _sum: GramSum = field(default_factory=GramSum)
    counts: Any = None

    def add(self, inputs: Mapping[int, Iterable[Any]], label: str) -> None:
        """Takes the input rows of some samples, in chunks.

        Rows are summed where they are: numpy's arrays, or torch's on their device.

        Args:
            inputs: numbers of samples, and their chunks: (groups, rows, columns), or how often
                each was read: (columns,).
            label: of the op that meets them.

        Raises:
            CalibrationError: there is NaN or inf among them.
        """
        self._sum.add_all(self._rows(inputs, label))

    def _rows(self, inputs: Mapping[int, Iterable[Any]], label: str) -> Iterator[tuple[Any, str]]:
        """Counts chunks, and yields those with rows, with what to call them in an error."""
        for sample, chunks in inputs.items():
            for chunk in chunks:
                self.samples.add(sample)
                if chunk.ndim == 1:
                    self.tokens += int(chunk.sum())
                    # A row that these samples happen not to read is read by others: once, say.
                    before = np.ones(chunk.shape) if self.counts is None else self.counts
                    self.counts = before + chunk
                else:
                    self.tokens += chunk.shape[1]
                    yield chunk, f" (sample {sample}, {label!r})"

    @property
    def shape(self) -> tuple[int, ...]:
        """Of `total`, which takes a copy to make."""
        return self._sum.shape if self.counts is None else self.counts.shape

    @property
    def total(self) -> Array:
        """The Gram of all that was added, or its diagonal."""
        if self.counts is None:
            return self._sum.total()
        return np.asarray(self.counts, np.float32)

    @cached_property
    def gram(self) -> Gram:
        """The same, shared by all sites that meet these inputs alone."""
        return Gram(self.total)


def _with_gathering(site: Site, total: Array, counts: NDArray[np.float64]) -> Array:
    """Returns the Gram of a table that is multiplied with and gathered from, as tied ones are.

    What a changed row costs those who gather it is its square sum, as often as it is read. Averaged
    over the rows, and with the outputs of both readers given the same weight, that is something on
    the diagonal of the Gram.

    Args:
        site: the table.
        total: its Gram, (1, columns, columns).
        counts: how often each row was read.
    """
    try:
        layout = layout_of_site(site)
    except NotApplicable:
        return total
    if layout.axes[1] != (0,) or layout.sizes[0] != 1 or layout.sizes[1] != counts.size:
        return total  # rows that are gathered are no rows of the matrix
    weight = layout.split(weight_of(site))[0].reshape(counts.size, -1).astype(np.float32)
    read = float(counts @ np.einsum("rc,rc->r", weight, weight).astype(np.float64))
    multiplied = inner(weight.T @ weight, total[0])
    if not np.isfinite(multiplied) or read == 0:
        return total
    extra = np.eye(total.shape[1]) * (multiplied / read * counts.mean())
    return total + placed(extra, total)


def _homes(plan: Plan) -> Iterable[tuple[Op, Block]]:
    """Yields every op of a function with the block it is in, in order of execution."""

    def walk(block: Block) -> Iterable[tuple[Op, Block]]:
        for op in block.ops:
            yield op, block
            for nested in op.blocks:
                yield from walk(nested)

    return walk(plan.function.block)
