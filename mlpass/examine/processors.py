"""What is known of the Neural Engine, the CPU and the GPU: sources in mlpass/storage/README.md."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from math import prod

import numpy as np

from mlpass.errors import ConfigError, ModelFormatError, NotApplicable
from mlpass.options import PROCESSORS
from mlpass.program.ir import TensorType
from mlpass.report.explanation import Finding
from mlpass.report.gathered import gathered
from mlpass.storage.storage import Rows
from mlpass.weights.lossless import check_decoded, rows_of_site
from mlpass.weights.reading import layout_to_solve
from mlpass.weights.sites import Site

_GAIN = 0.75  # zeros from which on Apple claims gains on the Neural Engine
_ROWS = 8  # that share a table at the speed of one table
_GROUPS = (2, 4, 8, 16)  # m of n:m


def check_processor(processor: str | None) -> None:
    """Raises ConfigError where there is no such processor; None is all of them."""
    if processor is not None and processor not in PROCESSORS:
        raise ConfigError(
            f"processor: must be one of {', '.join(PROCESSORS)}, or None. Got {processor!r}."
        )


def facts(site: Site, weight: Rows) -> Iterator[Finding]:
    """Yields what is known of how processors take a weight as it is stored."""
    names = (site.name,)
    rows = _rows_a_table(site)
    if rows is not None and rows < _ROWS:
        text = (
            f"a table for fewer than {_ROWS} rows: cost grows with the number of tables; one a row "
            "was measured 4 times slower than one for 8 rows"
        )
        yield Finding("tables", "ane", text, None, names)
    if not any("sparse" in part.type for part in site.parts):
        return
    if 1 - weight.kept / prod(site.shape) < _GAIN and not _in_blocks(site, weight):
        text = (
            "fewer than 75% zeros, and not in blocks of 2: Apple's guide claims a gain in speed "
            "from there on"
        )
        yield Finding("zeros", "ane", text, None, names)
    if not _in_groups(site, weight):
        text = (
            "zeros are not n:m with at least half of them zero: Apple's guide claims a gain in "
            "speed for such alone, in linear layers, with m a divisor or multiple of 16"
        )
        yield Finding("zeros", "cpu", text, None, names)
    text = "sparse weights are unpacked again at each load: smaller on disk alone"
    yield Finding("zeros", "gpu", text, None, names)


def cautions(sites: Iterable[Site], processor: str | None) -> dict[str, str]:
    """Returns by its kind what speaks against how weights are stored on a processor.

    Args:
        sites: of a model.
        processor: "ane", "cpu" or "gpu"; None for nothing.
    """
    found: list[Finding] = []
    for site in sites if processor is not None else ():
        with suppress(NotApplicable, ModelFormatError):  # a weight that nobody can read
            check_decoded(site)
            found += facts(site, rows_of_site(site))
    return {one.kind: one.text for one in gathered(found, "weights", processor)}


def _rows_a_table(site: Site) -> int | None:
    """Returns how many rows of a weight share a table; None where there is one table, or none."""
    for part in site.parts:
        for lut in part.inputs.get("lut", ()):
            assert isinstance(lut.type, TensorType)  # all that a table can be
            tables = prod(size or 0 for size in lut.type.shape[:-2])
            return _rows(site) // tables if tables > 1 else None
    return None


def _rows(site: Site) -> int:
    try:
        sizes = layout_to_solve(site).sizes
    except NotApplicable:
        return site.shape[0]
    return sizes[0] * sizes[1]


def _in_groups(site: Site, weight: Rows) -> bool:
    """Returns whether half of every m neighbouring input channels are zero, for some m."""
    try:
        groups, rows, channels, positions = layout_to_solve(site).sizes
    except NotApplicable:
        return False
    left = [m for m in _GROUPS if channels % m == 0]
    for _, kept in weight.read(0, groups * rows):
        zero = ~kept.reshape(len(kept), channels, positions)
        split = {m: zero.reshape(len(kept), -1, m, positions) for m in left}
        left = [m for m in left if (2 * split[m].sum(axis=2) >= m).all()]
        if not left:
            return False
    return bool(left)


def _in_blocks(site: Site, weight: Rows) -> bool:
    """Returns whether zeros come in pairs of neighbouring output channels."""
    try:
        groups, rows, channels, positions = layout_to_solve(site).sizes
    except NotApplicable:
        return False
    if rows % 2:
        return False
    alone = np.zeros((0, channels * positions), bool)  # a row without the next one of its pair
    for _, kept in weight.read(0, groups * rows):
        together = np.concatenate([alone, kept])
        pairs = together[: len(together) // 2 * 2]
        if (pairs[::2] != pairs[1::2]).any():
            return False
        alone = together[len(pairs) :]
    return True
