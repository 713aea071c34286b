"""torch as a backend: importing this module imports torch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import cast

import array_api_compat.torch as xp
import numpy as np
import torch
from numpy.typing import NDArray

from mlpass.arrays import Namespace
from mlpass.blas import one_blas_thread
from mlpass.errors import BackendError
from mlpass.runtime.backends.backend import Backend
from mlpass.runtime.backends.threads import fixed_threads


def torch_backend(device: str) -> Backend:
    """Returns torch on `device`.

    Raises:
        BackendError: torch has no such device here.
    """
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise BackendError(f"device {device!r}: torch cannot use it here: {reason}") from None
    place = torch.device(device)

    def from_numpy(array: NDArray[np.generic]) -> torch.Tensor:
        # torch warns of read-only memory, and refuses negative strides and foreign byte order.
        if not array.flags.writeable or any(stride < 0 for stride in array.strides):
            array = array.copy()
        return torch.from_numpy(np.ascontiguousarray(array).reshape(array.shape)).to(place)

    def to_numpy(tensor: object) -> NDArray[np.generic]:
        if isinstance(tensor, torch.Tensor):
            return np.asarray(tensor.detach().cpu().resolve_conj().resolve_neg().numpy())
        return np.asarray(tensor)

    def session(gradients: bool) -> AbstractContextManager[object]:
        mode = nullcontext() if gradients else torch.inference_mode()
        # Arrays that kernels make are to be where their arguments are.
        return mode if place.type == "cpu" else _both(mode, place)

    def held() -> AbstractContextManager[object]:
        return _both(one_blas_thread(), fixed_threads())

    return Backend("torch", cast(Namespace, xp), from_numpy, to_numpy, session, held)


@contextmanager
def _both(
    first: AbstractContextManager[object], second: AbstractContextManager[object]
) -> Iterator[None]:
    with first, second:
        yield
