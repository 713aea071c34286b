"""MobileNetV3-small in torch, with random weights.

Source: Howard et al. 2019, "Searching for MobileNetV3", arXiv 1905.02244, table 2.
"""

from __future__ import annotations

import torch
from runtime_models import Residual, convolution
from torch import Tensor, nn

# A block: kernel, hidden channels, channels, whether it is excited, hardswish or ReLU, stride.
BLOCKS = (
    (3, 16, 16, True, False, 2),
    (3, 72, 24, False, False, 2),
    (3, 88, 24, False, False, 1),
    (5, 96, 40, True, True, 2),
    (5, 240, 40, True, True, 1),
    (5, 240, 40, True, True, 1),
    (5, 120, 48, True, True, 1),
    (5, 144, 48, True, True, 1),
    (5, 288, 96, True, True, 2),
    (5, 576, 96, True, True, 1),
    (5, 576, 96, True, True, 1),
)


class Excitation(nn.Module):
    """Scales each channel by what all of them hold on average."""

    def __init__(self, width: int) -> None:
        super().__init__()
        # A quarter of the channels, to the nearest multiple of eight.
        hidden = max(8, (width // 4 + 4) // 8 * 8)
        self.scale = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(width, hidden, 1),
            nn.ReLU(),
            nn.Conv2d(hidden, width, 1),
            nn.Hardsigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x * self.scale(x)
        return y


def mobilenetv3() -> nn.Module:
    """Returns the network: images (batch, 3, 224, 224) to logits (batch, 1000)."""
    layers, width = [*convolution(3, 16, 3, 2), nn.Hardswish()], 16
    for kernel, hidden, channels, excited, swish, stride in BLOCKS:
        active = nn.Hardswish if swish else nn.ReLU
        block = [*convolution(width, hidden), active()] if hidden != width else []
        block += [*convolution(hidden, hidden, kernel, stride, hidden), active()]
        block += [Excitation(hidden)] if excited else []
        block += convolution(hidden, channels)
        same = stride == 1 and width == channels
        layers += [Residual(block, nn.Identity(), nn.Identity())] if same else block
        width = channels
    layers += [*convolution(width, 576), nn.Hardswish(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(576, 1024), nn.Hardswish(), nn.Linear(1024, 1000))


if __name__ == "__main__":
    made = mobilenetv3().eval()
    count = sum(parameter.numel() for parameter in made.parameters())
    print(f"{count} parameters, output {tuple(made(torch.zeros(1, 3, 224, 224)).shape)}")
