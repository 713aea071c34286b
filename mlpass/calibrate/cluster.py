"""One calibrated run on many workers: each replays its share of the samples.

An executor runs one task a worker, which lasts as long as the run, keeps its replay in memory from
stop to stop, and talks to this process over a connection: so the engine need not know what it
holds. At a stop the sums of all cohorts of samples are added in their order, sites are solved for
here, and their weights go out. Which worker has which cohorts changes nothing in any sum. A worker
that dies is followed by another, which runs its samples again up to where the others are.
"""

from __future__ import annotations

import os
import pickle
import queue
import socket
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Executor, Future, wait
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from itertools import pairwise
from multiprocessing import AuthenticationError
from multiprocessing.connection import Listener
from pathlib import Path
from threading import Event, Thread
from time import monotonic
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from mlpass.calibrate.calibration import Calibration
from mlpass.calibrate.met import Met
from mlpass.calibrate.outputs import interpreter_of
from mlpass.calibrate.sums import Brought, SiteGrams
from mlpass.calibrate.wire import LOST, Moved, Task, Weights, Wire, serve
from mlpass.errors import ConfigError, ExecutionError, MlpassError, told
from mlpass.files import temporary_folder
from mlpass.plan.steps import Step
from mlpass.program.chunks import Chunks
from mlpass.program.hosted import HostedPackage
from mlpass.program.mlpackage import Package
from mlpass.runtime.doubts import warn_of
from mlpass.runtime.given import given_steps
from mlpass.runtime.stretches import Among, cohorts_of
from mlpass.solvers.wanda import Magnitude
from mlpass.weights.sites import Site

if TYPE_CHECKING:
    from mlpass.program.mlmodel import ModelLike

_PATIENCE = 60.0  # seconds for workers to begin
_LOOK = 0.2  # seconds after which it is seen whether they still may
_GRACE = 5.0  # seconds for them to end
_SILENCE = 60  # seconds, after which a machine is asked whether it is still there
_LIVES = 3  # workers that may die at the same samples


