"""The weight whose outputs in the pruned model are nearest to those in the dense one.

With X the inputs of a weight W in the dense model and Z those in the pruned one, its outputs lack
`W (X - Z)^T`. Where they are added to a stream, R in the dense model and S in the pruned one, that
lacks `(R - S)^T` as well. The least-squares weight for all of it is

    V = W + (W (X - Z)^T Z + (R - S)^T Z) (Z^T Z)^-1

Source: Li et al. 2025, "GPTAQ", arXiv 2504.02692, aims at the first part when it quantizes. What is
ours: the stream, and that only a share of the way is gone, which is chosen on samples that the step
was not worked out on. Few samples tell little of what others need, and then nothing of it is gone.
"""

from __future__ import annotations

from dataclasses import dataclass

from mlpass.arrays import Array, cast_like, total
from mlpass.solvers.gram import Gram, output_power

SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
DAMPENING = 0.01  # of the Gram's mean diagonal; without it, few samples would be fitted too closely


@dataclass(frozen=True, eq=False)
class Moved:
    """What some samples tell of a weight's inputs, and of what has moved.

    Attributes:
        gram: Z^T Z.
        cross: Z^T (X - Z), (groups, columns, columns), in the Gram's units; None for zero.
        drift: Z^T (R - S), (groups, columns, rows), likewise.
    """

    gram: Gram
    cross: Array | None = None
    drift: Array | None = None

    @classmethod
    def of(cls, gram: Gram, cross: Array | None, drift: Array | None = None) -> Moved:
        """Returns the same from sums that are in the units of the samples."""
        return cls(gram, _scaled(cross, gram), _scaled(drift, gram))

    def pull(self, weight: Array) -> Array | None:
        """Returns Z^T times what the outputs of (groups, rows, columns) lack; None for zero."""
        pulled = None if self.cross is None else self.cross @ weight.mT
        if self.drift is None or pulled is None:
            return self.drift if pulled is None else pulled
        return pulled + self.drift


def aimed(weight: Array, learnt: Moved, held: Moved, whole: Moved) -> tuple[Array, float]:
    """Returns the weight to prune in place of another, and the share of the way that it has gone.

    Args:
        weight: (groups, rows, columns) fp32, where the Grams are.
        learnt: what most samples tell, from which the share is chosen,
        held: by the error on those that were kept back for it.
        whole: what all samples tell, which the result goes by.

    Raises:
        CalibrationError: a Gram is not positive semidefinite.
    """
    pulled, wanted = learnt.pull(weight), held.pull(weight)
    if pulled is None or wanted is None:
        return weight, 0.0
    step = _step(learnt.gram, pulled)
    square, gain = output_power(step.mT, held.gram), total(step * wanted)
    # The square sum of what is lacking after a share of the way, but for what no share changes.
    share = min(SHARES, key=lambda share: share * share * square - 2 * share * gain)
    last = whole.pull(weight)
    if share == 0 or last is None:
        return weight, 0.0
    return weight + share * _step(whole.gram, last).mT, share


def _step(gram: Gram, pulled: Array) -> Array:
    """Returns the least-squares change of the weight, (groups, columns, rows)."""
    inverse, _ = gram.inverse(DAMPENING, 0.0)
    return inverse @ pulled


def _scaled(values: Array | None, gram: Gram) -> Array | None:
    return None if values is None else cast_like(values * (1 / gram.unit), gram.diagonal)
