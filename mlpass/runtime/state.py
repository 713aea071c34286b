"""The state of one conversation with a model: what its predictions keep from call to call."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from mlpass.errors import InputError, close_matches
from mlpass.runtime.backends.base import Backend
from mlpass.runtime.description import Feature
from mlpass.runtime.features import read_input, restored
from mlpass.runtime.kernels.states import Cell


class State:
    """Made by `Interpreter.make_state`; predictions given it read and write it."""

    def __init__(self, features: Mapping[str, Feature], backend: Backend) -> None:
        """Makes states of all zeros."""
        self._features = features
        self._backend = backend
        self.cells = {
            name: Cell(backend.from_numpy(np.zeros(feature.shape, np.float32)))
            for name, feature in features.items()
        }

    def __repr__(self) -> str:
        listed = ", ".join(f"{name}: {f.dtype} {f.shape}" for name, f in self._features.items())
        return f"State({listed})"

    def read_state(self, name: str) -> NDArray[np.generic]:
        """Returns a state's array, in its declared type.

        Raises:
            InputError: there is no such state.
        """
        feature = self._find(name)
        return np.array(restored(self._backend.to_numpy(self.cells[name].value), feature.dtype))

    def write_state(self, name: str, value: object) -> None:
        """Sets a state.

        Raises:
            InputError: there is no such state, or the value does not fit it.
        """
        feature = self._find(name)
        try:
            array = np.array(read_input(feature, value))
        except InputError as error:
            text = str(error).replace(f"input {name!r}", f"state {name!r}", 1)
            raise InputError(text) from error.__cause__
        self.cells[name].value = self._backend.from_numpy(array)

    def of(self, features: Mapping[str, Feature]) -> State:
        """Returns some of the states, as a function keeps them: what it writes is written here."""
        some = State({}, self._backend)
        some._features = features
        some.cells = {name: self.cells[name] for name in features}
        return some

    def _find(self, name: str) -> Feature:
        if name not in self._features:
            listed = ", ".join(map(repr, self._features)) or "none"
            near = close_matches(name, self._features) or "."
            raise InputError(f"there is no state {name!r}{near} The states are {listed}.")
        return self._features[name]
