"""`prune_weights`, with the call of `coremltools.optimize.coreml.prune_weights`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from mlpass.plan.config import Config, as_config
from mlpass.program.mlmodel import ModelLike, make_mlmodel, open_package
from mlpass.program.mlpackage import Package
from mlpass.pruning.package import prune_package
from mlpass.weights.sites import find_sites


def prune_weights(mlmodel: ModelLike, config: object, joint_compression: bool = False) -> Any:
    """Returns a pruned copy of an `MLModel`; its package is temporary, and goes with it.

    Args:
        mlmodel: an ML Program; multi-function and pipeline models are welcome.
        config: a coremltools `OptimizationConfig`, or any other form that `prune` takes.
        joint_compression: prune weights that are already quantized or palettized, and those alone,
            into coremltools' joint sparse forms. Needs an iOS18 model.

    Raises:
        ConfigError: the config is not valid.
        ModelFormatError: the model is not an ML Program, or is too old for joint compression.
    """
    asked = as_config(config)

    def write(path: Path) -> None:
        with open_package(mlmodel) as package:
            alone = _compressed_alone(package, asked) if joint_compression else asked
            prune_package(package, path, alone, joint_compression=joint_compression)

    return make_mlmodel(write, like=mlmodel)


def _compressed_alone(package: Package, config: Config) -> Config:
    """Returns a config that leaves weights as they are that are not compressed."""
    sites = find_sites(package.programs)
    plain = {site.name: None for site in sites if site.constant is not None}
    return replace(config, op_name_configs={**config.op_name_configs, **plain})
