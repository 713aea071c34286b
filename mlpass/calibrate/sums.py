"""What the samples tell about each weight site: gathered on the way through a program."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from mlpass.arrays import Array
from mlpass.calibrate.aims import TOO_FEW, Aim, Crossed, aim_of
from mlpass.calibrate.gathered import Chunk, Gathered, grams_of, halves
from mlpass.calibrate.readings import Activation, Reading, find_readings
from mlpass.calibrate.skips import Stream
from mlpass.errors import CalibrationError, MlpassError, NotApplicable
from mlpass.plan.steps import Step
from mlpass.program.ir import Op
from mlpass.runtime.failures import failure, of_sample
from mlpass.runtime.interpreter import Interpreter
from mlpass.runtime.kernels.registry import Arguments, Kernel
from mlpass.runtime.stop import Stop
from mlpass.solvers.gram import Gram
from mlpass.solvers.held_out import HeldOut
from mlpass.weights.sites import Site

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
        interpreter: Interpreter,
        known: Callable[[Site], bool],
        cohorts: Sequence[range],
        dense: bool,
    ) -> None:
        """Has seen nothing yet.

        Args:
            steps: what is to become of each site; skipped ones are not looked at.
            interpreter: that runs the model.
            known: whether a site's Gram is not needed.
            cohorts: of the samples: each is summed by itself.
            dense: whether sites aim at the dense model, whose stops are then given as well.
        """
        assert interpreter.backend is not None  # Calibration refuses Core ML itself
        self._backend = interpreter.backend
        self._dense = dense
        self._cohorts = cohorts
        self._readings: dict[Op, list[Reading]] = {}
        self._open: Counter[Site] = Counter()  # how many readings of a site are still to come
        readings = find_readings(steps, interpreter, known, dense)
        for reading in readings:
            self._readings.setdefault(reading.use.op, []).append(reading)
            self._open[reading.step.site] += 1
        met = (reading.activation for reading in readings if reading.activation is not None)
        self._activations = list(dict.fromkeys(met))  # by number

    def wants(self, op: Op) -> bool:
        """Returns whether an op reads a site, and more than a Gram that is whole before it."""
        readings = self._readings.get(op, ())
        return any(reading.feeds or reading.activation is None for reading in readings)

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
        feeding: dict[Activation, Reading] = {}
        for reading in (reading for op in stop.wanted for reading in self._readings[op]):
            if reading.activation is not None and reading.feeds:
                feeding.setdefault(reading.activation, reading)
        alone = stop.wanted == stop.ops[:1]
        # Control flow is rehearsed anew for each sample, so one after another is shown to all.
        for cohort in self._cohorts if feeding else ():
            fresh = {each: each.gathered.fresh() for each in feeding}
            for some in [cohort] if alone else [[one] for one in cohort]:
                for each, reading in feeding.items():
                    self._feed(fresh[each], reading, (stop, dense), some)
            for one in fresh.values():
                one.settle()
            yield {each.number: one for each, one in fresh.items()}

    def take(self, brought: Brought) -> None:
        """Takes in what a cohort brought; the sums depend on the order of cohorts.

        Raises:
            CalibrationError: the columns of a layer's inputs are not those of the cohorts before.
        """
        for number, one in brought.items():
            self._activations[number].gathered.take(one)

    def _feed(
        self, gathered: Gathered, reading: Reading, stops: Stops, samples: Iterable[int]
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
        self, gathered: Gathered, reading: Reading, stops: Stops, samples: Iterable[int]
    ) -> Iterator[Chunk]:
        """Yields what some samples bring."""
        (stop, dense), use, record = stops, reading.use, reading.record
        shown, kernel, crossed = stop.arguments(use.op), stop.kernel(use.op), gathered.crossed
        alone = len(stop.samples) == 1
        if crossed is not None and record.gathered:
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
            drifts: Sequence[Mapping[str, Array]] = [{} for _ in turns]
            if dense is not None and crossed is not None and crossed.followed:
                drifts = self._drifts(crossed, reading, turns, (stop, dense), sample)
            for number, arguments in enumerate(turns):
                chunks = self._inputs(sample, reading, kernel, arguments)
                chunks = gathered.noted(sample, chunks)
                if dense is not None and crossed is not None and not crossed.refusal:
                    others = self._inputs(sample, reading, dense.kernel(use.op), beside[number])
                    chunks = crossed.watched(chunks, others, drifts[number], is_held)
                for chunk in chunks:
                    if alone:
                        gathered.neighbours |= record.neighbours(arguments)
                        yield from halves(sample, next(count), chunk)
                    else:
                        yield Chunk(sample, chunk, is_held())

    def _drifts(
        self,
        crossed: Crossed,
        reading: Reading,
        turns: Sequence[Arguments],
        stops: tuple[Stop, Stop],
        sample: int,
    ) -> list[dict[str, Array]]:
        """Returns what streams of the dense model have over the pruned one's, each time of a use.

        One that is not there, or has another shape, is let go of.
        """
        drifts: list[dict[str, Array]] = [{} for _ in turns]
        assert reading.activation is not None  # it is summed
        streams = reading.activation.streams.items()
        for site, stream in (each for each in streams if each[0].name in crossed.followed):
            try:
                now, before = (_stream_at(stop, stream, sample) for stop in stops)
                for number, pair in enumerate(zip(before, now, turns, strict=True)):
                    drifts[number][site.name] = self._drift(reading, *pair)
            except (CalibrationError, NotApplicable):
                crossed.leave(site.name)
        return drifts

    def _drift(self, reading: Reading, before: Array, now: Array, arguments: Arguments) -> Array:
        """Returns what a stream of the dense model has over the other, as rows of outputs."""
        outputs = reading.record.outputs
        if outputs is None or now.shape != before.shape:
            raise NotApplicable("its stream is not of the outputs' shape")
        return outputs(self._backend.xp, before - now, arguments, reading.use.position)

    def _inputs(
        self,
        sample: int,
        reading: Reading,
        kernel: Kernel,
        arguments: Arguments,
    ) -> Iterator[Array]:
        """Yields the inputs of a use in the backend's arrays, where they are; counts in numpy's."""
        use, record = reading.use, reading.record
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
            self._open[reading.step.site] -= 1
            if not self._open[reading.step.site]:
                done.append(reading.step)
        return done

    def whole(self, done: Sequence[Step]) -> list[tuple[Step, Observed]]:
        """Returns what the samples told about sites that no later op reads, and forgets them."""
        whole = [(step, self._observed(step.site)) for step in done]
        for step in done:
            self.forget(step.site)
        return whole

    def _observed(self, site: Site) -> Observed:
        parts = [each.gathered for each in self._activations if site in each.users]
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
        """Returns what a site is to aim at."""
        crossed = [one.crossed for one in met if one.crossed is not None]
        found = aim_of(site, crossed, met[0].aim if len(met) == 1 else None, gram, parts)
        if len(met) == 1:
            met[0].aim = met[0].aim or found
        return found

    def forget(self, site: Site) -> None:
        """Lets go of all that only one site needs."""
        for each in self._activations:
            each.forget(site)


def _stream_at(stop: Stop, stream: Stream, sample: int) -> Sequence[Array]:
    """Returns what a stream is of a sample, at each step of a sequence.

    Raises:
        CalibrationError: it is not there.
    """
    *others, last = stream
    for value in others:
        with suppress(CalibrationError):  # not made yet under that name, or not read any more
            return stop.values(value)[sample]
    return stop.values(last)[sample]
