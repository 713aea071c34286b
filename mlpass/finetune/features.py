"""What a module is given and gives: one sample, or several along their leading axis."""

from __future__ import annotations

import torch
from torch import Tensor

from mlpass.errors import InputError
from mlpass.finetune.batching import PerSample
from mlpass.program.ir import CHANNELS
from mlpass.runtime.description import Feature
from mlpass.runtime.features import expected, read_input, shape_misfit, takes


def read_feature(feature: Feature, value: object, device: torch.device) -> Tensor:
    """Returns an input as a tensor of the type that the program runs on.

    Raises:
        InputError: it is not a tensor of that type.
    """
    if value is None:
        return torch.from_numpy(read_input(feature, None)).to(device)
    try:
        tensor = torch.as_tensor(value, device=device)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"input {feature.name!r}: is not a tensor: {error}") from None
    if feature.dtype.startswith(("int", "uint")):
        if tensor.is_floating_point():
            raise InputError(
                f"input {feature.name!r}: must be {expected(feature)}. Got {tensor.dtype}."
            )
        return tensor.to(torch.int32)
    if feature.dtype == "fp16":
        tensor = tensor.to(torch.float16)
    return tensor.to(torch.float32)


def batch_size(feature: Feature, tensor: Tensor, told: int | None = None) -> int | None:
    """Returns how many samples an input is, None where it is one as the model takes it.

    Args:
        feature: of the model.
        tensor: what is given.
        told: how many there are, where that is known.

    Raises:
        InputError: it is neither.
    """
    given = tuple(tensor.shape)
    if told is not None and told > 1 and tensor.ndim and not len(tensor) % told:
        return told
    if takes(feature, given):
        return None
    shape = _sample_shape(feature)
    leading = shape[0] if shape else 1
    count, rest = divmod(tensor.shape[0], max(1, leading)) if tensor.ndim else (0, 0)
    one = (leading, *tensor.shape[1:]) if shape else ()
    if count and not rest and tensor.ndim == max(1, len(shape)) and takes(feature, one):
        return count
    raise InputError(
        f"input {feature.name!r}: must be of shape {_described(feature)}, or several of these "
        f"along the leading axis. Got {given}{shape_misfit(feature, given)}."
    )


def write_value(value: object, count: int | None) -> Tensor:
    """Returns an output: of a batch of `count`, all samples along the leading axis."""
    if isinstance(value, PerSample):
        samples = value.samples
    elif count is None:
        return torch.as_tensor(value)
    else:  # it does not depend on the sample
        samples = torch.as_tensor(value).expand(count, *torch.as_tensor(value).shape)
    return samples.flatten(0, 1) if samples.ndim > 1 else samples


def _sample_shape(feature: Feature) -> tuple[int, ...]:
    if feature.kind == "image":
        return (1, CHANNELS[feature.layout], *feature.shape)
    return feature.shape


def _described(feature: Feature) -> str:
    if feature.kind != "image":
        return str(feature.shapes)
    return f"(1, {CHANNELS[feature.layout]}, height, width) of {feature.shapes}"
