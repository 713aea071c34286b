"""A backend: an array namespace, with the ways into it and out of it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mlpass.arrays import Array, Namespace
from mlpass.blas import one_blas_thread


@dataclass(frozen=True)
class Backend:
    """Where kernels run.

    Attributes:
        name: as kernels are registered for it.
        xp: its array API namespace.
        from_numpy: makes its array of a numpy array, which may share memory.
        to_numpy: the other way round.
        session: makes the context that kernels run in; its argument says whether gradients are
            wanted.
        held: makes the context in which its bits do not depend on the number of cores.
    """

    name: str
    xp: Namespace
    from_numpy: Callable[[NDArray[np.generic]], Array]
    to_numpy: Callable[[Array], NDArray[np.generic]]
    session: Callable[[bool], AbstractContextManager[object]] = nullcontext
    held: Callable[[], AbstractContextManager[object]] = one_blas_thread
