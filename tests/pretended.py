"""A device that is not there: its tensors refuse what a Mac's GPU would refuse.

Their values are kept in ordinary tensors. Refused is whatever such a device could not do: to be
read by numpy, to be joined with a tensor on the processor, to be fp64, and any op that is said to
have no kernel there. torch knows the device's name, `lazy`, and has nothing behind it here.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

NAME = "lazy"
# Ops that take tensors of two places.
_CROSSING = ("_to_copy", "copy_", "to")


class Far(torch.Tensor):
    """A tensor of the device."""

    inner: torch.Tensor

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> Far:
        return torch.Tensor._make_wrapper_subclass(
            cls, inner.shape, strides=inner.stride(), dtype=inner.dtype, device=NAME
        )

    def __init__(self, inner: torch.Tensor) -> None:
        self.inner = inner

    def tolist(self) -> Any:
        """Returns a list; torch's own knows no subclasses."""
        return self.inner.tolist()

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return _run(function, args, kwargs or {}, ())


class Pretending(TorchDispatchMode):
    """The context in which there is such a device.

    Args:
        missing: names of aten's ops without kernels for it.

    Attributes:
        fetched: shapes of what was copied from it.
    """

    def __init__(self, missing: Collection[str] = ()) -> None:
        super().__init__()
        self.missing = missing
        self.fetched: list[tuple[int, ...]] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = _run(function, args, kwargs or {}, self.missing)
        is_copy = function.overloadpacket.__name__ in _CROSSING and isinstance(args[0], Far)
        if is_copy and not isinstance(result, Far):
            self.fetched.append(tuple(result.shape))
        return result


def far(array: Any) -> torch.Tensor:
    """Returns a copy of numpy's array on the device; within `Pretending` only."""
    return torch.from_numpy(array.copy()).to(NAME)


def _run(function: Any, args: Any, kwargs: Any, missing: Collection[str]) -> Any:
    name = function.overloadpacket.__name__
    leaves = tree_leaves((args, kwargs))
    tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
    ours = [tensor for tensor in tensors if isinstance(tensor, Far)]
    if ours and name in missing:
        raise NotImplementedError(f"aten::{name} is not implemented for this device")
    if ours and name not in _CROSSING:
        for tensor in tensors:
            # Numbers come as tensors without axes.
            assert isinstance(tensor, Far) or tensor.ndim == 0, f"{name}: one is on the processor"
    devices = [leaf for leaf in leaves if isinstance(leaf, torch.device)]
    result_is_ours = devices[0].type == NAME if devices else bool(ours)
    result = function(*tree_map(_plain, args), **tree_map(_plain, kwargs))
    known = {id(tensor.inner): tensor for tensor in ours}

    def wrap(each: Any) -> Any:
        if not isinstance(each, torch.Tensor) or not result_is_ours:
            return each
        assert each.dtype != torch.float64, f"{name}: there is no fp64"
        return known[id(each)] if id(each) in known else Far(each)

    return tree_map(wrap, result)


def _plain(each: Any) -> Any:
    if isinstance(each, torch.device):
        return torch.device("cpu")
    return each.inner if isinstance(each, Far) else each
