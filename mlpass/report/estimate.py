"""An estimate of latency, by published peaks: what a model reads and multiplies takes this long.

An estimate, never a measurement: a ratio to another model with the same ops, as a roofline has it.
The longer of reading the weights and of multiplying decides. Activations, launches and the time to
unpack what is stored are left out, and zeros are multiplied with as anything else.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

CHIP = "M1"
# Sources in mlpass/storage/README.md, as of November 2026: what Apple claims, and what was measured
# where somebody published that.
BANDWIDTH = (67e9, 50e9)  # bytes a second
OPERATIONS = {"ane": (11e12, 2.7e12), "gpu": (2.6e12,)}  # a second; Apple claims none for the CPU
SOURCES = (
    "Apple's newsroom, 10 November 2020 and 6 June 2022 (claimed); github.com/MALTF/Bandwidth and "
    "huggingface.co/datasets/aneforge/ane-rooflines (measured)"
)
_NAMES = {"ane": "Neural Engine", "gpu": "GPU"}
_WORDS = {
    "memory": "reading weights takes longest: fewer bytes would take less",
    "compute": "multiplying takes longest: fewer bytes of weights would change little",
}


@dataclass(frozen=True)
class LatencyEstimate:
    """How long a model is estimated to take, over what the one that it is compared with takes.

    Attributes:
        processor: "ane" or "gpu", of the chip.
        chip: whose peaks these are.
        ratio: below 1 where it is faster, by the claimed peaks.
        low: the least that measured peaks in the place of claimed ones make of it.
        high: the most.
        bound: what decides: "memory" or "compute".
        source: of the peaks.
    """

    processor: str
    chip: str
    ratio: float
    low: float
    high: float
    bound: str
    source: str = SOURCES

    @property
    def spread(self) -> str:
        """Its range, "" where measured peaks make nothing else of it."""
        low, high = f"{self.low:.2f}", f"{self.high:.2f}"
        return "" if low == high else f"{low} to {high}"

    def __str__(self) -> str:
        return f"{self.ratio:.2f} ({', '.join(filter(None, (self.bound, self.spread)))})"


def told(estimates: Iterable[LatencyEstimate]) -> list[str]:
    """Returns estimates against the same weights dense as lines, with their sources at the end."""
    lines = [
        f"estimate, not measured: on the {_NAMES[one.processor]} of an {one.chip} {one.ratio:.2f} "
        f"{f'({one.spread}) ' if one.spread else ''}of the latency with the same weights dense; "
        f"{_WORDS[one.bound]}"
        for one in estimates
    ]
    return [*lines, f"    source: {SOURCES}"] if lines else []


def estimate(
    read: int, read_before: int, multiplications: int | None, processor: str
) -> LatencyEstimate | None:
    """Returns the estimate for a processor; None where too little is known.

    Args:
        read: stored bytes of the weights that an inference reads.
        read_before: of the model that it is compared with.
        multiplications: of an inference, in both; None where shapes vary.
        processor: "ane", "cpu" or "gpu".
    """
    if not multiplications or processor not in OPERATIONS:
        return None
    work = 2 * multiplications  # each is added up, too

    def seconds(nbytes: int, bandwidth: float, operations: float) -> float:
        return max(nbytes / bandwidth, work / operations)

    ratios = [
        seconds(read, bandwidth, operations) / seconds(read_before, bandwidth, operations)
        for bandwidth in BANDWIDTH
        for operations in OPERATIONS[processor]
    ]
    memory = read / BANDWIDTH[0] >= work / OPERATIONS[processor][0]
    bound = "memory" if memory else "compute"
    return LatencyEstimate(processor, CHIP, ratios[0], min(ratios), max(ratios), bound)