def walk_divided(
    model: ModelLike,
    steps: Sequence[Step],
    calibration: Calibration,
    known: Callable[[Site], bool],
    moved: Moved | None = None,
) -> Generator[Met, None, None]:
    """Yields what `walk` yields, with the samples divided among the workers of an executor.

    Args:
        model: an open package.
        steps: as for `walk`.
        calibration: with an executor.
        known: as for `walk`.
        moved: counts bytes; None where nobody asks.

    Raises:
        ConfigError: the model is not an open package.
        CalibrationError: as `walk`, and likewise the others.
        ExecutionError: no worker began, or one failed.
    """
    if not isinstance(model, Package) or isinstance(model, HostedPackage | Chunks) or model.added:
        raise ConfigError(
            "executor: workers are sent an .mlpackage. For a list, a Program, a .pte, or a package "
            "that is raised on the way, drop it"
        )
    assert calibration.executor is not None
    interpreter = interpreter_of(model, calibration)
    samples = calibration.sample_data
    given = given_steps(samples, interpreter)
    warn_of(interpreter, samples)
    cohorts = cohorts_of(len(samples))
    dense = calibration.aims_at_dense
    grams = SiteGrams(steps, interpreter, known, cohorts, dense)
    wanted = {step.site.name: step for step in steps if step.prunes}
    task = Task(
        [(str(path.relative_to(model.path)), path.stat().st_size) for path in model.files],
        model.spec.SerializeToString() if model.edited else None,
        list(wanted),
        frozenset(name for name, step in wanted.items() if known(step.site)),
        replace(
            calibration,
            method=Magnitude(),
            target="dense" if dense else "own",
            executor=None,
            dense_grams=None,
        ),
        Among(0, [len(one) for one in given]),
        0,
    )
    opened = _opened(calibration.executor, len(cohorts), moved or Moved())
    with temporary_folder() as folder, opened as (team, wires):
        past, members = _Past(folder), []
        edges = [len(cohorts) * number // len(wires) for number in range(len(wires) + 1)]
        for wire, some in zip(wires, pairwise(edges), strict=True):
            own = slice(cohorts[some[0]].start, cohorts[some[1] - 1].stop)
            share = task._replace(
                calibration=replace(task.calibration, sample_data=samples[own]),
                among=task.among._replace(first=own.start),
            )
            members.append(_Member(team, wire, model, share, past))
        for member in members:
            member.begin()
        while (done := _next_stop(members, grams)) is not None:
            weights: Weights = {}
            yield Met(grams.whole([wanted[name] for name in done]), partial(_note, weights))
            past.add(weights)
            for member in members:
                member.go_on(weights)


def _next_stop(members: Sequence[_Member], grams: SiteGrams) -> list[str] | None:
    """Sums what all bring at the next stop; returns the whole sites, None past the last."""
    done = None
    for member in members:  # in the order of their cohorts
        for found in member.at_stop():
            if isinstance(found, dict):
                grams.take(found)
            else:
                done = found
    return done


def _note(weights: Weights, site: Site, weight: NDArray[np.generic]) -> None:
    weights[site.name] = weight


class _Past:
    """The weights of all stops so far, on disk: for a worker that has to catch up."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.count = 0

    def add(self, weights: Weights) -> None:
        """Keeps those of one more stop."""
        (self._folder / str(self.count)).write_bytes(pickle.dumps(weights))
        self.count += 1

    def __iter__(self) -> Iterator[Weights]:
        for number in range(self.count):
            yield pickle.loads((self._folder / str(number)).read_bytes())


class _Member:
    """A share of the samples, whoever replays it."""

    def __init__(self, team: _Team, wire: Wire, package: Package, task: Task, past: _Past) -> None:
        self._team, self._wire, self._package = team, wire, package
        self._task, self._past = task, past
        self._lives = _LIVES

    def begin(self) -> None:
        """Sends a worker all that it needs, and what the others have behind them."""
        try:
            self._tell()
        except LOST as error:
            self._follow(error)

    def at_stop(self) -> Iterator[Brought | list[str] | None]:
        """Yields what each cohort brings at the next stop, then the names of sites that are whole.

        Only None comes after the last stop.
        """
        taken = seen = 0
        while True:
            try:
                found, nbytes = self._wire.receive()
            except LOST as error:
                seen = 0
                self._follow(error)
                continue
            if isinstance(found, MlpassError):
                raise found
            if isinstance(found, Exception):
                raise ExecutionError(f"executor: a worker failed: {found}")
            self._team.moved.sums += nbytes
            if not isinstance(found, dict):
                assert found is None or isinstance(found, list)
                yield found
                return
            seen += 1
            if seen > taken:  # or it is known from one that died
                taken = seen
                yield found

    def go_on(self, weights: Weights) -> None:
        """Sends the weights with which the replay goes on."""
        try:
            self._team.moved.weights += self._wire.send(weights)
        except LOST as error:
            self._follow(error)

    def _tell(self) -> None:
        moved, package = self._team.moved, self._package
        moved.samples += self._wire.send(self._task._replace(past=self._past.count))
        for name, size in self._task.files:
            self._wire.send_file(package.path / name)
            moved.models += size
        for weights in self._past:
            moved.weights += self._wire.send(weights)

    def _follow(self, error: BaseException) -> None:
        """Has another worker take the place of one that died."""
        while self._lives:
            self._lives -= 1
            self._wire.close()
            self._wire = self._team.another()
            try:
                self._tell()
                return
            except LOST as again:
                error = again
        raise ExecutionError(
            f"executor: {_LIVES} workers died at the same samples ({told(error)}); look at their "
            "memory, and go on with resume"
        )


class _Team:
    """Workers that an executor runs, as they connect."""

    def __init__(self, executor: Executor, listener: Listener, key: bytes, moved: Moved) -> None:
        self.moved = moved
        self._executor, self._listener, self._key = executor, listener, key
        self._came: queue.Queue[Wire] = queue.Queue()
        self._over = Event()
        self._wires: list[Wire] = []
        self._futures: list[Future[None]] = []
        self._calls = 0
        self._begun: set[object] = set()
        Thread(target=self._accept, daemon=True).start()

    def gather(self, count: int) -> list[Wire]:
        """Returns connections to as many workers, or to those that began in time."""
        problem: BaseException | None = None
        try:
            for _ in range(count):
                self._call()
        except RuntimeError as error:  # broken, or shut down
            problem = error
        found: list[Wire] = []
        while len(found) < len(self._futures) and (wire := self._next(self._futures)) is not None:
            found.append(wire)
        if not found:
            failed = (future.exception() for future in self._futures if future.done())
            problem = problem or next(failed, None)
            why = f"in {_PATIENCE:g} seconds" if problem is None else f"({told(problem)})"
            raise ExecutionError(
                f"executor: no worker began {why}; workers need mlpass, and a way to this process "
                f"at {self._listener.address[0]}"
            )
        return found

    def another(self) -> Wire:
        """Returns a connection to one more worker; the last resort is this process."""
        with suppress(RuntimeError):
            self._call()
            if (wire := self._next(self._futures[-1:])) is not None:
                return wire
        warnings.warn("executor: its workers are gone; their samples go on here", stacklevel=2)
        Thread(target=serve, args=self._given(), daemon=True).start()
        wire = self._next(())
        assert wire is not None  # it is this process
        return wire

    def close(self) -> None:
        """Lets all workers go."""
        self._over.set()
        with suppress(OSError):  # wakes what accepts, or nobody: so it waits for no answer
            socket.create_connection(self._listener.address, _PATIENCE).close()
        self._listener.close()
        while not self._came.empty():
            self._came.get()
        for wire in self._wires:
            wire.close()
        for future in self._futures:
            future.cancel()
        wait(self._futures, timeout=_GRACE)

    def _call(self) -> None:
        self._futures.append(self._executor.submit(serve, *self._given()))

    def _given(self) -> tuple[tuple[str, int], bytes, int]:
        """Returns what `serve` is given, each time another number: dask runs equal calls once."""
        self._calls += 1
        return self._listener.address, self._key, self._calls

    def _next(self, coming: Sequence[Future[None]]) -> Wire | None:
        """Returns the next connection; None where too long none comes, or none can any more."""
        end = monotonic() + _PATIENCE
        while monotonic() < end:
            try:
                return self._came.get(timeout=_LOOK)
            except queue.Empty:
                if coming and all(future.done() for future in coming):
                    return None
        return None

    def _accept(self) -> None:
        while not self._over.is_set():
            try:
                connection = self._listener.accept()
            except (*LOST, AuthenticationError):
                continue
            _keep_alive(connection.fileno())
            wire = Wire(connection)
            self._wires.append(wire)
            if self._over.is_set():  # perhaps after all others were closed
                wire.close()
                return
            with suppress(*LOST):
                call, _ = wire.receive()
                if call in self._begun:  # its worker died, and dask runs it again
                    wire.close()
                else:
                    self._begun.add(call)
                    self._came.put(wire)


@contextmanager
def _opened(executor: Executor, most: int, moved: Moved) -> Iterator[tuple[_Team, list[Wire]]]:
    """Opens connections to the workers of an executor, `most` at most."""
    client = getattr(executor, "_client", None)  # dask's
    host = "127.0.0.1" if client is None else _host_towards(client.scheduler.address)
    count = getattr(executor, "_max_workers", 1) if client is None else len(client.ncores())
    key = os.urandom(16)
    with Listener((host, 0), backlog=2 * most, authkey=key) as listener:
        team = _Team(executor, listener, key, moved)
        try:
            yield team, team.gather(max(1, min(count, most)))
        finally:
            team.close()


def _host_towards(address: str) -> str:
    """Returns the address of this machine by which those near another find it."""
    host = urlsplit(address).hostname
    if host is None or not address.startswith(("tcp", "tls")):
        return "127.0.0.1"  # of this process
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as towards:
        towards.connect((host, 9))  # sends nothing
        return str(towards.getsockname()[0])


def _keep_alive(number: int) -> None:
    """Has a connection end when the other machine is gone without a word."""
    with socket.socket(fileno=os.dup(number)) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        idle = getattr(socket, "TCP_KEEPIDLE", getattr(socket, "TCP_KEEPALIVE", None))
        if idle is not None:
            connection.setsockopt(socket.IPPROTO_TCP, idle, _SILENCE)
