"""The parts of a model message that is a pipeline."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from mlpass.errors import ModelFormatError

if TYPE_CHECKING:
    from mlpass.program.proto import Message

_PIPELINES: dict[str, Callable[[Message], Message]] = {
    "pipeline": lambda model: model.pipeline,
    "pipelineClassifier": lambda model: model.pipelineClassifier.pipeline,
    "pipelineRegressor": lambda model: model.pipelineRegressor.pipeline,
}


def pipeline_of(model: Message) -> Message | None:
    """Returns the pipeline that a model message holds, None where it is not a pipeline."""
    unwrap = _PIPELINES.get(model.WhichOneof("Type"))
    return unwrap(model) if unwrap else None


def raise_pipelines(model: Message) -> None:
    """Lifts a pipeline's specification version to that of its newest part."""
    pipeline = pipeline_of(model)
    for part in pipeline.models if pipeline is not None else ():
        raise_pipelines(part)
        model.specificationVersion = max(model.specificationVersion, part.specificationVersion)


def ml_programs(model: Message, name: str, path: Path) -> Iterator[tuple[str, Message]]:
    """Yields (part name, model message) of every ML Program in a model."""
    kind = model.WhichOneof("Type")
    pipeline = pipeline_of(model)
    if pipeline is not None:
        found = False
        for index, part in enumerate(pipeline.models):
            label = pipeline.names[index] if index < len(pipeline.names) else str(index)
            if part.WhichOneof("Type") == "mlProgram" or pipeline_of(part) is not None:
                found = True
                yield from ml_programs(part, f"{name}/{label}" if name else label, path)
        if not found:
            raise ModelFormatError(f"{path}: no part of its pipeline is an ML Program")
    elif kind == "mlProgram":
        yield name, model
    else:
        raise ModelFormatError(
            f"{path}: holds a {kind or 'model of unknown kind'}; mlpass only reads ML Programs "
            "(convert with coremltools' convert_to='mlprogram')"
        )
