"""How a model does on samples that it is not trained on, beside the dense one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from mlpass.examine.compare import Tally
from mlpass.finetune.feeding import Outputs
from mlpass.finetune.losses import Kind, output_loss
from mlpass.report.comparison import OutputRecord


@dataclass(frozen=True)
class Judged:
    """How a model does on some samples.

    Attributes:
        loss: the mean over them.
        outputs: each beside the dense model's.
    """

    loss: float
    outputs: tuple[OutputRecord, ...]

    def told(self, after: Judged) -> list[str]:
        """Returns a line an output: how near it was, and is `after` a training."""
        lines = []
        for old, new in zip(self.outputs, after.outputs, strict=True):
            parts = []
            if old.snr is not None and new.snr is not None:
                parts.append(f"SNR {old.snr:.2f} -> {new.snr:.2f} dB")
            if old.top1 is not None and new.top1 is not None:
                parts.append(f"agreement {old.top1:.2%} -> {new.top1:.2%}")
            lines += [f"{old.name}: {', '.join(parts)}"] if parts else []
        return lines


@torch.no_grad()
def judged(kinds: Mapping[str, Kind], batches: Iterable[tuple[Outputs, Outputs, int]]) -> Judged:
    """Returns how near outputs are to the dense model's.

    Args:
        kinds: of the outputs.
        batches: the outputs of some samples, the dense model's, and how many samples they are.
    """
    losses, counts = [], []
    tallies: dict[str, Tally] = {}
    for made, wanted, count in batches:
        losses.append(float(output_loss(kinds, made, wanted, count)))
        counts.append(count)
        for name in kinds:
            if name in made and name in wanted:
                tally = tallies.setdefault(name, Tally())
                tally.add(*(outputs[name].cpu().numpy() for outputs in (wanted, made)))
    records = (tally.record(name) for name, tally in tallies.items())
    return Judged(float(np.average(losses, weights=counts)), tuple(records))
