"""What the samples tell about each weight site: gathered on the way through a program."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np

from mlpass.arrays import Array
from mlpass.calibrate.aims import TOO_FEW, Aim, Crossed, aim_of
from mlpass.calibrate.gathered import Chunk, Gathered, grams_of, halves
from mlpass.calibrate.skips import find_streams
from mlpass.errors import CalibrationError, MlpassError, NotApplicable
from mlpass.plan.steps import Step
from mlpass.program.ir import Constant, Op, TensorType, Value
from mlpass.runtime.backends.base import Backend
from mlpass.runtime.failures import failure, of_sample
from mlpass.runtime.function_plan import FunctionPlan
from mlpass.runtime.kernels.registry import Arguments, Kernel
from mlpass.runtime.stop import Stop
from mlpass.solvers.gram import Gram
from mlpass.solvers.held_out import HeldOut
from mlpass.sparsity.layout import Layout
from mlpass.weights.ops.record import WEIGHT_OPS, WeightOp, layout_of
from mlpass.weights.sites import Site, Use

# One of the model that is pruned, and where sites aim at the dense one that one's.
Stops = tuple[Stop, Stop | None]
# What a cohort brings at a stop, by the number of the activation.
Brought = dict[int, Gathered]


@dataclass(frozen=True, eq=False)
class Observed:
    """What the samples told about a site.

    Attributes:
        gram: of its inputs; of a table that is gathered from a diagonal one: how often each row
            was read. None where there is no Gram.
        refusal: why there is no Gram.
        samples: how many samples reached it.
        tokens: how many input rows it met.
        aim: what it is to aim at in the dense model; None where it is not to.
        own: why that is, where it was asked for.
        parts: the same of most rows, and of those kept back; None where there is no Gram.
    """

    gram: Gram | None
    refusal: str | None
    samples: int
    tokens: int
    aim: Aim | None = None
    own: str | None = None
    parts: HeldOut | None = None


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
        cohorts: Sequence[range],
        dense: bool = False,
    ) -> None:
        """Has seen nothing yet.

        Args:
            steps: what is to become of each site; skipped ones are not looked at.
            plans: of the functions that will run.
            backend: that they run on.
            known: whether a site's Gram is not needed.
            cohorts: of the samples: each is summed by itself.
            dense: whether sites aim at the dense model, whose stops are then given as well.
        """
        self._backend = backend
        self._dense = dense
        self._cohorts = cohorts
        self._readings: dict[Op, list[_Reading]] = {}
        self._gathered: dict[Hashable, Gathered] = {}
        self._feeders: dict[Hashable, Op] = {}
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
        streams = {op: one for plan in plans if dense for op, one in find_streams(plan).items()}
        made = {value: number for op, number in order.items() for value in op.outputs}
        for shared, alike in readings.items():
            sites = {reading.step.site for reading in alike if not known(reading.step.site)}
            if sites:
                feeder = min((reading.use.op for reading in alike), key=order.__getitem__)
                found = {
                    one.step.site: streams[one.use.op]
                    for one in alike
                    if one.step.site in sites and one.use.op in streams
                }
                there = {
                    site: stream
                    for site, stream in found.items()
                    if made.get(stream, -1) < order[feeder]
                }
                self._gathered[shared] = Gathered(Crossed(there) if dense else None)
                self._feeders[shared] = feeder
                self._users[shared] = sites
        self._numbers = {key: number for number, key in enumerate(self._gathered)}

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
        return reading.key not in self._gathered or self._feeders[reading.key] is op

    def add(self, stop: Stop, dense: Stop | None = None) -> list[tuple[Step, Observed]]:
        """Adds what all samples bring at a stop, and returns the sites that no later op reads.

        Each is returned once, with what the samples told about it.

        Args:
            stop: of the model that is pruned.
            dense: where sites aim at the dense model, its stop at the same place.

        Raises:
            CalibrationError: the samples bring NaN or inf.
        """
        for brought in self.bring(stop, dense):
            self.take(brought)
        return self.whole(self.done(stop.ops))

    def bring(self, stop: Stop, dense: Stop | None = None) -> Iterator[Brought]:
        """Yields what each cohort brings at a stop, in their order, without taking it in.

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
        for cohort in self._cohorts if feeding else ():
            fresh = {key: Gathered(self._gathered[key].crossed) for key in feeding}
            for some in [cohort] if alone else [[one] for one in cohort]:
                for key, reading in feeding.items():
                    self._feed(fresh[key], reading, (stop, dense), some)
            for one in fresh.values():
                one.settle()
            yield {self._numbers[key]: one for key, one in fresh.items()}

    def take(self, brought: Brought) -> None:
        """Takes in what a cohort brought; the sums depend on the order of cohorts.

        Raises:
            CalibrationError: the columns of a layer's inputs are not those of the cohorts before.
        """
        keys = list(self._numbers)
        for number, one in brought.items():
            self._gathered[keys[number]].take(one)

    def _feed(
        self, gathered: Gathered, reading: _Reading, stops: Stops, samples: Iterable[int]
    ) -> None:
        """Adds what some samples bring to a Gram, and to what is beside it."""
        op, crossed = reading.use.op, gathered.crossed
        try:
            gathered.add(self._met(gathered, reading, stops, samples), op)
        except NotApplicable as reason:
            gathered.refusal = str(reason)
        if crossed is not None:
            crossed.flush()
            if len(stops[0].samples) == 1:
                crossed.refuse(TOO_FEW)

    def _met(
        self, gathered: Gathered, reading: _Reading, stops: Stops, samples: Iterable[int]
    ) -> Iterator[Chunk]:
        """Yields what some samples bring."""
        (stop, dense), use = stops, reading.use
        shown, kernel, crossed = stop.arguments(use.op), stop.kernel(use.op), gathered.crossed
        alone = len(stop.samples) == 1
        if crossed is not None and _record(use).gathered:
            crossed.refuse("its rows are gathered")
        for sample in samples:
            turns, count = shown[sample], itertools.count()
            if not turns:
                continue  # a branch that it does not take, or another function
            is_held = partial(gathered.is_held, sample)
            beside: Sequence[Arguments] = ()
            if dense is not None and crossed is not None and not crossed.refusal:
                beside = dense.arguments(use.op)[sample]
                if len(beside) != len(turns):
                    crossed.refuse("it runs another number of times in the dense model")
            drifts: Sequence[Mapping[Site, Array]] = [{} for _ in turns]
            if dense is not None and crossed is not None and crossed.streams:
                drifts = self._drifts(crossed, use, turns, (stop, dense), sample)
            for number, arguments in enumerate(turns):
                chunks = self._inputs(sample, reading, kernel, arguments)
                chunks = gathered.noted(sample, chunks)
                if dense is not None and crossed is not None and not crossed.refusal:
                    others = self._inputs(sample, reading, dense.kernel(use.op), beside[number])
                    chunks = crossed.watched(chunks, others, drifts[number], is_held)
                for chunk in chunks:
                    if alone:
                        yield from halves(sample, next(count), chunk)
                    else:
                        yield Chunk(sample, chunk, is_held())

    def _drifts(
        self,
        crossed: Crossed,
        use: Use,
        turns: Sequence[Arguments],
        stops: tuple[Stop, Stop],
        sample: int,
    ) -> list[dict[Site, Array]]:
        """Returns what streams of the dense model have over the pruned one's, each time of a use.

        One that is not there, or has another shape, is let go of.
        """
        drifts: list[dict[Site, Array]] = [{} for _ in turns]
        for site, stream in list(crossed.streams.items()):
            try:
                now, before = (stop.values(stream)[sample] for stop in stops)
                for number, pair in enumerate(zip(before, now, turns, strict=True)):
                    drifts[number][site] = self._drift(use, *pair)
            except (CalibrationError, NotApplicable):
                crossed.leave(site)
        return drifts

    def _drift(self, use: Use, before: Array, now: Array, arguments: Arguments) -> Array:
        """Returns what a stream of the dense model has over the pruned one's, as rows of outputs.

        Raises:
            NotApplicable: they have other shapes.
        """
        outputs = _record(use).outputs
        if outputs is None or now.shape != before.shape:
            raise NotApplicable("its stream is not of the outputs' shape")
        return outputs(self._backend.xp, before - now, arguments, use.position)

    def _inputs(
        self,
        sample: int,
        reading: _Reading,
        kernel: Kernel,
        arguments: Arguments,
    ) -> Iterator[Array]:
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

    def done(self, ops: Sequence[Op]) -> list[Step]:
        """Returns the steps of those sites that no op after these reads."""
        done = []
        for reading in (reading for op in ops for reading in self._readings.get(op, ())):
            site = reading.step.site
            self._open[site] -= 1
            if not self._open[site]:
                del self._open[site]
                done.append(reading.step)
        return done

    def whole(self, done: Sequence[Step]) -> list[tuple[Step, Observed]]:
        """Returns what the samples told about sites that no later op reads, and forgets them."""
        whole = [(step, self._observed(step.site)) for step in done]
        for step in done:
            self.forget(step.site)
        return whole

    def _observed(self, site: Site) -> Observed:
        keys = [key for key, users in self._users.items() if site in users]
        parts = [self._gathered[key] for key in keys]
        tables = [part for part in parts if part.samples and part.is_table]
        matrices = [part for part in parts if part.samples and not part.is_table]
        met = matrices or tables
        if not met:
            reasons = [part.refusal for part in parts if part.refusal]
            return Observed(None, (reasons or ["no sample reaches it"])[0], 0, 0)
        if len({part.shape for part in met}) > 1:
            return Observed(None, "its readers meet inputs of different shapes", 0, 0)
        aim = own = None
        gram, known = grams_of(site, matrices, tables)
        if self._dense:
            try:
                aim = self._aim(site, met, gram, known)
            except NotApplicable as reason:
                own = str(reason)
        samples = set().union(*(part.samples for part in met))
        return Observed(gram, None, len(samples), known.rows, aim, own, known)

    def _aim(self, site: Site, met: Sequence[Gathered], gram: Gram, parts: HeldOut) -> Aim:
        """Returns what a site is to aim at.

        Raises:
            NotApplicable: it is not to; the text says why.
        """
        crossed = [one.crossed for one in met if one.crossed is not None]
        found = aim_of(site, crossed, met[0].aim if len(met) == 1 else None, gram, parts)
        if len(met) == 1:
            met[0].aim = met[0].aim or found
        return found

    def forget(self, site: Site) -> None:
        """Lets go of all that only one site needs."""
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


def _record(use: Use) -> WeightOp:
    return WEIGHT_OPS[use.op.type][use.parameter]  # which has an entry for every use of a site
