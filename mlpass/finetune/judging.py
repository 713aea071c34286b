"""How a model does on samples that it is not trained on, beside the dense one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from mlpass.examine.compare import Tally
from mlpass.finetune.feeding import Outputs
from mlpass.finetune.losses import Kind, output_loss
from mlpass.report.comparison import OutputRecord


class Pair(NamedTuple):
    """Outputs of two models.

    Attributes:
        made: by the one that is judged.
        wanted: the dense one's.
        samples: how many are in a batch of both.
    """

    made: Outputs
    wanted: Outputs
    samples: int


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


def judged(kinds: Mapping[str, Kind], pairs: Iterable[Pair]) -> Judged:
    """Returns how near outputs are to the dense model's.

    Args:
        kinds: of the outputs.
        pairs: of some samples.
    """
    tallies: dict[str, Tally] = {}

    def tallied() -> Iterator[Pair]:
        for made, wanted, samples in pairs:
            for name in kinds:
                if name in made and name in wanted:
                    arrays = (outputs[name].cpu().numpy() for outputs in (wanted, made))
                    tallies.setdefault(name, Tally()).add(*arrays)
            yield Pair(made, wanted, samples)

    loss = mean_loss(kinds, tallied())
    return Judged(loss, tuple(tally.record(name) for name, tally in tallies.items()))


@torch.no_grad()
def mean_loss(kinds: Mapping[str, Kind], pairs: Iterable[Pair]) -> float:
    """Returns the mean loss over samples, which takes much less time than all of `judged`."""
    losses = [(float(output_loss(kinds, *pair)), pair.samples) for pair in pairs]
    values, counts = zip(*losses, strict=True)
    return float(np.average(values, weights=counts))
