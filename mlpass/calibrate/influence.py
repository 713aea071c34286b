"""What an error of one weight does to the model's outputs, measured on a few samples.

For small errors the outputs' error is the sum of the weights' own, each times a factor that does
not depend on how the weight came by it: its influence. So one coarse rounding tells it.

Source: Malinovskii et al. 2024, "Pushing the Limits of Large Language Model Quantization via the
Linearity Theorem", arXiv 2411.17525.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from mlpass.calibrate.calibration import Calibration
from mlpass.calibrate.prices import Prices, coarse
from mlpass.halves import widened
from mlpass.parallel import map_items
from mlpass.runtime.interpreter import Interpreter
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

    Of weights that cannot be measured it is the median of the others; 1 where none can.

    Args:
        model: to run: an open package, or a program's graph.
        prices: of each weight, in the program's order.
        calibration: what to run it on, and how.

    Raises:
        ExecutionError: an op failed.
    """
    measured = [site for site, each in prices.items() if each.noise > 0]
    samples, together = _affordable(measured, prices, len(calibration.sample_data))
    chosen = np.linspace(0, len(calibration.sample_data) - 1, samples).astype(int).tolist()
    inputs = [calibration.sample_data[number] for number in chosen]
    found: dict[Site, float] = {}
    if measured and inputs:
        interpreter = Interpreter(
            model,
            backend=calibration.backend,
            device=calibration.device,
            function_name=calibration.function_name,
        )
        assert interpreter.backend is not None  # Calibration refuses Core ML itself
        bar = tqdm(total=len(measured), desc="measuring", unit="weight", disable=None)
        with bar, interpreter.backend.held():
            dense = _outputs(interpreter, inputs)
            for start in range(0, len(measured), together):
                sites = measured[start : start + together]
                error = _perturbed(interpreter, sites, inputs, dense)
                noise = sum(prices[site].noise for site in sites)
                found |= dict.fromkeys(sites, error / noise)
                bar.update(len(sites))
    median = float(np.median([*found.values()])) if any(found.values()) else 1.0
    return {site: found.get(site, median) for site in prices}


def _affordable(
    sites: Sequence[Site], prices: Mapping[Site, Prices], samples: int
) -> tuple[int, int]:
    """Returns on how many samples to measure, and how many neighbours at once."""
    run = sum(prices[site].work for site in sites)
    runs = _WORK / run if run else np.inf
    count = int(min(samples, _SAMPLES, max(1.0, runs // max(1, len(sites)))))
    return count, int(max(1, np.ceil(len(sites) * count / max(1.0, runs))))


def _perturbed(
    interpreter: Interpreter, sites: Sequence[Site], inputs: Sequence[Any], dense: Sequence[Any]
) -> float:
    """Returns the error of the outputs with some weights rounded coarsely."""
    backend = interpreter.backend
    assert backend is not None  # Calibration refuses Core ML itself
    replaced = []
    try:
        for site in sites:
            weight = backend.from_numpy(widened(coarse(site)))
            for constants in (part.constants for part in interpreter.parts):
                for value in (maker.outputs[-1] for maker in site.makers):
                    if value in constants:
                        constants.replace(value, weight)
                        replaced.append((constants, value))
        return _error(dense, _outputs(interpreter, inputs))
    finally:
        for constants, value in replaced:
            constants.forget(value)


def _outputs(interpreter: Interpreter, inputs: Sequence[Any]) -> list[dict[str, Any]]:
    def predict(one: Any) -> dict[str, Any]:
        state = interpreter.make_state() if interpreter.states else None
        return dict(interpreter.predict(one, state))

    if interpreter.backend is not None and interpreter.backend.name == "numpy":
        return map_items(predict, inputs)
    return [predict(one) for one in inputs]


def _error(dense: Sequence[Mapping[str, Any]], other: Sequence[Mapping[str, Any]]) -> float:
    """Returns the relative square error, the mean of all outputs of numbers."""
    errors = []
    for name in dense[0]:
        pairs = [(one[name], two[name]) for one, two in zip(dense, other, strict=True)]
        if not all(getattr(one, "dtype", np.dtype(int)).kind == "f" for one, _ in pairs):
            continue
        changed, whole = 0.0, 0.0
        for one, two in pairs:
            first, second = np.asarray(one, np.float64), np.asarray(two, np.float64)
            finite = np.isfinite(first) & np.isfinite(second)
            changed += float(
                np.square(second - first, where=finite, out=np.zeros(first.shape)).sum()
            )
            whole += float(np.square(first, where=finite, out=np.zeros(first.shape)).sum())
        errors.append(changed / whole if whole else 0.0)
    return float(np.mean(errors)) if errors else 0.0
