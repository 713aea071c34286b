"""What training made of a package's sites, written beside it and held against its report."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from functools import partial
from typing import NamedTuple

from mlpass.finetune.weights import find_trained
from mlpass.program.ir import Op
from mlpass.program.mlpackage import Package
from mlpass.report.records import Report
from mlpass.weights.ensures import Told, ensure_written
from mlpass.weights.record import function_records


class Rewritten(NamedTuple):
    """What becomes of a site: its ops' replacements, and of a weight what the report says."""

    replacements: Sequence[tuple[Op, Sequence[Op]]]
    told: Told | None


def rewrite_trained(
    package: Package,
    output: str | os.PathLike[str],
    sites: Iterable[Rewritten],
    *,
    force: bool,
    keep: bool,
) -> Report:
    """Writes a package with what its sites have become, one after another; returns the report.

    Args:
        package: the model that was trained.
        output: path of the package to write.
        sites: all of the model's, drawn one at a time.
        force: whether to replace an `output` that exists.
        keep: whether a package that may not take its place is kept beside it.

    Raises:
        MlpassError: the package was not written as the report says.
        OutputExistsError: `output` exists and `force` is False.
        OSError: a file cannot be read or written.
    """
    functions, bytes_before = function_records(package.programs), package.nbytes
    told: list[Told] = []
    with package.rewrite(output, force=force, keep=keep) as rewriter:
        for site in sites:
            for old, new in site.replacements:
                rewriter.replace(old, new)
            if site.told is not None:
                told.append(site.told)
        rewriter.ensure(partial(ensure_written, told=told, find=find_trained))
    layers = tuple(layer for _, layer in told)
    return Report(package.name, os.fspath(output), bytes_before, rewriter.nbytes, functions, layers)
