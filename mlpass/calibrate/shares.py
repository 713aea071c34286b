"""How one sparsity is divided among layers: by what the samples show in the model as it is."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mlpass.calibrate.calibration import Calibration
from mlpass.calibrate.sums import Observed
from mlpass.calibrate.walk import observe_dense
from mlpass.errors import ConfigError, NotApplicable
from mlpass.plan.steps import Step
from mlpass.program.dtypes import BY_NAME
from mlpass.program.encode import sparse_nbytes
from mlpass.solvers.allocate import Curve, error_curve, least_error, outlier_share, owl
from mlpass.solvers.gram import Gram
from mlpass.solvers.problem import Method
from mlpass.sparsity.layout import Layout
from mlpass.weights.reading import layout_of_site, magnitude, weight_of
from mlpass.weights.sites import Site

if TYPE_CHECKING:
    from mlpass.program.mlmodel import ModelLike

# Where a layer's error is measured: shares of the way from nothing to the wanted sparsity, and from
# there to everything.
_BELOW = (0.0, 0.4, 0.7, 0.85, 1.0)
_ABOVE = (0.15, 0.3, 0.5, 0.75)


def allocate(model: ModelLike, steps: Sequence[Step], calibration: Calibration) -> list[Step]:
    """Returns the steps with each layer's own share of the sparsity.

    Args:
        model: to run, where the share follows from what the samples show.
        steps: of a plan; those to be pruned must have one `Percentile`.
        calibration: how to divide, by whose error, and to which budget.

    Raises:
        ConfigError: the steps have several modes, or the budget cannot be met.
        CalibrationError: the samples do not fit, or a layer's inputs hold NaN or inf.
        UnsupportedOpError: ops without kernels, all named at once.
        ExecutionError: an op failed.
        OSError: the disk is full.
    """
    how, method = calibration.allocate, calibration.method
    members = [step for step in steps if step.prunes]
    if how == "uniform" or not members:
        return list(steps)
    mode = members[0].mode
    alike = all(step.mode == mode for step in members)
    if mode is None or mode.structured or mode.target is None or not alike:
        raise ConfigError(
            f"allocate: {how!r} divides one target_sparsity, so all weights need the same "
            "Percentile; use allocate='uniform' for other modes"
        )
    sparsity = mode.target
    below = {share * sparsity for share in _BELOW}
    sparsities = sorted(below | {sparsity + share * (1 - sparsity) for share in _ABOVE})
    outliers: dict[Site, float] = {}
    curves: dict[Site, Curve] = {}
    with observe_dense(model, steps, calibration) as sites:
        for step, observed in sites:
            with suppress(NotApplicable):  # the run itself will say why
                if how == "owl":
                    outliers[step.site] = _outliers(step.site, observed)
                else:
                    curves[step.site] = layer_curve(step.site, observed, sparsities, method)
    if how == "owl":
        sizes = [prod(site.shape) for site in outliers]
        shares = dict(zip(outliers, owl(sizes, [*outliers.values()], sparsity), strict=True))
    else:
        nbytes = calibration.max_nbytes
        wanted = sparsity if nbytes is None else None
        found = least_error([*curves.values()], sparsity=wanted, nbytes=nbytes)
        shares = dict(zip(curves, found, strict=True))
    return [
        replace(step, mode=mode.at(float(np.clip(shares[step.site], 0, 1))))
        if step.site in shares
        else step
        for step in steps
    ]


def _outliers(site: Site, observed: Observed) -> float:
    weight, gram, layout = calibrated(site, observed)
    return outlier_share(layout.matrix(weight).astype(np.float32), gram.matrix)


def layer_curve(
    site: Site, observed: Observed, sparsities: Sequence[float], method: Method
) -> Curve:
    """Returns what each sparsity costs a layer, in output error and in stored bytes.

    Args:
        site: the layer's weight.
        observed: what the samples told about it.
        sparsities: ascending, 0 to 1.
        method: by which it would be pruned.

    Raises:
        NotApplicable: there is no Gram to measure with, or the weight cannot be pruned.
        CalibrationError: the Gram is not positive semidefinite.
    """
    weight, gram, layout = calibrated(site, observed)
    curve = error_curve(weight, gram, sparsities, method=method, layout=layout)
    dtype = BY_NAME[site.dtype]
    nbytes = [
        min(
            dtype.nbytes(weight.size),
            sparse_nbytes(weight.size, weight.size - int(share * weight.size), dtype),
        )
        for share in sparsities
    ]
    return replace(curve, nbytes=nbytes)


def calibrated(site: Site, observed: Observed) -> tuple[NDArray[np.generic], Gram, Layout]:
    """Returns a site's weight, its Gram and its layout.

    Raises:
        NotApplicable: there is no such Gram, or it would mean nothing.
    """
    if observed.gram is None or observed.gram.is_diagonal:
        raise NotApplicable("there is no Gram to measure with")
    weight = weight_of(site)
    magnitude(weight)  # refuses NaN and inf
    return weight, observed.gram, layout_of_site(site)
