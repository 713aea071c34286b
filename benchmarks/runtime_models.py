"""The models that bench_runtime.py runs: torch modules, their inputs, and their packages."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

ROOT = Path(__file__).resolve().parent.parent


def convolution(
    inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1
) -> list[nn.Module]:
    """Returns a convolution that keeps the size at stride 1, and its batch norm."""
    window = (kernel, stride, kernel // 2)
    return [
        nn.Conv2d(inputs, outputs, *window, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    ]


def folded(
    inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1
) -> list[nn.Module]:
    """Returns the same with the norm folded in, and padded as TensorFlow does."""
    before, after = (kernel - stride) // 2, (kernel - stride + 1) // 2
    pad = [nn.ZeroPad2d((before, after, before, after))] if kernel > 1 else []
    return [*pad, nn.Conv2d(inputs, outputs, kernel, stride, groups=groups)]


class Residual(nn.Module):
    """What its layers make, added to its input or to a projection of that."""

    def __init__(self, layers: list[nn.Module], skip: nn.Module, last: nn.Module) -> None:
        super().__init__()
        self.layers, self.skip, self.last = nn.Sequential(*layers), skip, last

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.last(self.layers(x) + self.skip(x))
        return y


def mobile(stages: str, make: Callable[..., list[nn.Module]], last: int) -> nn.Module:
    """Returns a network of inverted residuals."""
    # A stage: factor of its hidden channels, channels, blocks, stride of the first, kernel.
    layers, width = [*make(3, 32, 3, 2), nn.ReLU6()], 32
    for stage in stages.split():
        expansion, channels, repeats, first, kernel = map(int, stage.split(","))
        for index in range(repeats):
            stride, hidden = (1 if index else first), width * expansion
            block = [*make(width, hidden), nn.ReLU6()] if expansion > 1 else []
            block += [*make(hidden, hidden, kernel, stride, hidden), nn.ReLU6()]
            block += make(hidden, channels)
            same = stride == 1 and width == channels
            layers += [Residual(block, nn.Identity(), nn.Identity())] if same else block
            width = channels
    layers += [*make(width, last), nn.ReLU6(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(last, 1000))


def mobilenet() -> nn.Module:
    stages = "1,16,1,1,3 6,24,2,2,3 6,32,3,2,3 6,64,4,2,3 6,96,3,1,3 6,160,3,2,3 6,320,1,1,3"
    return mobile(stages, convolution, 1280)


def efficientnet() -> nn.Module:
    stages = "1,16,1,1,3 6,24,2,2,3 6,40,2,2,5 6,80,3,2,3 6,112,3,1,5 6,192,4,2,5 6,320,1,1,3"
    return mobile(stages, folded, 1280)


def resnet() -> nn.Module:
    layers, width = [*convolution(3, 64, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1)], 64
    for number, repeats in enumerate((3, 4, 6, 3)):
        inner = 64 << number
        for index in range(repeats):
            stride = 2 if number and not index else 1
            block = [*convolution(width, inner), nn.ReLU()]
            block += [*convolution(inner, inner, 3, stride), nn.ReLU()]
            block += convolution(inner, 4 * inner)
            skip = (
                nn.Identity() if index else nn.Sequential(*convolution(width, 4 * inner, 1, stride))
            )
            layers.append(Residual(block, skip, nn.ReLU()))
            width = 4 * inner
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 1000))


class Layer(nn.Module):
    """A pre-norm transformer layer."""

    def __init__(self, width: int, heads: int, causal: bool) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        batch, positions, width = x.shape
        parts = self.qkv(self.norm1(x)).chunk(3, dim=-1)
        heads = (batch, positions, self.heads, width // self.heads)
        q, k, v = (part.view(heads).transpose(1, 2) for part in parts)
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, positions, width))
        y: Tensor = x + self.mlp(self.norm2(x))
        return y


class Transformer(nn.Module):
    """A ViT, of images in patches, where it has no vocabulary; else a GPT, of tokens."""

    def __init__(self, width: int, heads: int, layers: int, positions: int, words: int) -> None:
        super().__init__()
        self.words = words
        self.embed = nn.Embedding(words, width) if words else nn.Conv2d(3, width, 16, 16)
        self.position = nn.Parameter(torch.randn(1, positions, width) * 0.1)
        self.first = nn.Parameter(torch.randn(1, 1, width) * 0.1)
        self.layers = nn.Sequential(*(Layer(width, heads, words > 0) for _ in range(layers)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, words or 1000)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        if not self.words:
            x = torch.cat((self.first, x.flatten(2).transpose(1, 2)), dim=1)
        x = self.norm(self.layers(x + self.position))
        y: Tensor = self.head(x if self.words else x[:, 0])
        return y


def digits() -> nn.Module:
    convolutions: list[nn.Module] = []
    for inputs, outputs in ((1, 32), (32, 64), (64, 128)):
        convolutions += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    head = (nn.Linear(128 * 3 * 3, 256), nn.ReLU(), nn.Linear(256, 10))
    return nn.Sequential(*convolutions, nn.Flatten(), *head)


def tiny_lm() -> nn.Module:
    sys.path.append(str(ROOT))  # what makes the fixtures is not installed
    module: nn.Module = import_module("fixtures.make.transformer").Transformer()
    return module


# Name: (module, shape of the input, words of a vocabulary); fixtures carry their inputs.
RANDOM: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], int]] = {
    "mobilenetv2": (mobilenet, (2, 3, 224, 224), 0),
    "resnet50": (resnet, (1, 3, 224, 224), 0),
    "vit": (lambda: Transformer(384, 6, 12, 197, 0), (1, 3, 224, 224), 0),
    "gpt": (lambda: Transformer(512, 8, 8, 256, 8192), (1, 256), 8192),
}
FIXTURES = {"efficientnet_lite0": efficientnet, "tiny_lm": tiny_lm, "digits_ios15": digits}


def build(name: str, folder: str) -> None:
    """Saves a model's torch module and inputs, and its package unless that is a fixture."""
    torch.manual_seed(0)
    if name in FIXTURES:
        module = FIXTURES[name]().eval()
        fill(module, ROOT / f"fixtures/{name}.mlpackage")
        truth = np.load(ROOT / f"fixtures/{name}.npz")
        inputs = {k.removeprefix("input:"): truth[k] for k in truth if k.startswith("input:")}
    else:
        make, shape, words = RANDOM[name]
        module = make()
        x = torch.randint(words, shape, dtype=torch.int32) if words else torch.randn(shape)
        settle(module, x)
        convert(module, x, Path(folder, "model.mlpackage"))
        inputs = {"x": x.numpy()}
    torch.save(module, Path(folder, "module.pt"))
    np.savez(Path(folder, "inputs.npz"), **inputs)


