"""What a long run has finished so far, kept beside its target, so that it can go on after it died.

One file a layer. A digest of all that the result depends on tells whether it is of the same run.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mlpass.arrays import HostArray
from mlpass.calibrate.calibration import Calibration
from mlpass.errors import CalibrationError
from mlpass.files import whole_file
from mlpass.ledger import Ledger
from mlpass.program.dtypes import BY_NAME
from mlpass.program.mlpackage import Package
from mlpass.runtime.digests import digest_of
from mlpass.runtime.samples import read_arrays, write_npz
from mlpass.solvers.solve import Solution
from mlpass.weights.sites import Site

_PART = "part:"  # before the name of each of a solution's parts


class Finished(NamedTuple):
    """A layer's solution, on how many samples and input rows, and what it aims at, where told.

    `int8` is the error of a cheaper form that is better: see `calibrate.cheaper`.
    """

    solution: Solution[HostArray]
    samples: int
    tokens: int
    target: str | None = None
    int8: float | None = None


class Journal:
    """The finished layers of a run, in a folder; without one it keeps nothing."""

    def __init__(self, folder: Path | None = None, digest: str = "", *, resume: bool = False):
        """Opens the journal of a run.

        Raises:
            CalibrationError: what is there is of another run, or of another version.
            OutputBusyError: another run is using it.
            OSError: it cannot be read or written.
        """
        self._ledger = None if folder is None else Ledger(folder, "*.npz")
        self._numbers: dict[Site, int] = {}
        if self._ledger is None:
            return
        names = [field.name for field in fields(Solution)]
        depends = "another model, config, method or samples"
        self._ledger.begin_run(names, digest, depends, resume=resume)

    def number(self, sites: Iterable[Site]) -> None:
        """Numbers the sites of the run; their files are named by these numbers."""
        self._numbers = {site: number for number, site in enumerate(sites)}

    def __contains__(self, site: object) -> bool:
        return isinstance(site, Site) and self._ledger is not None and self._path(site).is_file()

    def get(self, site: Site) -> Finished | None:
        """Returns a finished layer, None where it is not.

        Raises:
            CalibrationError: its file is broken.
        """
        if site not in self:
            return None
        arrays = read_arrays(self._path(site))
        try:
            samples, tokens = int(arrays.pop("samples")), int(arrays.pop("tokens"))
            named = [name for name in arrays if name.startswith(_PART)]
            parts = {name.removeprefix(_PART): arrays.pop(name) for name in named}
            values: dict[str, Any] = {
                name: value if value.ndim else value.item() for name, value in arrays.items()
            }
            target, int8 = values.pop("target", None), values.pop("int8", None)
            found = Solution(**values, parts=parts)
            _check(found, site)
            return Finished(found, samples, tokens, target, int8)
        except (LookupError, ValueError, TypeError, AttributeError) as error:
            raise self.broken(site, error) from None

    def broken(self, site: Site, error: Exception) -> CalibrationError:
        """Returns an error that says of a finished layer's file that it is broken."""
        return CalibrationError(f"resume: {self._path(site)} is broken, delete it: {error!r}")

    def add(self, site: Site, finished: Finished) -> None:
        """Notes a finished layer.

        Raises:
            OSError: it cannot be written.
        """
        if self._ledger is None:
            return
        told = {**vars(finished.solution), **finished._asdict()}
        content = {name: value for name, value in told.items() if value is not None}
        del content["solution"]
        content |= {_PART + name: part for name, part in content.pop("parts").items()}
        with whole_file(self._path(site), force=True) as building, building.open("wb") as file:
            write_npz(file, content)

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, kind: object, error: BaseException | None, _: object) -> None:
        """Deletes it when the run is done, or when it holds nothing to go on with."""
        if self._ledger is not None:
            self._ledger.close(error)

    def _path(self, site: Site) -> Path:
        assert self._ledger is not None  # asked before
        return self._ledger.folder / f"{self._numbers[site]}.npz"


def digest_of_run(
    package: Package, settings: Mapping[str, object], calibration: Calibration
) -> str:
    """Returns a digest of all that what becomes of a package depends on.

    Raises:
        OSError: a file is gone.
    """
    told = {**settings, **calibration.settings, "function": package.function_name}
    if package.edited:  # then its files do not tell all
        told["message"] = package.message_digest()
    return digest_of(package.files, told, calibration.sample_data)


def _check(found: Solution[HostArray], site: Site) -> None:
    """Raises ValueError where a solution is not one for a site."""
    arrays = {"weight": (found.weight, site.dtype), "keep": (found.keep, "bool")}
    for name, (array, dtype) in arrays.items():
        if np.shape(array) != site.shape or str(array.dtype) != str(BY_NAME[dtype].numpy):
            raise ValueError(f"{name}: is {np.shape(array)} {array.dtype}, not {site.shape}")
    held = found.error_held or 0.0, found.error_before_held or 0.0
    numbers = (found.error, found.dampening, found.error_before or 0.0, found.shrinkage, *held)
    if not all(isinstance(one, int | float) for one in numbers):
        raise ValueError(f"its errors are {numbers}")
    if not (isinstance(found.method, str) and isinstance(found.reason or "", str)):
        raise ValueError(f"its method is {found.method!r}, {found.reason!r}")
