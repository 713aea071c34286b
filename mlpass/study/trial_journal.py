"""The finished trials of a sweep: one file each, so that a sweep that died can go on."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from mlpass.errors import CalibrationError
from mlpass.files import whole_file
from mlpass.ledger import Ledger
from mlpass.report.plain import keep, kept
from mlpass.report.records import LayerRecord, Report
from mlpass.report.study import Trial, trial_from_record
from mlpass.runtime.digests import digest_of
from mlpass.study.grid import Candidate
from mlpass.study.trial import Setting
from mlpass.version import __version__


class TrialJournal:
    """The finished trials in a folder, each under a digest of all that it depends on.

    A trial of another model, other samples or another config has another digest: it is not found,
    and stays where it is until the sweep is done.
    """

    def __init__(
        self, folder: Path, files: Sequence[Path], setting: Setting, *, resume: bool
    ) -> None:
        """Opens the journal of a sweep.

        Raises:
            CalibrationError: what is there was written by another version.
            OutputBusyError: another run is using it.
            OSError: it cannot be written.
        """
        self._common = _digest(files, setting)
        self._ledger = Ledger(folder, "*.json")
        names = [field.name for record in (Trial, Report, LayerRecord) for field in fields(record)]
        self._ledger.begin(names, resume=resume)

    def get(self, candidate: Candidate) -> Trial | None:
        """Returns a finished trial, None where it is not.

        Raises:
            CalibrationError: its file is broken.
        """
        path = self._path(candidate)
        if not path.is_file():
            return None
        try:
            return trial_from_record(kept(path.read_text()))
        except (LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
            raise CalibrationError(f"resume: {path} is broken, delete it: {error!r}") from None

    def add(self, candidate: Candidate, trial: Trial) -> None:
        """Notes a finished trial.

        Raises:
            OSError: it cannot be written.
        """
        with whole_file(self._path(candidate), force=True) as building:
            building.write_text(keep(asdict(trial)))

    def __enter__(self) -> TrialJournal:
        return self

    def __exit__(self, kind: object, error: BaseException | None, _: object) -> None:
        """Deletes it when the sweep is done, or when it holds nothing to go on with."""
        self._ledger.close(error)

    def _path(self, candidate: Candidate) -> Path:
        text = repr((self._common, candidate)).encode()
        return self._ledger.folder / f"{hashlib.sha256(text).hexdigest()}.json"


def _digest(files: Sequence[Path], setting: Setting) -> str:
    """Returns a digest of the model, the samples, and how they are measured."""
    samples: list[Any] = []
    for some in (setting.learnt, setting.judged):
        samples += [{}] if some is None else some
    how = setting.evaluate
    settings = {
        "mlpass": __version__,
        "backend": setting.backend,
        "function_name": setting.function_name,
        "weight": setting.weight,
        "nbytes": setting.nbytes,
        "joint": setting.joint_compression,
        "processor": setting.processor,
        "evaluate": how and (how.__module__, getattr(how, "__qualname__", repr(how))),
    }
    return digest_of(files, settings, samples)
