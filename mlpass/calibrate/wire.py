"""What goes between the process that prunes and the workers that replay samples for it."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Client, Connection
from pathlib import Path
from typing import NamedTuple, TypeAlias
from warnings import catch_warnings, simplefilter

import numpy as np
from numpy.typing import NDArray

from mlpass.calibrate.calibration import Calibration
from mlpass.calibrate.met import naming_origin, put
from mlpass.calibrate.replays import interpreters_of, side_by_side
from mlpass.calibrate.sums import SiteGrams
from mlpass.errors import MlpassError, SampleWarning
from mlpass.files import temporary_folder
from mlpass.plan.steps import Step
from mlpass.program.mlpackage import Package
from mlpass.program.proto import Model
from mlpass.runtime.stretches import Among, cohorts_of
from mlpass.sparsity.modes import Percentile
from mlpass.weights.sites import find_sites

_PIECE = 1 << 26  # bytes of a file that go at once
LOST = (EOFError, OSError)  # what a connection raises whose other end is gone

# The weight that each site whole at a stop goes on with, by its name; those that stay are left out.
Weights: TypeAlias = dict[str, NDArray[np.generic]]


class Task(NamedTuple):
    """What a worker is to do, all that it is told before the first stop.

    Attributes:
        files: the path within the package of each of its files, and its size; they come next.
        message: of the model, where it was edited since it was read.
        names: of the sites that have a step.
        known: of those whose Gram is not needed.
        calibration: with the samples of this worker alone.
        among: where they are in the run.
        past: how many stops the run has behind it; the weights of each come next.
    """

    files: Sequence[tuple[str, int]]
    message: bytes | None
    names: Sequence[str]
    known: frozenset[str]
    calibration: Calibration
    among: Among
    past: int


@dataclass
class Moved:
    """Bytes that went over connections, by what they were."""

    models: int = 0
    samples: int = 0
    sums: int = 0
    weights: int = 0


class Wire:
    """One end of a connection. Messages are pickled: whoever connects knows the key of the run."""

    def __init__(self, connection: Connection) -> None:
        """Takes over an open connection."""
        self._connection = connection

    def send(self, message: object) -> int:
        """Sends a message, and returns its bytes.

        Raises:
            OSError: the other end is gone.
        """
        data = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
        self._connection.send_bytes(data)
        return len(data)

    def receive(self) -> tuple[object, int]:
        """Returns the next message, and its bytes.

        Raises:
            EOFError: the other end is gone.
            OSError: likewise.
        """
        data = self._connection.recv_bytes()
        return pickle.loads(data), len(data)

    def send_file(self, path: Path) -> None:
        """Sends the content of a file."""
        with path.open("rb") as file:
            while piece := file.read(_PIECE):
                self._connection.send_bytes(piece)

    def receive_file(self, path: Path, size: int) -> None:
        """Writes what `send_file` sends."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            while file.tell() < size:
                file.write(self._connection.recv_bytes())

    def close(self) -> None:
        """Closes it."""
        with suppress(OSError):
            self._connection.close()


def serve(address: tuple[str, int], key: bytes, call: int) -> None:
    """Replays samples for the process at `address`, until it is done or gone: the worker's side.

    Args:
        address: host and port.
        key: of the run.
        call: a number; the run lets a call begin only once.
    """
    if "distributed" in sys.modules:
        from distributed import secede

        with suppress(ValueError):  # it is not a task of dask
            secede()  # type: ignore[no-untyped-call]  # it waits more than it works
    try:
        wire = Wire(Client(address, authkey=key))
    except LOST:  # the run is over
        return
    try:
        wire.send(call)
        with catch_warnings(), temporary_folder() as folder:
            simplefilter("ignore", SampleWarning)  # said where the run began
            _work(wire, folder / "model.mlpackage")
    except LOST:
        return
    finally:
        wire.close()


def _work(wire: Wire, path: Path) -> None:
    """Does a task, and says what keeps it from that."""
    task, _ = wire.receive()
    assert isinstance(task, Task)
    for name, size in task.files:
        wire.receive_file(path / name, size)
    spec = None if task.message is None else Model.FromString(task.message)
    try:
        with Package(path, spec) as package:
            _walk(wire, package, task)
        wire.send(None)
    except MlpassError as error:
        wire.send(error)
        wire.receive()  # until the other end is closed
    except LOST:
        raise
    except Exception as error:
        wire.send(RuntimeError(f"{type(error).__name__}: {error}"))
        wire.receive()


def _walk(wire: Wire, package: Package, task: Task) -> None:
    """Goes from stop to stop: says what samples bring, and goes on with the weights that it gets.

    What the run has behind it is only run through, with the weights that came of it.
    """
    calibration, among = task.calibration, task.among
    sites = {site.name: site for site in find_sites(package.programs)}
    interpreters = interpreters_of(package, calibration)
    own = range(among.first, among.first + len(calibration.sample_data))
    grams = SiteGrams(
        [Step(sites[name], Percentile(0), None) for name in task.names],
        interpreters[0],
        lambda site: site.name in task.known,
        [cohort for cohort in cohorts_of(len(among.steps)) if cohort.start in own],
        calibration.aims_at_dense,
    )
    with (
        side_by_side(interpreters, calibration, grams.wants, among) as pairs,
        naming_origin(package, calibration, among.first),
    ):
        for number, (stop, dense) in enumerate(pairs):
            done = [step.site for step in grams.done(stop.ops)]
            if number >= task.past:
                for brought in grams.bring(stop, dense):
                    wire.send(brought)
                wire.send([site.name for site in done])
            weights, _ = wire.receive()
            assert isinstance(weights, dict)
            for name, weight in weights.items():
                put(stop, sites[name], weight)
            for site in done:
                grams.forget(site)