def fill(module: nn.Module, package: Path) -> None:
    """Gives the module a package's weights: both state them in the order of their use."""
    import mlpass

    interpreter = mlpass.Interpreter(package)
    (part,) = interpreter.parts
    arrays = (np.array(part.constants[value]) for value in part.plan.makers)
    stated = (array for array in arrays if array.any())  # the converter made biases of zeros
    with torch.no_grad():
        for parameter in module.parameters():
            fitting = (array for array in stated if array.shape == tuple(parameter.shape))
            parameter.copy_(torch.from_numpy(next(fitting)))


@torch.no_grad()
def settle(module: nn.Module, x: Tensor) -> None:
    """Draws norms' weights, and takes their statistics from x: no activation dies or explodes."""
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.momentum = 1.0
            part.weight.uniform_(0.5, 1.5)
            part.bias.normal_(0, 0.1)
    module.train()(x)
    module.eval()


def convert(
    module: nn.Module,
    x: Tensor,
    target: Path,
    *,
    precision: str = "float32",
    ios: int = 17,
    names: tuple[str, str | None] = ("x", None),
) -> None:
    """Writes a module's package.

    Args:
        module: to convert.
        x: an input.
        target: path of the package.
        precision: of its weights and arithmetic, "float32" or "float16".
        ios: the version it is for.
        names: of its input and output; None leaves the output's to the converter.
    """
    import coremltools as ct

    kind = np.float32 if x.is_floating_point() else np.int32
    trace: Callable[..., object] = torch.jit.trace
    model = ct.convert(
        trace(module, x),
        inputs=[ct.TensorType(names[0], tuple(x.shape), dtype=kind)],
        outputs=[ct.TensorType(names[1], dtype=np.float32)] if names[1] else None,
        convert_to="mlprogram",
        compute_precision=ct.precision(precision),
        minimum_deployment_target=ct.target[f"iOS{ios}"],
        skip_model_load=True,
    )
    model.save(str(target))
