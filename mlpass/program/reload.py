"""A finished `.mlpackage` as a pymil `Program`, to be converted again."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from mlpass.errors import ConfigError, ModelFormatError
from mlpass.program.mlpackage import Package

if TYPE_CHECKING:
    from mlpass.program.proto import Message
    from mlpass.program.pymil_types import PymilProgram


def load_pymil(
    path: str | os.PathLike[str], version: int | None, description: Message | None
) -> PymilProgram:
    """Returns the pymil program of a package.

    Args:
        path: of an `.mlpackage`.
        version: specification version of the model that is to be made of it.
        description: model description of that model; None where coremltools is to make it anew.

    Raises:
        ConfigError: `version` is missing or too old, or `description` is needed; the text says why.
        ModelFormatError: there is no package with one ML Program.
        OSError: it cannot be read.
    """
    from coremltools.converters.mil.frontend.milproto.load import load
    from coremltools.converters.mil.mil.passes.pass_registry import PASS_REGISTRY

    with Package(path) as package:
        spec, weights = package.spec, package.model_path.parent / "weights"
    if spec.WhichOneof("Type") != "mlProgram":
        raise ModelFormatError(f"{path}: is a pipeline of models; give the package of one of them")
    if version is None or version < spec.specificationVersion:
        raise ConfigError(
            f"specification_version: must be {spec.specificationVersion} or more, which is that of "
            f"{path}. Got {version}."
        )
    if description is None and (what := _beyond_tensors(spec.description)):
        raise ConfigError(
            f"model_description: {path} has {what}, which its program does not hold; pass "
            "model_description=coremltools.models.MLModel(path, skip_model_load=True)"
            ".get_spec().description"
        )
    program: PymilProgram = load(spec, version, str(weights))
    if spec.description.functions:
        program.default_function_name = spec.description.defaultFunctionName
        program.export_as_multifunction = True
        deduplicate = PASS_REGISTRY["common::const_deduplication"]
        deduplicate._deduplicate_const_across_functions(program)
    return program


def _beyond_tensors(description: Message) -> str | None:
    """Returns what a description says beyond the types of tensors, None where it says no more."""
    if description.predictedFeatureName:
        return "class labels"
    for holder in (description, *description.functions):
        for feature in (*holder.input, *holder.output):
            kind = feature.type.WhichOneof("Type")
            if kind == "imageType":
                return f"an image, {feature.name!r}"
            if feature.type.isOptional:
                return f"an optional input, {feature.name!r}"
            if kind == "multiArrayType" and feature.type.multiArrayType.WhichOneof(
                "ShapeFlexibility"
            ):
                return f"a flexible shape, that of {feature.name!r}"
    return None
