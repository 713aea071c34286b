"""`prune_weights`, with the call of `coremltools.optimize.coreml.prune_weights`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mlpass.program.mlmodel import make_mlmodel
from mlpass.pruning.prune import prune


def prune_weights(mlmodel: object, config: object, joint_compression: bool = False) -> Any:
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

    def write(path: Path) -> None:
        prune(mlmodel, path, config, joint_compression=joint_compression)

    return make_mlmodel(write, like=mlmodel)
