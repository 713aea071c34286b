"""What holds of a package that was written: its weights are what the report says of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from mlpass.collector import paused_collector
from mlpass.errors import MlpassError
from mlpass.program.ir import Op, Program
from mlpass.program.opened import OpenPackage
from mlpass.report.records import LayerRecord
from mlpass.runtime.ops import label_of
from mlpass.weights.record import encoding_of_site, stored_bytes
from mlpass.weights.sites import Site, Use, gather_sites


class Told(NamedTuple):
    """A weight site of the model that was read, and what the report says has become of it."""

    site: Site
    layer: LayerRecord


class _Reading(NamedTuple):
    """A place where an op reads a weight: the op's part of a pipeline, function and result."""

    program: str
    function: str
    op: str
    parameter: str
    position: int
    number: int  # among those that are equal: nested blocks may repeat a name


@paused_collector()
def ensure_written(
    package: OpenPackage,
    folder: Path,
    target: Path,
    *,
    told: Sequence[Told],
    find: Callable[[Sequence[Program]], list[Site]] = gather_sites,
) -> None:
    """Holds a package that was just written against its report.

    The message and the headers of all blobs are read, the elements of weights are not.

    Args:
        package: that was read.
        folder: where it was written.
        target: where it is to go, for the message.
        told: its weight sites, with their records; those of other packages are passed over.
        find: what found them.

    Raises:
        MlpassError: it cannot be read, or a weight is not as its record says; the text names it.
    """
    try:
        with OpenPackage(folder, prefix=package.prefix) as other:
            written = dict(_readings(other.programs, find(other.programs)))
    except MlpassError as error:
        text = str(error).replace(str(folder), str(target))
        raise _fault(target, f"cannot be read back: {text}") from error
    places: dict[Site, list[_Reading]] = {}
    for place, site in _readings(package.programs, [site for site, _ in told]):
        places.setdefault(site, []).append(place)
    for site, layer in told:
        if site not in places:
            continue
        for place in places[site]:
            if place not in written:
                raise _fault(
                    target, f"{layer.name}: {place.op} reads no weight as {place.parameter!r}"
                )
        found = list(dict.fromkeys(written[place] for place in places[site]))
        if wrong := _difference(found, layer):
            raise _fault(target, f"{layer.name}: {wrong}")


def _fault(target: Path, what: str) -> MlpassError:
    return MlpassError(
        f"{target}: was not written, since the new package differs from its report. {what}. This "
        "is a fault in mlpass, or of the disk: please report it."
    )


def _difference(found: Sequence[Site], layer: LayerRecord) -> str | None:
    """Returns how sites that were written differ from the record of the one they come from.

    They are several where functions of different opsets share a weight, each with its own form.
    """
    for site in found:
        for name, is_now, meant in (
            ("shape", site.shape, layer.shape),
            ("dtype", site.dtype, layer.dtype),
            ("encoding", encoding_of_site(site), layer.encoding),
        ):
            if is_now != meant:
                return f"its {name} is {is_now}, the report says {meant}"
    nbytes = stored_bytes(*found)
    # What was left may have been stored with less: by itself, where it was a slice of another.
    if nbytes > layer.bytes_after or (layer.mode is not None and nbytes != layer.bytes_after):
        return f"it takes {nbytes} bytes, the report says {layer.bytes_after}"
    return None


def _readings(
    programs: Sequence[Program], sites: Sequence[Site]
) -> Iterator[tuple[_Reading, Site]]:
    """Yields every place where a weight is read, and the site of what is read there."""
    reads: dict[Op, list[tuple[Use, Site]]] = {}
    for site in sites:
        for use in site.uses:
            reads.setdefault(use.op, []).append((use, site))
    seen: Counter[_Reading] = Counter()
    for program in programs:
        for function in program.functions.values():
            for op in function.block.walk():
                for use, site in reads.get(op, ()):
                    label = label_of(op if site.apart is None else site.apart.sums[op])
                    place = _Reading(
                        program.name, function.name, label, use.parameter, use.position, 0
                    )
                    yield place._replace(number=seen[place]), site
                    seen[place] += 1
