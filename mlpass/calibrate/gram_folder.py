"""What the layers of a model meet as it is: gathered once, kept on disk for several runs."""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from mlpass.calibrate.sums import Observed
from mlpass.plan.steps import Step
from mlpass.weights.sites import Site


class GramFolder:
    """A folder with a file for each weight site, called by its place among those of the model."""

    def __init__(self, folder: Path) -> None:
        """Takes what is in a folder of our own: nobody else may write to it."""
        self._folder = folder

    def write(self, sites: Sequence[Site], observed: Iterable[tuple[Step, Observed]]) -> None:
        """Keeps what was observed of a model's sites.

        Raises:
            OSError: there is no room.
        """
        numbers = {site: number for number, site in enumerate(sites)}
        for step, one in observed:
            self._path(numbers[step.site]).write_bytes(pickle.dumps(one))

    def read(self, steps: Sequence[Step]) -> Iterator[tuple[Step, Observed]]:
        """Yields what was kept for those steps that prune; there is one for each of the sites.

        Raises:
            OSError: it cannot be read.
        """
        for number, step in enumerate(steps):
            path = self._path(number)
            if step.prunes and path.is_file():
                yield step, pickle.loads(path.read_bytes())

    def _path(self, number: int) -> Path:
        return self._folder / f"{number}.gram"
