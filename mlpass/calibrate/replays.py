"""The replay of a model, and beside it that of the dense one where layers aim at it."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from itertools import repeat
from typing import TYPE_CHECKING

from mlpass.calibrate.calibration import Calibration
from mlpass.calibrate.outputs import interpreter_of
from mlpass.calibrate.sums import Stops
from mlpass.program.ir import Op
from mlpass.runtime.interpreter import Interpreter
from mlpass.runtime.replay import stops
from mlpass.runtime.stop import Stop
from mlpass.runtime.stretches import Among

if TYPE_CHECKING:
    from mlpass.program.mlmodel import ModelLike


def interpreters_of(model: ModelLike, calibration: Calibration) -> list[Interpreter]:
    """Returns what runs the model that is pruned, and where it is needed the dense one.

    Raises:
        UnsupportedOpError: ops without kernels, all named at once.
    """
    return [interpreter_of(model, calibration) for _ in range(1 + calibration.aims_at_dense)]


@contextmanager
def side_by_side(
    interpreters: Sequence[Interpreter],
    calibration: Calibration,
    wanted: Callable[[Op], bool],
    among: Among | None = None,
) -> Iterator[Iterator[Stops]]:
    """Opens the replays, which go on together, within what the memory allows both.

    The backend's session is entered.

    Args:
        interpreters: one or two of a model, from `interpreters_of`.
        calibration: with the samples.
        wanted: whether to stop at an op.
        among: as for `stops`.

    Raises:
        CalibrationError: the samples do not fit.
        ExecutionError: an op failed.
        OSError: the disk is full.
    """
    backend = interpreters[0].backend
    assert backend is not None  # Calibration refuses Core ML itself
    budget = calibration.memory_budget // len(interpreters)
    with backend.held(), backend.session(False), ExitStack() as opened:

        def replay(interpreter: Interpreter) -> Generator[Stop, None, None]:
            found = stops(
                interpreter, calibration.sample_data, wanted, memory_budget=budget, among=among
            )
            return opened.enter_context(closing(found))

        first, *second = map(replay, interpreters)
        yield zip(first, second[0], strict=True) if second else zip(first, repeat(None))
