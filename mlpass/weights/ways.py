"""What there is to do next with the weights of a report."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from mlpass.program.hosted import output_name
from mlpass.report.records import LayerRecord

_IOS18 = 18


def quantize_way(
    layers: Sequence[LayerRecord], sparse: Sequence[LayerRecord], source: str, opset: int
) -> tuple[str, ...]:
    """Returns a note on how to quantize weights that are sparse; or none.

    Args:
        layers: all weights of a model.
        sparse: those of them that are floats beside a mask, and were before.
        source: path of the model.
        opset: the oldest of its functions.
    """
    if not sparse:
        return ()
    command = ["mlpass", "prune", source, "-o", output_name(source, "int8"), "--quantize", "int8"]
    if opset < _IOS18:
        command += ["--minimum-deployment-target", f"iOS{_IOS18}"]
    text = (
        f"{len(sparse)} of {len(layers)} weights are sparse floats; to quantize what they keep: "
        f"{shlex.join(command)} (coremltools passes over them without joint_compression=True)"
    )
    return (text,)
