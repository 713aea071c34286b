"""What the layers of a model meet as it is: gathered once, kept on disk for several runs."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from pathlib import Path

from mlpass.calibrate.sums import Observed
from mlpass.plan.steps import Step
from mlpass.weights.sites import Site

Look = Callable[[Step, Observed], None]


class GramFolder:
    """A folder with a file for each weight site, called by its place among those of the model."""

    def __init__(self, folder: Path) -> None:
        """Takes what is in a folder of our own: nobody else may write to it."""
        self._folder = folder

    def write(self, sites: Sequence[Site], observe: Callable[[Look], None]) -> None:
        """Keeps what `observe` shows of a model's sites.

        Raises:
            OSError: there is no room.
        """
        numbers = {site: number for number, site in enumerate(sites)}

        def keep(step: Step, observed: Observed) -> None:
            self._path(numbers[step.site]).write_bytes(pickle.dumps(observed))

        observe(keep)

    def show(self, steps: Sequence[Step], look: Look) -> None:
        """Shows what was kept for those steps that prune; there is one for each of the sites.

        Raises:
            OSError: it cannot be read.
        """
        for number, step in enumerate(steps):
            path = self._path(number)
            if step.skipped is None and step.mode is not None and path.is_file():
                look(step, pickle.loads(path.read_bytes()))

    def _path(self, number: int) -> Path:
        return self._folder / f"{number}.gram"
