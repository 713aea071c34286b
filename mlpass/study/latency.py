"""How long Core ML takes for one prediction: measured on macOS, and never estimated elsewhere."""

from __future__ import annotations

import platform
from collections.abc import Callable
from statistics import median
from time import perf_counter
from typing import Any

from mlpass.runtime.backends.coreml import COMPUTE_UNITS, load_on
from mlpass.runtime.samples import Inputs

_WARM_UP = 3  # Core ML compiles and caches on the first calls
_RUNS = 20


def can_measure() -> bool:
    """Returns whether Core ML is here."""
    return platform.system() == "Darwin"


def measure_latency(
    path: str,
    inputs: Inputs,
    *,
    function_name: str | None = None,
    load: Callable[..., Any] = load_on,
    clock: Callable[[], float] = perf_counter,
) -> dict[str, float]:
    """Returns the milliseconds of a prediction by compute unit: each the median of twenty.

    Raises:
        BackendError: Core ML cannot load it.
    """
    latency = {}
    for unit in COMPUTE_UNITS:
        model = load(path, unit, function_name)
        times = []
        for _ in range(_WARM_UP + _RUNS):
            # A model with state starts anew each time: the first step is what is measured.
            state = {"state": model.make_state()} if model.get_spec().description.state else {}
            start = clock()
            model.predict(dict(inputs), **state)
            times.append(clock() - start)
        latency[unit] = 1e3 * median(times[_WARM_UP:])
    return latency
