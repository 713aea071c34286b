"""How long a model is estimated to take, against its own weights dense."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mlpass.examine.multiplications import multiplications_of
from mlpass.options import PROCESSORS
from mlpass.program.ir import Program
from mlpass.report.estimate import LatencyEstimate, estimate
from mlpass.weights.record import stored_bytes
from mlpass.weights.sites import Site
from mlpass.weights.traffic import dense_bytes, read_bytes, unpacked_bytes


def latency_estimates(
    programs: Sequence[Program], sites: Sequence[Site], processor: str | None
) -> Iterator[LatencyEstimate]:
    """Yields the estimate for each processor of which enough is known, where shapes are fixed.

    Args:
        programs: of the model, which run one after another.
        sites: its weights.
        processor: "ane", "cpu" or "gpu"; None for all.
    """
    functions = [function for program in programs for function in program.functions.values()]
    work = multiplications_of(functions)
    if len(functions) > len(programs) or work is None:
        return  # which of them runs is not said; or shapes vary
    dense = read_bytes(functions, sites, dense_bytes)
    for each in PROCESSORS if processor is None else (processor,):
        read = read_bytes(functions, sites, unpacked_bytes if each == "gpu" else stored_bytes)
        found = estimate(read, dense, work, each)
        if found is not None:
            yield found
