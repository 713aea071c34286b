"""A trained module as a report, and as a package."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from math import prod

from mlpass.errors import ModelFormatError
from mlpass.finetune.masks import PrunedParameter
from mlpass.finetune.module import ProgramModule
from mlpass.finetune.rewriting import Rewritten, rewrite_trained
from mlpass.finetune.weights import encode_trained, find_trained, is_weight, opened
from mlpass.program.mlmodel import open_package
from mlpass.report.records import LayerRecord, Report
from mlpass.weights.ensures import Told
from mlpass.weights.record import function_records, untouched_record
from mlpass.weights.sites import Site
from mlpass.weights.storing import Encoded


def report_module(
    module: ProgramModule, pruned: Mapping[str, PrunedParameter], skipped: Mapping[str, str]
) -> Report:
    """Returns a module's weights as they are now.

    Args:
        module: the module.
        pruned: what prunes its weights, by parameter.
        skipped: why others are left, by site.
    """
    with open_package(module.source) as package:
        layers = tuple(_record(module, site, pruned, skipped) for site in module.weights)
        functions, nbytes = function_records(package.programs), package.nbytes
        return Report(package.name, None, nbytes, nbytes, functions, layers)


def write_module(
    module: ProgramModule,
    output: str | os.PathLike[str],
    pruned: Mapping[str, PrunedParameter],
    skipped: Mapping[str, str],
    *,
    force: bool,
    keep: bool = False,
) -> Report:
    """Writes a module's model with its trained weights, and returns what was done.

    Args:
        module: the module.
        output: path of the package to write.
        pruned: as for `report_module`.
        skipped: likewise.
        force: whether to replace an `output` that exists.
        keep: whether a package that may not take its place is kept beside it.

    Raises:
        ExecutionError: a weight does not fit its stored type.
        MlpassError: the package was not written as the report says.
        ModelFormatError: the model is no longer the one that was trained.
        OutputExistsError: `output` exists and `force` is False.
        OSError: a file cannot be read or written.
    """
    with open_package(module.source) as package:
        sites = find_trained(package.programs)
        shapes = {site.name: site.shape for site in sites}
        for name, site in module.sites.items():
            if shapes.get(site.name) != site.shape:
                raise ModelFormatError(
                    f"{package.name}: has no weight {name!r} of shape {site.shape} any more: it is "
                    "not the model that was trained"
                )
        rewritten = (_rewritten(module, site, pruned, skipped) for site in sites)
        return rewrite_trained(package, output, rewritten, force=force, keep=keep)


def _rewritten(
    module: ProgramModule,
    site: Site,
    pruned: Mapping[str, PrunedParameter],
    skipped: Mapping[str, str],
) -> Rewritten:
    stored = _encoded(module, site, module.parameter_names.get(site.name), pruned)
    told = None
    if is_weight(site):
        told = Told(site, _record(module, site, pruned, skipped, stored))
    return Rewritten(stored.replacements if stored else (), told)


def _encoded(
    module: ProgramModule, site: Site, name: str | None, pruned: Mapping[str, PrunedParameter]
) -> Encoded | None:
    """Returns a site as it is to be written; None where it stays as it is."""
    if name is None:
        return None
    mask = module.mask_of(name)
    master = module.get_parameter(name).detach().cpu().numpy()
    keep = None if mask is None else mask.cpu().numpy()
    how = pruned.get(name)
    if how is None:
        return encode_trained(opened(site), master, keep)
    return encode_trained(opened(site), master, keep, how.mode, how.storage)


def _record(
    module: ProgramModule,
    site: Site,
    pruned: Mapping[str, PrunedParameter],
    skipped: Mapping[str, str],
    stored: Encoded | None = None,
) -> LayerRecord:
    name = module.parameter_names.get(site.name)
    record = untouched_record(site, skipped.get(site.name), counted=name is None)
    if name is None:
        return record
    zeros = int((module.weight(name) == 0).sum()) if stored is None else stored.zeros
    record = replace(record, zeros=zeros, sparsity=zeros / max(1, prod(site.shape)))
    if name in pruned:
        record = replace(record, mode=str(pruned[name].mode), method="magnitude")
    if stored is not None:
        record = replace(record, encoding=stored.encoding, bytes_after=stored.nbytes)
    return record
