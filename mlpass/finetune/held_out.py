"""What a training is judged by: samples that it does not see, and the dense model's outputs."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from mlpass.files import naming_temporary
from mlpass.finetune.feeding import Batch, outputs_of
from mlpass.finetune.judging import Pair
from mlpass.finetune.module import ProgramModule


class HeldOut:
    """Batches and the dense model's outputs for them: made once, in a nameless file."""

    def __init__(self, teacher: ProgramModule, batches: Sequence[Batch]) -> None:
        """Has the dense model run.

        Raises:
            ExecutionError: an op failed.
            OSError: there is no room for the file.
        """
        self._batches = batches
        self._names: list[list[list[str]]] = []  # of outputs, by batch and step
        with naming_temporary():
            self._file = tempfile.TemporaryFile()  # noqa: SIM115
        try:
            for batch in batches:
                self._names.append([*self._written(teacher, batch)])
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> HeldOut:
        return self

    def __exit__(self, *_: object) -> None:
        """The file is gone."""
        self._file.close()

    @torch.no_grad()
    def pairs(self, module: ProgramModule) -> Iterator[Pair]:
        """Yields what a module gives for each step of each batch, as it is written, and the other.

        Raises:
            ExecutionError: an op failed.
        """
        module.eval()
        self._file.seek(0)
        for batch, steps in zip(self._batches, self._names, strict=True):
            made = outputs_of(module, batch)
            for one, names, step in zip(made, steps, batch.steps, strict=True):
                wanted = {name: torch.from_numpy(np.load(self._file)) for name in names}
                wanted = {name: each.to(one[name].device) for name, each in wanted.items()}
                yield Pair(one, wanted, batch.count, step.function)

    @torch.no_grad()
    def _written(self, teacher: ProgramModule, batch: Batch) -> Iterator[list[str]]:
        """Writes the outputs for a batch, and yields their names, by step."""
        for outputs in outputs_of(teacher, batch):
            with naming_temporary():
                for array in outputs.values():
                    np.save(self._file, array.cpu().numpy())
            yield [*outputs]
