"""The tuned regions of a run, kept beside its target: one file each, so that it can go on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mlpass.errors import CalibrationError
from mlpass.files import naming, whole_file
from mlpass.finetune.stored import StoredModule
from mlpass.finetune.tuning import Tuned
from mlpass.ledger import Ledger
from mlpass.runtime.samples import read_arrays, write_npz

_LOSSES = "losses"


class RegionJournal:
    """The finished regions of a run, in a folder; without one it keeps nothing."""

    def __init__(self, folder: Path | None = None, digest: str = "", *, resume: bool = False):
        """Opens the journal of a run.

        Args:
            folder: where it is kept.
            digest: of all that the result depends on.
            resume: whether to go on with what is there, rather than anew.

        Raises:
            CalibrationError: what is there is of another run, or of another version.
            OutputBusyError: another run is using it.
            OSError: it cannot be read or written.
        """
        self._ledger = None
        if folder is None:
            return
        with naming(folder.parent, folder):
            self._ledger = Ledger(folder, "*.npz")
            depends = "other models, options or samples"
            self._ledger.begin_run(Tuned._fields, digest, depends, resume=resume)

    def get(self, number: int, module: StoredModule, names: Sequence[str]) -> Tuned | None:
        """Returns what a finished region came to, once its module has its values; None without.

        Raises:
            CalibrationError: its file is broken.
        """
        path = self._path(number)
        if path is None or not path.is_file():
            return None
        arrays = read_arrays(path)
        try:
            before, after, kept, share = arrays[_LOSSES].tolist()
            for place, name in enumerate(names):
                parameter, array = module.get_parameter(name), arrays[str(place)]
                if array.shape != tuple(parameter.shape) or array.dtype != np.float32:
                    raise ValueError(f"{name} is {array.shape} {array.dtype}")
                with torch.no_grad():
                    parameter.copy_(torch.from_numpy(np.array(array)))
        except (LookupError, ValueError, TypeError) as error:
            raise CalibrationError(f"resume: {path} is broken, delete it: {error!r}") from None
        return Tuned(before, after, int(kept), share)

    def add(self, number: int, found: Tuned, module: StoredModule, names: Sequence[str]) -> None:
        """Notes a finished region and its values.

        Raises:
            OSError: it cannot be written.
        """
        path = self._path(number)
        if path is None:
            return
        arrays: dict[str, Any] = {
            str(place): module.get_parameter(name).detach().cpu().numpy()
            for place, name in enumerate(names)
        }
        arrays[_LOSSES] = np.array(found, np.float64)
        with whole_file(path, force=True) as building, building.open("wb") as file:
            write_npz(file, arrays)

    def readers(
        self, number: int, names: Sequence[str]
    ) -> dict[str, Callable[[], NDArray[np.float32]]]:
        """Returns by name what reads the values of a finished region, one at a time."""
        path = self._path(number)
        if path is None:
            return {}
        return {name: partial(_read, path, str(place)) for place, name in enumerate(names)}

    def __enter__(self) -> RegionJournal:
        return self

    def __exit__(self, kind: object, error: BaseException | None, _: object) -> None:
        """Deletes it when the run is done, or when it holds nothing to go on with."""
        if self._ledger is not None:
            self._ledger.close(error)

    def _path(self, number: int) -> Path | None:
        return None if self._ledger is None else self._ledger.folder / f"{number}.npz"


def _read(path: Path, key: str) -> NDArray[np.float32]:
    with np.load(path) as arrays:
        array: NDArray[np.float32] = arrays[key]
    return array
