"""What a sweep comes to, in a sentence: each number is one of its table."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import takewhile

from mlpass.report.study import SweepReport, Trial

_SIZES = {"half the size": 1 / 2, "a quarter": 1 / 4}
_NEARLY = 1.05  # what is half but for the program around the weights is half
_SHARES = (0.99, 0.9, 0.5)
_USABLE = 0.5  # top-1 agreement below which a small model is too dear


@dataclass(frozen=True)
class Claim:
    """A part of the sentence.

    Attributes:
        lead: what it is about, or all that there is to say.
        trial: that it names, if any.
    """

    lead: str
    trial: Trial | None = None


@dataclass(frozen=True)
class Scale:
    """What decibels mean for a model, as the trials of its own sweep show it.

    Attributes:
        same: of the trials in which top-1 did not change, with a higher SNR than any in which it
            did: that with the lowest.
        changed: of those in which it did, that with the highest.
        shares: of places that agree at least, each with the last trial that still holds it, from
            the highest SNR down, where one that does not is known.
    """

    same: Trial | None
    changed: Trial | None
    shares: tuple[tuple[float, Trial], ...]


def verdict(report: SweepReport) -> list[Claim]:
    """Returns what a sweep comes to: the best of half the size, of a quarter, and for its size."""
    done = [trial for trial in report.trials if trial.nbytes is not None]
    if not done:
        return [Claim("no config could be applied: the table says why")]
    if all(trial.quality is None for trial in done):
        return [Claim("what it costs was not measured; the smallest", min(done, key=_size))]
    if not report.front:
        return [Claim("nothing here is better than a model that gives nothing but zeros")]
    best = knee(report)
    claims = list(_at_sizes(report))
    if all(one.trial is not best for one in claims):
        return [*claims, Claim("best for its size", best)]
    return [
        replace(one, lead=f"{one.lead}, best for its size") if one.trial is best else one
        for one in claims
    ]


def _at_sizes(report: SweepReport) -> Iterator[Claim]:
    """Yields the best at each size, each trial once: the smaller size says more."""
    found: dict[str, Trial] = {}
    for lead, share in _SIZES.items():
        fits = [t for t in report.front if _size(t) <= report.bytes_before * share * _NEARLY]
        if fits:
            found = {name: trial for name, trial in found.items() if trial is not fits[-1]}
            found[lead] = fits[-1]  # the front gets better with size
    for lead, trial in found.items():
        yield Claim(lead, trial)
    if not found:
        yield Claim("nothing worth having is half the size; the smallest", report.front[0])


def knee(report: SweepReport) -> Trial | None:
    """Returns the trial of the front after which quality falls fastest; None without a trial.

    That is the one farthest above a line to the largest: from zeros, which take no bytes and have
    0 dB; where the user's own measure is judged by, from the smallest. Those whose top-1 disagrees
    more often than not are left out where there are others.
    """
    front = [t for t in report.front if t.quality is not None and math.isfinite(t.quality)]
    by_value = report.value_before is not None
    if not by_value:
        front = [t for t in front if t.top1 is None or t.top1 >= _USABLE] or front
    if not front:
        done = [trial for trial in report.trials if trial.failed is None]
        others = report.front or done[len(done) // 2 :]
        return others[0] if others else None
    first, last = front[0], front[-1]
    bytes_from, quality_from = (_size(first), first.worth) if by_value else (0, 0.0)
    if last.worth == quality_from:  # one alone, or ties with it
        return first

    def above(trial: Trial) -> float:
        share = (_size(trial) - bytes_from) / (_size(last) - bytes_from)
        return (trial.worth - quality_from) / (last.worth - quality_from) - share

    return max(front, key=above)


def scale_of(report: SweepReport) -> Scale | None:
    """Returns what decibels mean for the model; None where no trial has both an SNR and a top-1."""
    measured = (trial for trial in report.trials if trial.top1 is not None)
    finite = [t for t in measured if t.snr is not None and math.isfinite(t.snr)]
    known = sorted(finite, key=lambda trial: -(trial.snr or 0.0))
    if not known:
        return None

    def holding(share: float) -> int:
        """Returns how many trials, from the highest SNR down, agree at so many places at least."""
        return sum(1 for _ in takewhile(lambda trial: (trial.top1 or 0.0) >= share, known))

    same = holding(1.0)
    shares = {count: share for share in reversed(_SHARES) if (count := holding(share)) > same + 1}
    return Scale(
        known[same - 1] if same else None,
        known[same] if same < len(known) else None,
        tuple((shares[n], known[n - 1]) for n in sorted(shares) if n < len(known)),
    )


def _size(trial: Trial) -> int:
    return trial.nbytes or 0
