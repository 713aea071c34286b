"""Where the values of many samples live: in memory as far as a budget goes, the rest on disk."""

from __future__ import annotations

import tempfile
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from threading import Lock
from typing import IO, NamedTuple

import numpy as np
from numpy.typing import DTypeLike

from mlpass.arrays import Array
from mlpass.buffers import empty
from mlpass.files import naming_temporary
from mlpass.program.ir import Value
from mlpass.runtime.backends.base import Backend
from mlpass.runtime.constants import Constants
from mlpass.runtime.execute import Values
from mlpass.runtime.ops import Source


class SampleValues(Values):
    """One sample's values: those at hand, behind them what was spilled, behind them constants.

    Attributes:
        number: of the sample.
        dropped: what was let go since the spill was last told.
    """

    def __init__(self, constants: Constants, spill: Spill, number: int) -> None:
        """Holds nothing yet; `number` is the sample's."""
        super().__init__(constants)
        self._spill = spill
        self.number = number
        self.dropped: list[Value] = []

    def __missing__(self, source: Source) -> object:
        if isinstance(source, Value):
            array = self._spill.read(self.number, source)
            if array is not None:
                return array
        return super().__missing__(source)

    def pop(self, value: Source, default: object = None) -> object:
        """Lets go of a value, wherever it is; `Spill.note` is yet to be told."""
        if isinstance(value, Value):
            self.dropped.append(value)
        return super().pop(value, default)


class _Place(NamedTuple):
    """Where a sample's array is in the file of its value."""

    offset: int
    dtype: DTypeLike
    shape: tuple[int, ...]


class _File(NamedTuple):
    """A nameless file, which is gone with the process, and what is in it, by sample."""

    file: IO[bytes]
    places: dict[int, _Place]


class Spill:
    """Keeps the values of all samples within a budget of memory.

    What is needed last is written out first. Threads may share it.
    """

    def __init__(self, budget: int, backend: Backend, uses: Mapping[Value, Sequence[int]]) -> None:
        """Holds nothing yet."""
        self._budget = budget
        self._backend = backend
        self._uses = uses
        self._held: dict[Value, dict[int, SampleValues]] = {}
        self._sizes: dict[tuple[int, Value], int] = {}
        self._files: dict[Value, _File] = {}
        self._used = 0
        self._lock = Lock()

    def __enter__(self) -> Spill:
        return self

    def __exit__(self, *_: object) -> None:
        for spilled in self._files.values():
            spilled.file.close()
        self._files.clear()
        self._held.clear()
        self._sizes.clear()

    def note(self, samples: Sequence[SampleValues], made: Sequence[Value], step: int) -> None:
        """Counts what a step has made and let go of for some samples; spills what is too much.

        Raises:
            OSError: there is no room on the disk either.
        """
        with self._lock:
            for values in samples:
                for value in made:
                    size = getattr(values.get(value), "nbytes", 0)
                    if size:
                        self._held.setdefault(value, {})[values.number] = values
                        self._sizes[values.number, value] = size
                        self._used += size
                for value in values.dropped:
                    self._drop(values.number, value)
                values.dropped.clear()
            while self._used > self._budget and self._held:
                self._spill(max(self._held, key=lambda value: self._next_use(value, step)))

    def read(self, number: int, value: Value) -> Array | None:
        """Returns a spilled array of a sample, None where it was not spilled."""
        with self._lock:
            spilled = self._files.get(value)
            place = spilled.places.get(number) if spilled else None
            if spilled is None or place is None:
                return None
            array = empty(place.shape, place.dtype)
            spilled.file.seek(place.offset)
            spilled.file.readinto(memoryview(array.data).cast("B"))  # type: ignore[attr-defined]
        return self._backend.from_numpy(array)

    def _drop(self, number: int, value: Value) -> None:
        """Forgets a sample's value; its file is gone with the last."""
        self._used -= self._sizes.pop((number, value), 0)
        held = self._held.get(value)
        if held is not None:
            held.pop(number, None)
            if not held:
                del self._held[value]
        spilled = self._files.get(value)
        if spilled is not None:
            spilled.places.pop(number, None)
            if not spilled.places:
                spilled.file.close()
                del self._files[value]

    def _next_use(self, value: Value, step: int) -> float:
        uses = self._uses.get(value, ())
        index = bisect_right(uses, step)
        return uses[index] if index < len(uses) else float("inf")

    def _spill(self, value: Value) -> None:
        """Writes out a value of all samples that hold it."""
        with naming_temporary():
            self._write(value)

    def _write(self, value: Value) -> None:
        spilled = self._files.get(value)
        if spilled is None:
            spilled = self._files[value] = _File(tempfile.TemporaryFile(), {})  # noqa: SIM115
        offset = spilled.file.seek(0, 2)
        for number, values in self._held.pop(value).items():
            held = values.get(value)
            if held is None:
                continue  # its run, in another thread, has let go of it, and is yet to say so
            array = np.ascontiguousarray(self._backend.to_numpy(held))
            spilled.file.write(memoryview(array.data).cast("B"))
            spilled.places[number] = _Place(offset, array.dtype, array.shape)
            offset += array.nbytes
            dict.pop(values, value, None)
            self._used -= self._sizes.pop((number, value))
        spilled.file.flush()
