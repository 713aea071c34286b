"""Torch tensors where arrays are taken: known without importing torch, and brought across.

Solvers work where the data is. A tensor in the host's memory is a numpy array at the same time, and
numpy's form of a solver is the faster one on processors: so it is read as such, without a copy. On
any other device all is done with torch.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Devices whose tensors numpy reads in place.
_SHARED = frozenset({"cpu"})
# Devices without fp64.
_SINGLE = frozenset({"mps"})


def is_tensor(array: Any) -> bool:
    """Returns whether it is torch's; who has one has imported torch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(array, torch.Tensor)


def taken(array: Any) -> Any:
    """Returns an array as it is worked on: as numpy's, but for tensors of other devices."""
    if is_tensor(array) and array.device.type in _SHARED:
        return host(array)
    return array.detach() if is_tensor(array) else array


def host(array: Any) -> NDArray[Any]:
    """Returns a numpy array of an array's values; it may share their memory."""
    if not is_tensor(array):
        return np.asarray(array)
    # numpy has no bfloat16, the one float of two bytes whose mantissa is that short.
    narrow = array.is_floating_point() and str(array.dtype) == "torch.bfloat16"
    return np.asarray((array.float() if narrow else array).detach().cpu().numpy())


def placed(array: Any, like: Any) -> Any:
    """Returns an array's values as an array of the kind, and on the device, of `like`."""
    if not is_tensor(like):
        return host(array)
    if not is_tensor(array):
        import torch

        array = np.ascontiguousarray(array)
        array = torch.from_numpy(array if array.flags.writeable else array.copy())
    if array.is_floating_point() and array.itemsize > 4 and not has_double(like):
        array = array.float()
    return array.to(like.device)


def has_double(tensor: Any) -> bool:
    """Returns whether a tensor's device knows fp64."""
    return tensor.device.type not in _SINGLE
