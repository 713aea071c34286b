"""What an error of one weight does to the model's outputs, measured on a few samples.

For small errors the outputs' error is the sum of the weights' own, each times a factor, its
influence, that one trial tells: the weight as a solve leaves it in one form. Plain rounding would
not do: its error is largest where the inputs are, which a solver sees to first.

Source: Malinovskii et al. 2024, "Pushing the Limits of Large Language Model Quantization via the
Linearity Theorem", arXiv 2411.17525.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from mlpass.calibrate.calibration import Calibration
from mlpass.calibrate.outputs import error_of, interpreter_of, outputs_of, outputs_with
from mlpass.calibrate.prices import Prices, Trial, tried
from mlpass.runtime.samples import Sample, functions_in
from mlpass.weights.sites import Site

if TYPE_CHECKING:
    from mlpass.program.mlmodel import ModelLike

_SAMPLES = 8
# Multiplications of all runs together, some minutes of two cores: how much is measured must follow
# from sizes alone, or the result would depend on the machine.
_WORK = 4e12


def influences(
    model: ModelLike, prices: Mapping[Site, Prices], calibration: Calibration
) -> dict[Site, float]:
    """Returns what one unit of a weight's relative output error adds to that of the outputs.

    Of weights that cannot be measured it is the median of the others; 1 where none can. So it is
    where an output does not change at all: these samples do not reach the weight.

    Raises:
        ExecutionError: an op failed.
    """
    trials: dict[Site, Trial] = {
        site: each.trial for site, each in prices.items() if each.trial and each.trial.noise > 0
    }
    measured = [*trials]
    samples, together = _affordable(measured, prices, len(calibration.sample_data))
    inputs = _spread(calibration.sample_data, samples)
    found: dict[Site, float] = {}
    if measured and inputs:
        interpreter = interpreter_of(model, calibration)
        assert interpreter.backend is not None  # Calibration refuses Core ML itself
        bar = tqdm(total=len(measured), desc="measuring", unit="weight", disable=None)
        with bar, interpreter.backend.held():
            dense = outputs_of(interpreter, inputs)
            groups = [
                measured[start : start + together] for start in range(0, len(measured), together)
            ]
            changes = ({site: tried(site, trials[site]) for site in sites} for sites in groups)
            made = outputs_with(interpreter, inputs, changes)
            for sites, outputs in zip(groups, made, strict=True):
                error = error_of(dense, outputs)
                noise = sum(trials[site].noise for site in sites)
                found |= dict.fromkeys(sites, error / noise) if error > 0 else {}
                bar.update(len(sites))
    if not found:  # without an output of floats, say
        return dict.fromkeys(prices, 1.0)
    median = float(np.median([*found.values()]))
    return {site: found.get(site, median) for site in prices}


def _spread(every: Sequence[Sample], count: int) -> list[Sample]:
    """Returns some samples, evenly spaced, and one of each function that those leave out."""
    numbers = {*np.linspace(0, len(every) - 1, count).astype(int).tolist()}
    heard = {name for number in numbers for name in functions_in([every[number]])}
    for number, one in enumerate(every if set(functions_in(every)) - heard else ()):
        if new := set(functions_in([one])) - heard:
            numbers.add(number)
            heard |= new
    return [every[number] for number in sorted(numbers)]


def _affordable(
    sites: Sequence[Site], prices: Mapping[Site, Prices], samples: int
) -> tuple[int, int]:
    """Returns on how many samples to measure, and how many neighbours at once."""
    run = sum(prices[site].work for site in sites)
    runs = _WORK / run if run else np.inf
    count = int(min(samples, _SAMPLES, max(1.0, runs // max(1, len(sites)))))
    return count, int(max(1, np.ceil(len(sites) * count / max(1.0, runs))))
