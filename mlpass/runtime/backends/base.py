"""Opens a backend by its name, with all its kernels registered."""

from __future__ import annotations

import importlib
import pkgutil
from contextlib import AbstractContextManager
from typing import cast

import numpy as np

from mlpass.arrays import Namespace
from mlpass.errors import BackendError, ConfigError, close_matches
from mlpass.runtime import kernels
from mlpass.runtime.backends.backend import Backend as Backend

NAMES = ("numpy", "torch", "coreml")


def open_backend(name: str, device: str | None = None) -> Backend:
    """Returns the backend `name` with all its kernels registered.

    Args:
        name: "numpy" or "torch".
        device: torch's, "cpu" where None.

    Raises:
        ConfigError: there is no such backend, or it knows no devices.
        BackendError: torch is not installed, or has no such device here.
    """
    if name == "numpy":
        if device not in (None, "cpu"):
            raise ConfigError(f"device: the numpy backend only runs on the cpu. Got {device!r}.")
        backend = Backend("numpy", cast(Namespace, np), np.asarray, np.asarray, _quietly)
    elif name == "torch":
        try:
            from mlpass.runtime.backends.torch import torch_backend
        except ModuleNotFoundError as error:
            raise BackendError(f"backend 'torch' needs {error.name}: pip install torch") from None
        backend = torch_backend(device or "cpu")
    else:
        raise ConfigError(
            f"backend: must be one of {', '.join(map(repr, NAMES))}. "
            f"Got {name!r}{close_matches(str(name), NAMES) or '.'}"
        )
    load_kernels(name)
    return backend


def _quietly(gradients: bool) -> AbstractContextManager[object]:
    """Returns numpy's session: inf and NaN come and go without a word, as on any backend."""
    return np.errstate(all="ignore")


def load_kernels(name: str) -> None:
    """Imports every module of kernels, and those that are the backend's own."""
    for module in pkgutil.iter_modules(kernels.__path__):
        importlib.import_module(f"{kernels.__name__}.{module.name}")
    package = importlib.import_module("mlpass.runtime.backends")
    for module in pkgutil.iter_modules(package.__path__):
        if module.name.startswith(f"{name}_"):
            importlib.import_module(f"{package.__name__}.{module.name}")
