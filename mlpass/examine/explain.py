"""How a model stores its weights: what each costs, and what looks wrong, with the cure."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from mlpass.errors import ModelFormatError, NotApplicable
from mlpass.examine.latency import latency_estimates
from mlpass.examine.processors import check_processor, facts
from mlpass.plan.config import configured
from mlpass.plan.steps import Step, plan
from mlpass.program.dtypes import BY_NAME
from mlpass.program.ir import TensorType
from mlpass.program.mlmodel import open_single
from mlpass.program.pte_paths import host_of, output_name
from mlpass.report.explanation import Explanation, Finding, WeightCost
from mlpass.report.gathered import gathered
from mlpass.storage.exact import file_nbytes
from mlpass.storage.storage import Rows, packed_nbytes
from mlpass.weights.lossless import Smallest, check_decoded, rows_of_site, smallest_form
from mlpass.weights.record import encoding_of_site, stored_sizes
from mlpass.weights.sites import Site, find_sites

if TYPE_CHECKING:
    from mlpass.program.mlmodel import ModelLike

_NEWEST = 18
_WORTH = 0.98  # of what is stored: a form that takes more than that is not worth a word
_ORDER = ("not quantized", "larger than needed", "needs iOS18", "mask", "left", "tables", "zeros")


@dataclass(frozen=True)
class _Seen:
    """One weight, read.

    Attributes:
        step: what `--lossless` would do to it.
        weight: its rows.
        sizes: the bytes of each constant that it is stored in.
        here: its smallest form in the op set of its function.
        newest: the same in that of iOS18.
    """

    step: Step
    weight: Rows
    sizes: tuple[int, ...]
    here: Smallest
    newest: Smallest


def explain(source: ModelLike, *, processor: str | None = None) -> Explanation:
    """Returns what each weight of a model costs, and what looks wrong: nothing is written.

    Args:
        source: path of an `.mlpackage`, or an `MLModel`.
        processor: "ane", "cpu" or "gpu", to leave out the facts about the others.

    Raises:
        ConfigError: there is no such processor.
        ModelFormatError: it is not a package with an ML Program, or is broken.
        OSError: it cannot be read.
    """
    check_processor(processor)
    weights, found = [], []
    with open_single(source) as package:
        command = command_for(package.name)
        sites = find_sites(package.programs)
        estimates = tuple(latency_estimates(package.programs, sites, processor))
        steps = plan(sites, configured(None, "lossless"))
        for step in steps:
            seen = _seen(step)
            weights.append(_cost(step.site, seen))
            if seen is None or step.skipped:
                found.append(_left(step))
            if seen is not None:
                found += _findings(seen, command)
        name = package.name
    findings = list(gathered(found, "weights", processor))
    findings.sort(key=lambda each: _ORDER.index(each.kind))
    return Explanation(name, tuple(weights), tuple(findings), estimates)


def _seen(step: Step) -> _Seen | None:
    """Returns a weight with its smallest forms; None where it has none."""
    site = step.site
    try:
        check_decoded(site)
        rows = rows_of_site(site)
        if rows.dtype.kind != "f":
            return None
        here = smallest_form(rows, site.opset)
        newest = here if site.opset >= _NEWEST else smallest_form(rows, _NEWEST)
    except (NotApplicable, ModelFormatError):
        return None
    return _Seen(step, rows, stored_sizes(site), here, newest)


def _cost(site: Site, seen: _Seen | None) -> WeightCost:
    sizes = stored_sizes(site)
    smaller = seen is not None and file_nbytes(seen.here.sizes) < file_nbytes(sizes)
    smallest = seen.here if seen is not None and smaller and not seen.step.skipped else None
    return WeightCost(
        name=site.name,
        op_type=site.uses[0].op.type,
        parameter=site.uses[0].parameter,
        shape=site.shape,
        dtype=site.dtype,
        encoding=encoding_of_site(site),
        nbytes=sum(sizes),
        smallest=None if smallest is None else smallest.text,
        smallest_nbytes=sum(sizes if smallest is None else smallest.sizes),
    )


def _findings(seen: _Seen, command: str) -> Iterator[Finding]:
    """Yields what is to be said of one weight."""
    site = seen.step.site
    name, now = site.name, file_nbytes(seen.sizes)
    here, newest = file_nbytes(seen.here.sizes), file_nbytes(seen.newest.sizes)
    lossless = f"{command} --lossless"
    raised = "" if site.opset >= _NEWEST else " --minimum-deployment-target iOS18"
    worth = not seen.step.skipped and here < _WORTH * now
    worth_raising = not seen.step.skipped and newest < _WORTH * min(here, now)
    best = seen.newest if worth_raising else seen.here
    cure = lossless + (raised if worth_raising else "") if worth or worth_raising else None
    if site.is_sparse:
        if cure is not None and best.exact is not None:
            text = (
                "stored as floats beside a mask, though the values are few, or on a grid: "
                "quantized in name alone. coremltools leaves sparse weights so unless it is told "
                "joint_compression=True"
            )
            yield Finding("not quantized", None, text, cure, (name,))
            yield from facts(site, seen.weight)
            return
        text = (
            "stored as floats beside a mask: zeros alone. Where quantization was meant as well, it "
            "was left out: coremltools skips sparse weights in silence unless it is told "
            "joint_compression=True. This rounds them, beside the same zeros:"
        )
        yield Finding("not quantized", None, text, f"{command} --palettize 4{raised}", (name,))
    if (more := _mask_costs(site)) is not None:
        yield Finding("mask", None, more, cure, (name,))
    elif worth:
        text = "the very same values have a smaller form"
        yield Finding("larger than needed", None, text, lossless, (name,))
    if worth_raising:
        text = f"the smallest form of the very same values needs iOS18; this is iOS{site.opset}"
        yield Finding("needs iOS18", None, text, lossless + raised, (name,))
    yield from facts(site, seen.weight)


def _mask_costs(site: Site) -> str | None:
    """Returns that a mask costs more than it saves; None where it does not."""
    for part in site.parts:
        for parameter in ("nonzero_data", "indices_nonzero_data"):
            for stored in part.inputs.get(parameter, ()):
                assert isinstance(stored.type, TensorType)  # all that elements can be
                kept = prod(size or 0 for size in stored.type.shape)
                bits = BY_NAME[stored.type.dtype].bits
                size = prod(site.shape)
                masked = packed_nbytes(size, 1) + packed_nbytes(kept, bits)
                if masked >= packed_nbytes(size, bits):
                    return "the mask costs more than it saves: too few zeros"
                return None
    return None


def _left(step: Step) -> Finding:
    reason = step.skipped or "its values cannot be read, or are not decoded alike everywhere"
    return Finding("left", None, f"left as it is by mlpass: {reason}", None, (step.site.name,))


def command_for(name: str) -> str:
    """Returns the beginning of a command that mends the package of a name."""
    whole, _ = host_of(name) or (Path(name), "")
    return shlex.join(["mlpass", "prune", name, "-o", output_name(name, f"{whole.stem}-smaller")])
