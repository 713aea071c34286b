"""Samples that are kept back: what methods fit is not what they are judged by."""

from __future__ import annotations

import os
from typing import Any

from mlpass.runtime.samples import SampleData, functions_in, load_samples

_FEWEST = 8  # samples of which some are kept back
_SHARE = 4  # one of so many

FITTED = (
    "outputs were compared on the samples that methods were calibrated on, which flatters those; "
    "give test_data (--test-data) for a fair comparison"
)


def divided(
    sample_data: SampleData | None, test_data: SampleData | None, *, keep: bool = True
) -> tuple[Any, Any]:
    """Returns the samples to calibrate on, and those to judge by.

    Without `test_data` a quarter is kept back, of each function that samples name, where there are
    8 or more, two or more of each, and `keep` is True; else both are the same.

    Raises:
        CalibrationError: they are in a form that `load_samples` does not take.
    """
    samples = sendable(sample_data)
    if test_data is not None:
        return samples, sendable(test_data)
    every = list(load_samples(samples, functions=True)) if keep and samples is not None else []
    groups: dict[tuple[str | None, ...], list[int]] = {}
    for number, one in enumerate(every):
        groups.setdefault(functions_in([one]), []).append(number)
    if len(every) < _FEWEST or min(map(len, groups.values())) < 2:
        return samples, samples
    held = {
        number
        for group in groups.values()
        for number in group[min(_SHARE, len(group)) - 1 :: _SHARE]
    }
    kept = [one for number, one in enumerate(every) if number not in held]
    return kept, [every[number] for number in sorted(held)]


def told_of(samples: Any, judged: Any, test_data: SampleData | None) -> str | None:
    """Returns what is to be borne in mind of figures; None where `test_data` was given."""
    if test_data is not None or samples is None:
        return None
    if samples is judged:
        return FITTED
    return (
        f"solved on {len(samples)} of {len(samples) + len(judged)} samples, judged by the "
        f"{len(judged)} that were kept back; test_data (--test-data) is judged by instead, where "
        "it is given, and all samples are solved on"
    )


def sendable(data: object) -> Any:
    """Returns sample data in a form that another process can be given: a path, or a list.

    Raises:
        CalibrationError: it is in a form that `load_samples` does not take.
    """
    if data is None:
        return None
    samples = load_samples(data, functions=True)
    return os.path.abspath(data) if isinstance(data, str | os.PathLike) else list(samples)
