"""How a model does on samples that it is not trained on, beside the dense one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch

from mlpass.examine.compare import Tally
from mlpass.finetune.feeding import Outputs
from mlpass.finetune.losses import Kinds, output_loss
from mlpass.report.comparison import OutputRecord


class Pair(NamedTuple):
    """Outputs of two models.

    Attributes:
        made: by the one that is judged.
        wanted: the dense one's.
        samples: how many are in a batch of both.
        function: whose outputs they are; None where the samples name none.
    """

    made: Outputs
    wanted: Outputs
    samples: int
    function: str | None = None


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
            name = old.name if old.function is None else f"{old.function} {old.name}"
            lines += [f"{name}: {', '.join(parts)}"] if parts else []
        return lines


def judged(kinds: Kinds, pairs: Iterable[Pair]) -> Judged:
    """Returns how near outputs are to the dense model's.

    Args:
        kinds: of the outputs.
        pairs: of some samples.
    """
    tallies: dict[tuple[str | None, str], Tally] = {}

    def tallied() -> Iterator[Pair]:
        for pair in pairs:
            for name in kinds[pair.function]:
                if name in pair.made and name in pair.wanted:
                    arrays = (outputs[name].cpu().numpy() for outputs in (pair.wanted, pair.made))
                    tallies.setdefault((pair.function, name), Tally()).add(*arrays)
            yield pair

    loss = mean_loss(kinds, tallied())
    records = [
        replace(tally.record(name), function=function)
        for (function, name), tally in tallies.items()
    ]
    return Judged(loss, tuple(records))


@torch.no_grad()
def mean_loss(kinds: Kinds, pairs: Iterable[Pair]) -> float:
    """Returns the mean loss over samples, which takes much less time than all of `judged`."""
    losses = [
        (float(output_loss(kinds[function], made, wanted, samples)), samples)
        for made, wanted, samples, function in pairs
    ]
    values, counts = zip(*losses, strict=True)
    return float(np.average(values, weights=counts))
