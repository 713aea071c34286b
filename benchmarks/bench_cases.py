"""The models of bench_runs.py: package, calibration samples, what is left dense, figures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import data_fashion
import data_images
import numpy as np
import torch
from numpy.typing import NDArray

from mlpass.report.records import LayerRecord
from mlpass.sparsity.modes import Mode

Array = NDArray[Any]
Predict = Callable[[Mapping[str, Array]], Mapping[str, Array]]
ROOT = Path(__file__).resolve().parent.parent
SAMPLES = 128
CROPS = 160  # of evaluation
BATCHES = {"torch loop": 1, "torch loop, 8 at once": 8}  # samples that a block runs on together
THRESHOLD = 2048  # elements; a weight of so many or fewer stays as it is, as is mlpass' default


@dataclass(frozen=True)
class Case:
    """A model.

    Attributes:
        package: returns its dense package for an iOS version: 17, or 18, which joint forms need.
        samples: returns so many calibration samples.
        spared: says whether a weight is left dense.
        figures: returns what a package is worth, from its predictions.
        configs: to prune it with, by default.
        peer: given a peer's name, a method and a mode, prunes the model's torch equal, and returns
            seconds and sparsity, and what gives the figures.
        peers: their names, and how they run; none where they cannot.
        peer_methods: those that peers have.
    """

    package: Callable[[int], Path]
    samples: Callable[[int], list[dict[str, Array]]]
    spared: Callable[[LayerRecord], bool]
    figures: Callable[[Predict], dict[str, float]]
    configs: tuple[str, ...]
    peer: Callable[[str, str, Mode], tuple[dict[str, float], Callable[[], dict[str, float]]]] | None
    peers: tuple[str, ...] = ()
    peer_methods: tuple[str, ...] = ()


def _smollm2() -> Case:
    import models_smollm2 as smollm2
    import peer_torch

    def figures(predict: Predict) -> dict[str, float]:
        def logits(tokens: Array) -> Array:
            return predict({"input_ids": tokens})["logits"]

        return {"perplexity": smollm2.perplexity(logits, smollm2.evaluation())}

    def peer(name: str, method: str, mode: Mode) -> Any:
        model = smollm2.loaded()
        tokens = torch.from_numpy(np.stack(smollm2.calibration(SAMPLES))).int()
        with torch.inference_mode():
            inputs = model.embed(tokens)
        tables = model.tables(tokens.shape[1])
        streams = list(inputs.split(BATCHES[name]))
        timed = peer_torch.prune_blocks(model.layers, streams, tables, method, mode)
        timed["sparsity"] = peer_torch.sparsity(model)

        @torch.inference_mode()
        def predict(inputs: Mapping[str, Array]) -> dict[str, Array]:
            return {"logits": model(torch.from_numpy(inputs["input_ids"])).numpy()}

        return timed, lambda: figures(predict)

    return Case(
        smollm2.package,
        lambda count: [{"input_ids": window[None]} for window in smollm2.calibration(count)],
        lambda layer: layer.name.startswith("embed_"),
        figures,
        ("0.5", "2:4"),
        peer,
        tuple(BATCHES),
        peer_torch.METHODS,
    )


def _fashion(seed: int) -> Case:
    import models_fashion as fashion
    import peer_torch

    def figures(predict: Predict) -> dict[str, float]:
        return {"top1": fashion.top1(lambda pixels: predict({"image": pixels})["logits"])}

    def peer(name: str, method: str, mode: Mode) -> Any:
        samples = [torch.from_numpy(one["image"]) for one in data_fashion.calibration(SAMPLES)]
        model, timed = peer_torch.compress(fashion.trained(seed), samples, mode, THRESHOLD)
        timed["sparsity"] = peer_torch.sparsity(model, THRESHOLD)

        @torch.inference_mode()
        def predict(inputs: Mapping[str, Array]) -> dict[str, Array]:
            return {"logits": model(torch.from_numpy(inputs["image"])).numpy()}

        return timed, lambda: figures(predict)

    return Case(
        lambda ios: fashion.package(seed, ios),
        data_fashion.calibration,
        lambda _: False,
        figures,
        ("0.5", "0.75", "2:4"),
        peer,
        ("LayerwiseCompressor",),
        ("sparsegpt",),
    )


def _efficientnet() -> Case:
    import models_efficientnet

    @cache
    def dense() -> Array:
        import mlpass

        interpreter = mlpass.Interpreter(models_efficientnet.package(17), backend="torch")
        return logits(interpreter.predict)

    def logits(predict: Predict) -> Array:
        return np.concatenate([predict(one)["logits"] for one in data_images.evaluation(CROPS)])

    def figures(predict: Predict) -> dict[str, float]:
        pruned, truth = logits(predict).astype(float), dense().astype(float)
        same = float(np.mean(pruned.argmax(axis=1) == truth.argmax(axis=1)))
        if not (noise := np.mean(np.square(pruned - truth))):
            return {"agreement": same}
        return {
            "snr_db": float(10 * np.log10(np.mean(np.square(truth)) / noise)),
            "agreement": same,
        }

    return Case(
        models_efficientnet.package,
        data_images.calibration,
        # The stem reads 3 channels, a depthwise convolution 1: few weights, and all of them matter.
        lambda layer: len(layer.shape) == 4 and layer.shape[1] in (1, 3),
        figures,
        ("0.3", "0.5"),
        None,  # its skips and depthwise convolutions are more than LayerwiseCompressor takes
    )


def _minilm() -> Case:
    import models_minilm as minilm

    def figures(predict: Predict) -> dict[str, float]:
        return {"recall": minilm.recall(lambda inputs: predict(inputs)["embedding"])}

    return Case(
        minilm.package,
        minilm.calibration,
        lambda layer: layer.op_type == "gather",  # the embedding table
        figures,
        ("0.5", "2:4"),
        None,
    )


def _tiny_lm() -> Case:
    import models_tiny

    def figures(predict: Predict) -> dict[str, float]:
        return {"bits_a_byte": models_tiny.bits_a_byte(lambda one: predict(one)["logits"])}

    return Case(
        models_tiny.package,
        models_tiny.calibration,
        lambda layer: layer.op_type == "gather",  # the embedding table, which is the head as well
        figures,
        ("0.5",),
        None,
    )


CASES: dict[str, Callable[[], Case]] = {
    "smollm2": _smollm2,
    **{f"fashion-{seed}": lambda seed=seed: _fashion(seed) for seed in range(3)},
    "efficientnet": _efficientnet,
    "minilm": _minilm,
    "tiny_lm": _tiny_lm,
}
