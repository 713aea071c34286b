"""What the samples tell about each weight site: gathered on the way through a program."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlpass.arrays import Array, inner, placed
from mlpass.errors import MlpassError, NotApplicable
from mlpass.plan.steps import Step
from mlpass.program.ir import Constant, Op, TensorType, Value
from mlpass.runtime.backends.base import Backend
from mlpass.runtime.failures import failure, of_sample
from mlpass.runtime.function_plan import FunctionPlan
from mlpass.runtime.ops import label_of
from mlpass.runtime.stop import Stop
from mlpass.solvers.accumulate import GramSum, sum_of_grams
from mlpass.solvers.gram import Gram
from mlpass.sparsity.layout import Layout
from mlpass.weights.ops.record import WEIGHT_OPS, WeightOp, layout_of
from mlpass.weights.reading import layout_of_site, weight_of
from mlpass.weights.sites import Site, Use


@dataclass(frozen=True, eq=False)
class Observed:
    """What the samples told about a site.

    Attributes:
        gram: of its inputs; of a table that is gathered from a diagonal one: how often each row
            was read. None where there is no Gram.
        refusal: why there is no Gram.
        samples: how many samples reached it.
        tokens: how many input rows it met.
    """

    gram: Gram | None
    refusal: str | None
    samples: int
    tokens: int


class SiteGrams:
    """The Grams of all sites, which grow from stop to stop, and are given out when they are whole.

    Readings of one activation share one Gram, and their sites are whole together. A site that
    several ops read is whole at the last of them, with the sum of what all met.
    """

    def __init__(
        self,
        steps: Iterable[Step],
        plans: Sequence[FunctionPlan],
        backend: Backend,
        known: Callable[[Site], bool],
    ) -> None:
        """Has seen nothing yet.

        Args:
            steps: what is to become of each site; skipped ones are not looked at.
            plans: of the functions that will run.
            backend: that they run on.
            known: whether a site's Gram is not needed.
        """
        self._backend = backend
        self._readings: dict[Op, list[_Reading]] = {}
        self._gathered: dict[Hashable, _Gathered] = {}
        self._open: dict[Site, int] = {}
        self._users: dict[Hashable, set[Site]] = {}
        blocks = [block for plan in plans for block in plan.function.block.walk_blocks()]
        homes = {op: block for block in blocks for op in block.ops}
        self._makers = {value: op for plan in plans for value, op in plan.makers.items()}
        readings: dict[Hashable, list[_Reading]] = {}
        for step in steps:
            if step.skipped or step.mode is None:
                continue
            for use in (use for use in step.site.uses if use.op in homes):
                key = homes[use.op], self._activation(use)
                reading = _Reading(step, use, key)
                readings.setdefault(key, []).append(reading)
                self._readings.setdefault(use.op, []).append(reading)
                self._open[step.site] = self._open.get(step.site, 0) + 1
        order = {op: number for number, op in enumerate(homes)}  # within each block
        for shared, alike in readings.items():
            sites = {reading.step.site for reading in alike if not known(reading.step.site)}
            if sites:
                feeder = min((reading.use.op for reading in alike), key=order.__getitem__)
                self._gathered[shared] = _Gathered(feeder)
                self._users[shared] = sites

    def _activation(self, use: Use) -> Hashable:
        """Returns a key that is equal for two uses that meet the same inputs."""
        parts = _record(use).key(use.op, use.parameter, use.position)
        return use.op.type, use.parameter, use.position, *map(self._identity, parts)

    def _identity(self, part: Hashable) -> Hashable:
        """Returns what an argument is, or where it is a small constant what it says."""
        if isinstance(part, Value):
            maker = self._makers.get(part)
            if maker is None or maker.type != "const":
                return part
            (stated,) = maker.inputs["val"]
            return self._identity(stated) if isinstance(stated, Constant) else part
        if not isinstance(part, Constant):
            return part
        if part.in_file or not isinstance(part.type, TensorType):
            return part
        value = part.read()
        return part.type, value.tobytes() if isinstance(value, np.ndarray) else repr(value)

    def wants(self, op: Op) -> bool:
        """Returns whether an op reads a site, and more than a Gram that is whole before it."""
        return any(self._brings(op, reading) for reading in self._readings.get(op, ()))

    def _brings(self, op: Op, reading: _Reading) -> bool:
        gathered = self._gathered.get(reading.key)
        return gathered is None or gathered.feeder is op

    def add(self, stop: Stop) -> list[tuple[Step, Observed]]:
        """Adds what all samples bring at a stop, and returns the sites that no later op reads.

        Each is returned once, with what the samples told about it.

        Raises:
            CalibrationError: the samples bring NaN or inf.
        """
        feeding: dict[Hashable, _Reading] = {}
        for op in stop.wanted:
            for reading in self._readings[op]:
                if reading.key in self._gathered and self._brings(op, reading):
                    feeding.setdefault(reading.key, reading)
        alone = stop.wanted == stop.ops[:1]
        # Control flow is rehearsed anew for each sample, so one after another is shown to all.
        for some in [stop.samples] if alone else [[one] for one in stop.samples]:
            for key, reading in feeding.items():
                self._feed(self._gathered[key], reading, stop, some)
        return self._whole(stop.ops)

    def _feed(
        self, gathered: _Gathered, reading: _Reading, stop: Stop, samples: Iterable[int]
    ) -> None:
        """Adds what some samples bring to a Gram."""
        op = reading.use.op
        shown, kernel = stop.arguments(op), stop.kernel(op)

        def inputs() -> Iterator[tuple[int, Any]]:
            for sample in samples:
                for arguments in shown[sample]:
                    for chunk in self._inputs(sample, reading, kernel, arguments):
                        yield sample, chunk

        try:
            gathered.add(inputs(), label_of(op))
        except NotApplicable as reason:
            gathered.refusal = str(reason)

    def _inputs(
        self,
        sample: int,
        reading: _Reading,
        kernel: Callable[..., Any],
        arguments: Mapping[str, Any],
    ) -> Iterator[Any]:
        """Yields the inputs of a use in the backend's arrays, where they are; counts in numpy's.

        Raises:
            ExecutionError: the op's arguments do not fit together.
        """
        use = reading.use
        record = _record(use)
        try:
            for chunk in record.inputs(self._backend.xp, arguments, kernel, use.position):
                if not record.gathered:
                    reading.check(chunk.shape)
                yield self._backend.to_numpy(chunk) if record.gathered else chunk
        except (MlpassError, OSError):
            raise
        except Exception as error:
            with of_sample(sample):
                raise failure(use.op, error, arguments) from error

    def _whole(self, ops: Sequence[Op]) -> list[tuple[Step, Observed]]:
        """Returns the sites that no op after these reads, and forgets them."""
        whole = []
        for reading in (reading for op in ops for reading in self._readings.get(op, ())):
            site = reading.step.site
            self._open[site] -= 1
            if not self._open[site]:
                del self._open[site]
                whole.append((reading.step, self._observed(site)))
        for step, _ in whole:
            self._forget(step.site)
        return whole

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
        groups, _, channels, positions = self.layout.sizes
        wanted = groups, channels * positions
        if (shape[0], shape[2]) != wanted:
            raise ValueError(
                f"it is given (groups, columns) {(shape[0], shape[2])}, its {self.use.parameter} "
                f"has {wanted}"
            )


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

    def add(self, inputs: Iterable[tuple[int, Any]], label: str) -> None:
        """Takes the input rows of some samples, in chunks.

        Rows are summed where they are: numpy's arrays, or torch's on their device.

        Args:
            inputs: the number of a sample, and a chunk of its: (groups, rows, columns), or how
                often each was read: (columns,).
            label: of the op that meets them.

        Raises:
            CalibrationError: there is NaN or inf among them.
        """
        self._sum.add_all(self._rows(inputs, label))

    def _rows(self, inputs: Iterable[tuple[int, Any]], label: str) -> Iterator[tuple[Any, str]]:
        """Counts chunks, and yields those with rows, with what to call them in an error.

        One without rows, as of an expert that no token of a sample reaches, adds nothing.
        """
        for sample, chunk in inputs:
            tokens = int(chunk.sum()) if chunk.ndim == 1 else chunk.shape[1]
            if not tokens:
                continue
            self.samples.add(sample)
            self.tokens += tokens
            if chunk.ndim == 1:
                # A row that these samples happen not to read is read by others: once, say.
                before = np.ones(chunk.shape) if self.counts is None else self.counts
                self.counts = before + chunk
            else:
                yield chunk, f" (sample {sample}, {label!r})"

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of `total`, which itself takes a copy to make."""
        return self._sum.shape if self.counts is None else self.counts.shape

    @property
    def total(self) -> Array:
        """The Gram of all that was added, or its diagonal."""
        if self.counts is None:
            return self._sum.total()
        return np.asarray(self.counts, np.float32)

    @cached_property
    def gram(self) -> Gram:
        """The same, shared by all sites that meet only these inputs."""
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
        return total  # rows that are gathered are not rows of the matrix
    weight = layout.split(weight_of(site))[0].reshape(counts.size, -1).astype(np.float32)
    read = float(counts @ np.einsum("rc,rc->r", weight, weight).astype(np.float64))
    multiplied = inner(weight.T @ weight, total[0])
    if not np.isfinite(multiplied) or read == 0:
        return total
    extra = np.eye(total.shape[1]) * (multiplied / read * counts.mean())
    return total + placed(extra, total)


def _record(use: Use) -> WeightOp:
    return WEIGHT_OPS[use.op.type][use.parameter]  # which has an entry for every use of a site
