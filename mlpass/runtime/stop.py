"""A stop of a replay: what all samples bring to an op, before it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlpass.errors import CalibrationError
from mlpass.halves import widened
from mlpass.program.ir import Op, Value
from mlpass.runtime.backends.base import Backend
from mlpass.runtime.constants import Constants
from mlpass.runtime.kernels.registry import Arguments, Kernel

# Given an op and the number of a sample, returns what it is given, each time that it runs.
Show = Callable[[Op, int], Sequence[Arguments]]
# Given a value and the number of a sample, returns what it is, at each step of a sequence.
Read = Callable[[Value, int], Sequence[object]]


class Own(NamedTuple):
    """What a program has of its own: what it states, where it runs, the kernel of each op."""

    constants: Constants
    backend: Backend
    kernels: Mapping[Op, Kernel]


class Stop:
    """Where all samples are at one moment; over as soon as the next stop is asked for.

    Attributes:
        ops: what runs next, in order, those of nested blocks included; at the last stop, all that
            is left of the program.
        wanted: those of them whose arguments can be asked for.
        samples: the number of each sample.
        constants: what the program states, replaced weights included.
    """

    def __init__(
        self,
        ops: Sequence[Op],
        wanted: Sequence[Op],
        samples: range,
        show: Show,
        read: Read,
        own: Own,
    ) -> None:
        """Is made by a replay, which ends it."""
        self.ops = ops
        self.wanted = wanted
        self.samples = samples
        self.constants = own.constants
        self._own = own
        self._show: Show | None = show
        self._read = read

    def kernel(self, op: Op) -> Kernel:
        """Returns the kernel of an op that runs next."""
        return self._own.kernels[op]

    def arguments(self, op: Op) -> Mapping[int, Sequence[Arguments]]:
        """Returns what the kernel of a wanted op is given, by the number of the sample.

        That is once for each time that the op runs: several times in a loop, and never in a branch
        that is not taken. It is read when it is asked for; control flow is then rehearsed, so that
        it is best to ask for all ops of one sample before the next.

        Raises:
            CalibrationError: the stop is over, or the op is not wanted here.
        """
        self._shown()
        if op not in self.wanted:
            raise CalibrationError(f"replay: {op.name!r} is not among the wanted ops of this stop")
        return _ByNumber(self.samples, lambda number: self._shown()(op, number))

    def values(self, value: Value) -> Mapping[int, Sequence[Any]]:
        """Returns what a value is, at each step of a sequence, by the number of the sample.

        Outputs of the programs before are there too, as they are handed on.

        Raises:
            CalibrationError: the stop is over; or, once it is read, it is not made yet, or nothing
                reads it any more; or steps of a sequence hang together there.
        """
        self._shown()

        def read(number: int) -> Sequence[object]:
            self._shown()
            return self._read(value, number)

        return _ByNumber(self.samples, read)

    def replace(self, value: Value, array: NDArray[np.generic]) -> None:
        """Replaces a constant with `array` from now on, for all samples.

        Raises:
            CalibrationError: the stop is over, or the value is not a constant of this program.
        """
        self._shown()
        if value not in self.constants:
            raise CalibrationError(f"replay: {value.name!r} is not a constant of this program")
        self.constants.replace(value, self._own.backend.from_numpy(widened(array)))

    def end(self) -> None:
        """Lets go of the samples: nothing can be asked for any more."""
        self._show = None

    def _shown(self) -> Show:
        if self._show is None:
            raise CalibrationError(
                "replay: this stop is over; ask for arguments, and replace weights, before the "
                "next stop, while the iterator lives"
            )
        return self._show


class _ByNumber(Mapping[int, Any]):
    """A mapping from numbers to what a function returns for them."""

    def __init__(self, numbers: range, show: Callable[[int], object]) -> None:
        self._numbers = numbers
        self._show = show

    def __getitem__(self, number: int) -> object:
        if number not in self._numbers:
            raise KeyError(number)
        return self._show(number)

    def __iter__(self) -> Iterator[int]:
        return iter(self._numbers)

    def __len__(self) -> int:
        return len(self._numbers)
