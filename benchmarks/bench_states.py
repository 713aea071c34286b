"""SmolLM2 with its keys and values in states: calibrated on sequences, judged token by token.

    python benchmarks/bench_states.py --windows 4 --sequences 8 --json states.json

The package takes a prompt, then a token a call (see models_smollm2.py for what else is needed). It
is pruned on sequences of a prompt and single tokens. Perplexity is over windows of the Brown corpus
that no run saw, three ways: a token a call, a whole window a call, and by the package without
states with the same weights. The three are to agree within 1%.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import models_smollm2 as smollm2
import numpy as np
import torch
from bench_cache import folder, made
from models_smollm2 import GROUPS, HEAD_WIDTH, LAYERS, WIDTH, rotated, split
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

import mlpass
from mlpass import ADMM, Config, Magnitude, Percentile, SparseGPT
from mlpass.calibrate.outputs import other_weights
from mlpass.program.mlpackage import Package
from mlpass.weights.reading import weight_of
from mlpass.weights.sites import find_sites

PLACES = 64  # tokens that a state holds
METHODS = {"magnitude": Magnitude(), "sparsegpt": SparseGPT(), "admm": ADMM()}
DENSE = ("embed_weight_to_fp16",)  # embedding and head


class Cached(smollm2.SmolLM2):
    """Tokens (1, n), the first at `position` (1,), to logits (1, n, word)."""

    def __init__(self) -> None:
        super().__init__()
        shape = (LAYERS, GROUPS, PLACES, HEAD_WIDTH)
        self.register_buffer("keys", torch.zeros(shape), persistent=False)
        self.register_buffer("values", torch.zeros(shape), persistent=False)

    def forward(self, tokens: Tensor, position: Tensor) -> Tensor:
        length = tokens.shape[1]
        begin = position[0]
        end = begin + length
        places = position + torch.arange(length)
        cosine, sine = self.cosine[places], self.sine[places]
        mask = torch.where(torch.arange(PLACES) <= places[:, None], 0.0, -1e4)
        x = self.embed(tokens)
        for number, layer in enumerate(self.layers):
            normed = layer.norm1(x)
            q, k, v = (split(part(normed)) for part in (layer.q, layer.k, layer.v))
            q = rotated(q, cosine, sine) * HEAD_WIDTH**-0.5
            self.keys[number : number + 1, :, begin:end] = rotated(k, cosine, sine)[:, :, 0]
            self.values[number : number + 1, :, begin:end] = v[:, :, 0]
            keys, values = (
                each[number : number + 1][:, :, None] for each in (self.keys, self.values)
            )
            weights = torch.softmax(q @ keys.transpose(-1, -2) + mask, dim=-1)
            mixed = (weights @ values).permute(0, 3, 1, 2, 4).reshape(1, -1, WIDTH)
            x = x + layer.out(mixed)
            normed = layer.norm2(x)
            x = x + layer.down(functional.silu(layer.gate(normed)) * layer.up(normed))
        return self.head(x)


def package() -> Path:
    """Returns the `.mlpackage`: `tokens` (1, 1 to 64) at `position`, with states."""
    return made("smollm2-states.mlpackage", lambda target: convert(cached(), target))


def cached() -> Cached:
    """Returns the model with its weights."""
    model = Cached()
    model.load_state_dict(smollm2.loaded().state_dict())
    return model.eval()


def convert(model: Cached, target: Path) -> None:
    """Writes the package of a model."""
    import coremltools as ct

    trace: Callable[..., object] = torch.jit.trace
    with torch.no_grad():
        given = torch.zeros(1, 8, dtype=torch.int32), torch.zeros(1, dtype=torch.int32)
        traced = trace(model, given, check_trace=False)
    shape = tuple(model.keys.shape)
    converted = ct.convert(
        traced,
        minimum_deployment_target=ct.target.iOS18,
        inputs=[
            ct.TensorType("tokens", (1, ct.RangeDim(1, PLACES, default=8)), dtype=np.int32),
            ct.TensorType("position", (1,), dtype=np.int32),
        ],
        outputs=[ct.TensorType("logits", dtype=np.float32)],
        states=[
            ct.StateType(ct.TensorType(shape=shape, dtype=np.float16), name=name)
            for name in ("keys", "values")
        ],
        skip_model_load=True,
    )
    converted.save(str(target))


def sequence(window: NDArray[np.int32], prompt: int) -> list[dict[str, Any]]:
    """Returns a prompt and the tokens after it, one a step."""
    starts = [0, *range(prompt, len(window))]
    ends = [*starts[1:], len(window)]
    return [
        {"tokens": window[None, start:end], "position": np.array([start], np.int32)}
        for start, end in zip(starts, ends, strict=True)
    ]


def by_steps(path: Path, prompt: int) -> Callable[[NDArray[np.int32]], NDArray[Any]]:
    """Returns what gives the logits of a window: a prompt, then a token a call."""
    interpreter = mlpass.Interpreter(path, backend="torch")

    def predict(tokens: NDArray[np.int32]) -> NDArray[Any]:
        state = interpreter.make_state()
        steps = sequence(tokens[0], prompt)
        return np.concatenate([interpreter.predict(s, state)["logits"] for s in steps], axis=1)

    return predict


def at_once(path: Path, windows: Sequence[NDArray[np.int32]]) -> float:
    """Returns the perplexity by the package without states, with the weights of one with them."""
    with Package(path) as package, Package(smollm2.package()) as whole:
        weights = {site.name: weight_of(site) for site in find_sites(package.programs)}
        replaced = {site: weights[site.name] for site in find_sites(whole.programs)}
        interpreter = mlpass.Interpreter(whole, backend="torch")
        with other_weights(interpreter, replaced):
            return smollm2.perplexity(
                lambda tokens: interpreter.predict({"input_ids": tokens})["logits"], windows
            )


def main() -> None:
    """Prints a table, and writes JSON where asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--methods", nargs="*", default=("sparsegpt",), choices=METHODS)
    parser.add_argument("--windows", type=int, default=8, help=f"of {PLACES} tokens, to judge by")
    parser.add_argument("--sequences", type=int, default=16, help="to calibrate on")
    parser.add_argument("--prompt", type=int, default=56, help="tokens before single ones")
    parser.add_argument("--json", metavar="FILE", help="write all figures")
    options = parser.parse_args()
    windows = [each[:PLACES] for each in smollm2.evaluation(options.windows)]
    texts = [each[:PLACES] for each in smollm2.calibration(options.sequences)]
    samples = [sequence(text, options.prompt) for text in texts]
    rows: list[dict[str, Any]] = []
    print("| weights | a token a call | whole windows | without states | apart | seconds |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for name in ("dense", *options.methods):
        path, began = package(), time.perf_counter()
        if name != "dense":
            path = folder() / "smollm2-states-pruned.mlpackage"
            config = Config(
                global_config=Percentile(0.5), op_name_configs=dict.fromkeys(DENSE, None)
            )
            given: dict[str, Any] = {}
            if name != "magnitude":
                given = {"sample_data": samples, "backend": "torch", "target": "own"}
            mlpass.prune(package(), path, config, method=METHODS[name], force=True, **given)
        seconds = time.perf_counter() - began
        found = [smollm2.perplexity(by_steps(path, prompt), windows) for prompt in (1, PLACES)]
        found.append(at_once(path, windows))
        apart = max(found) / min(found) - 1
        row = {"weights": name, "perplexity": found, "apart": apart, "seconds": seconds}
        rows.append(row)
        cells = " | ".join(f"{each:.3f}" for each in found)
        print(f"| {name} | {cells} | {apart:.2%} | {seconds:.0f} |", flush=True)
    if options.json:
        content = {"platform": platform.platform(), "results": rows}
        Path(options.json).write_text(json.dumps(content, indent=1))


if __name__ == "__main__":
    main()
