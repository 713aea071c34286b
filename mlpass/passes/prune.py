"""Data-free pruning: every weight site by itself, from file to file."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from mlpass.config import as_config
from mlpass.errors import NotApplicable
from mlpass.passes.encoding import Replacements, encode_weight
from mlpass.passes.inspect import function_records, untouched_record, weight_of
from mlpass.passes.joint import check_opset
from mlpass.passes.plan import Step, layout_of_site, magnitude, plan, rank_globally
from mlpass.program.mlmodel import open_package
from mlpass.program.mlpackage import Rewriter, package_nbytes
from mlpass.program.sites import find_sites
from mlpass.report.records import LayerRecord, Report
from mlpass.sparsity.select import keep_above, keys_of


def prune(
    source: Any,
    output: str | os.PathLike[str],
    config: object,
    *,
    force: bool = False,
    joint_compression: bool = False,
) -> Report:
    """Prunes the weights of a model by magnitude, writes the result, and returns what was done.

    Args:
        source: path of an `.mlpackage`, or an `MLModel`; it is not changed.
        output: path of the `.mlpackage` to write. It appears whole or not at all.
        config: which mode each weight gets: a mode, a `Config`, a coremltools
            `OptimizationConfig`, a mapping, or a YAML path.
        force: whether to replace an `output` that exists.
        joint_compression: whether to prune the weights that are quantized or palettized already,
            and those alone, into joint sparse forms (iOS18).

    Raises:
        ConfigError: the config says what cannot be.
        ModelFormatError: `source` is no package with an ML Program, or a broken one.
        OutputExistsError: `output` exists and `force` is False.
        OSError: a file cannot be read or written.
    """
    config = as_config(config)
    with open_package(source) as package:
        sites = find_sites(package.programs)
        if joint_compression:
            check_opset(sites)
        steps = plan(sites, config, joint=joint_compression)
        functions, bytes_before = function_records(package.programs), package.nbytes
        with package.rewrite(output, force=force) as rewriter:
            layers = []
            bar = tqdm(rank_globally(steps), desc="pruning", unit="weight", disable=None)
            for step in bar:
                bar.set_postfix_str(step.site.name)
                layers.append(_rewrite(step, rewriter))
        bytes_after = package_nbytes(Path(output))
        name, target = str(package.path), os.fspath(output)
    return Report(name, target, bytes_before, bytes_after, functions, tuple(layers))


def _rewrite(step: Step, rewriter: Rewriter) -> LayerRecord:
    """Carries out one step and returns its record; its arrays are let go before the next."""
    layer, replacements = _carry_out(step)
    for old, new in replacements:
        rewriter.replace(old, new)
    return layer


def _carry_out(step: Step) -> tuple[LayerRecord, Replacements]:
    """Returns the record of one step, and each op that is replaced with those in its place."""
    site = step.site
    if step.skipped or step.mode is None:
        return untouched_record(site, step.skipped), []
    weight = weight_of(site)
    try:
        keep = _keep(step, weight)
        if keep.all():
            raise NotApplicable(f"{step.mode} zeroes nothing in it")
        stored = encode_weight(site, weight, keep)
    except NotApplicable as reason:
        return untouched_record(site, str(reason)), []
    layer = replace(
        untouched_record(site, counted=False),
        mode=str(step.mode),
        method="magnitude",
        zeros=stored.zeros,
        sparsity=stored.zeros / keep.size,
        encoding=stored.encoding,
        bytes_after=stored.nbytes,
    )
    return layer, stored.replacements


def _keep(step: Step, weight: NDArray[Any]) -> NDArray[np.bool_]:
    """Returns the keep mask of a weight by its magnitude.

    Raises:
        NotApplicable: the step's mode does not fit the weight.
    """
    score = magnitude(weight)
    if step.cut is not None:
        keys = keys_of(score.astype(step.cut.dtype, copy=False)).reshape(-1)
        return keep_above(keys, step.cut.cut)[0].reshape(score.shape)
    assert step.mode is not None
    try:
        layout = layout_of_site(step.site)
    except NotApplicable:
        if step.mode.structured:
            raise
        layout = None
    return step.mode.keep(score, layout)
