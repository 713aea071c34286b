"""A weight in a storage without samples, as the ops that take the place of its constant."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mlpass.solvers.nearest import nearest
from mlpass.sparsity.modes import Mask, Mode
from mlpass.storage.storage import Storage
from mlpass.weights.lossless import encode_lossless
from mlpass.weights.reading import decoded, layout_to_solve
from mlpass.weights.sites import Site
from mlpass.weights.storing import Encoded, encode_stored


def encode_nearest(
    site: Site, weight: NDArray[np.generic], keep: Mask, mode: Mode, storage: Storage
) -> Encoded:
    """Returns a weight as it will be stored, each kept element at the nearest value.

    Args:
        site: whose weight it is.
        weight: in the site's shape and dtype.
        keep: the same shape; what is False becomes zero.
        mode: that made the mask.
        storage: to round to.

    Raises:
        ModelFormatError: the model is too old for it.
        NotApplicable: the storage does not fit this weight, or the form cannot say it.
    """
    if storage.exact:
        return encode_lossless(site, weight, keep)
    if site.is_masked:  # what is zero stays so
        keep = keep & (weight != 0)
    site = decoded(site)
    solution = nearest(weight, keep, storage, layout_to_solve(site, mode))
    return encode_stored(site, solution, storage)
