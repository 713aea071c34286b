"""What a weight came to, held against int8 without samples: no dearer, and known to be better."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from mlpass.program.dtypes import BY_NAME
from mlpass.report.records import LayerRecord
from mlpass.solvers.estimate import excerpt
from mlpass.solvers.gram import Gram
from mlpass.solvers.nearest import nearest
from mlpass.storage.quantized import Quantized
from mlpass.weights.reading import layout_to_solve, weight_of
from mlpass.weights.sites import Site
from mlpass.weights.ways import int8_command

_INT8 = Quantized("int8")


def int8_instead(
    site: Site, gram: Gram | None, found: NDArray[np.generic], nbytes: int, error: float
) -> float | None:
    """Returns the relative output error of int8 without samples, where nothing speaks for `found`.

    That is where int8 takes no more bytes, and its error is smaller; else None. Of a large weight
    some rows tell both errors.

    Args:
        site: whose weight it is.
        gram: of its inputs; None where that is not known.
        found: what it came to.
        nbytes: that this takes.
        error: of it, relative, as the solve tells it: towards what it aims at, which may be the
            dense model's outputs rather than the weight's own.

    Raises:
        NotApplicable: the weight has no matrix.
    """
    layout, dtype = layout_to_solve(site), np.dtype(BY_NAME[site.dtype].numpy)
    if gram is None or _INT8.nbytes(layout, dtype, opset=site.opset) > nbytes:
        return None
    weight = weight_of(site)
    rounded = nearest(weight, np.ones(weight.shape, bool), _INT8, layout).weight
    some = excerpt(weight, None, layout, gram)
    mine, theirs = (some.error(some.like(each, layout), gram) for each in (found, rounded))
    return theirs if theirs < min(mine, error) else None


def int8_way(
    layers: Sequence[LayerRecord], sources: Sequence[str], compressed: Collection[str] = ()
) -> tuple[str, ...]:
    """Returns a note where int8 without samples is better than what weights came to; or none.

    Args:
        layers: of a run.
        sources: path of the model, or of each of its packages in a row.
        compressed: the names of weights that were compressed already.
    """
    found = [layer for layer in layers if layer.int8_error is not None]
    if not found:
        return ()
    worst = max(found, key=lambda layer: layer.error or 0.0)
    zeros = any(layer.storage is None or "sparse" in layer.encoding for layer in found)
    again = any(layer.name in compressed for layer in found)
    why = "zeros pay for speed alone here" if zeros else "it is the better form of them"
    text = (
        f"{len(found)} of {len(layers)} weights take no fewer bytes than in int8 without samples, "
        f"and err more ({worst.name}: {worst.error:.2g} against {worst.int8_error:.2g}); {why}: "
        f"{shlex.join(int8_command(sources, again=again))}"
    )
    return (text,)
