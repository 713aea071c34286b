"""What there is to do next with the weights of a report."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from mlpass.program.pte_paths import output_name
from mlpass.report.records import LayerRecord
from mlpass.weights.site import Site

_IOS18 = 18


def quantize_way(
    layers: Sequence[LayerRecord],
    sparse: Sequence[LayerRecord],
    sources: Sequence[str],
    opset: int,
) -> tuple[str, ...]:
    """Returns a note on how to quantize weights that are sparse; or none.

    Args:
        layers: all weights of a model.
        sparse: those of them that are floats beside a mask, and were before.
        sources: path of the model, or of each of its packages in a row.
        opset: the oldest of its functions.
    """
    if not sparse:
        return ()
    command = int8_command(sources)
    if opset < _IOS18:
        command += ["--minimum-deployment-target", f"iOS{_IOS18}"]
    text = (
        f"{len(sparse)} of {len(layers)} weights are sparse floats; to quantize what they keep: "
        f"{shlex.join(command)} (coremltools passes over them without joint_compression=True)"
    )
    return (text,)


def joint_option(*, raised: bool = False) -> str:
    """Returns what has weights take part that are compressed already.

    Args:
        raised: whether the model has to be raised for that, too.
    """
    raising = f" with --minimum-deployment-target iOS{_IOS18}" if raised else ""
    return f"--joint-compression{raising} (joint_compression=True in Python)"


def left_alone(sites: Sequence[Site], way: str) -> tuple[str, ...]:
    """Returns a note on weights that are compressed, and were not looked at for that; or none.

    Args:
        sites: all weights of a model.
        way: to have them treated as others are, and what that does.
    """
    found = [site for site in sites if site.has_codes and site.apart is None]
    if not found:
        return ()
    text = f"{len(found)} of {len(sites)} weights are compressed already, and left as they are"
    return (f"{text}: {way}",)


def int8_command(sources: Sequence[str], *, again: bool = False) -> list[str]:
    """Returns the words of a command that quantizes a model, given as the path of each package.

    Args:
        sources: the paths.
        again: whether that is for weights, too, that are compressed already.
    """
    stems = ["int8"] if len(sources) == 1 else [f"int8-{n}" for n in range(1, len(sources) + 1)]
    names = [output_name(source, stem) for source, stem in zip(sources, stems, strict=True)]
    outputs = [word for name in names for word in ("-o", name)]
    anew = ["--joint-compression"] if again else []
    return ["mlpass", "prune", *sources, *outputs, "--quantize", "int8", *anew]
