"""A small model of each converter that others wrote, of random weights: nothing is downloaded."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import coremltools as ct
import numpy as np

import mlpass

RNG = np.random.default_rng(0)
Sample = Any  # {input: array}, or a list of those: one sequence


class Case(NamedTuple):
    """A model as its client knows it.

    Attributes:
        convert: writes it to a path; given what the client takes of `inside`.
        samples: to solve on, and to judge by.
        expected: the source framework's outputs, an array a call in the order of the samples.
        inside: how the client is told to prune: "pass_pipeline", "pass_names" or "converting".
        suffix: of the file.
    """

    convert: Callable[..., None]
    samples: Sequence[Sample]
    expected: Sequence[np.ndarray]
    inside: str
    suffix: str = ".mlpackage"


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def images(name: str, *shape: int) -> list[dict[str, np.ndarray]]:
    return [{name: normal(*shape)} for _ in range(8)]


def named(
    samples: Sequence[dict[str, np.ndarray]],
    convert: Callable[..., None],
    suffix: str = ".mlpackage",
) -> list[dict[str, np.ndarray]]:
    """Returns samples of one array by the name of the program's input: the client's affair."""
    with tempfile.TemporaryDirectory() as folder:
        convert(path := Path(folder, f"named{suffix}"))
        (feature,) = mlpass.Interpreter(path).inputs
    return [{feature.name: array} for sample in samples for array in sample.values()]


def drawn(*shape: int) -> np.ndarray:
    """Returns a weight with its rows first, of a size that keeps activations at theirs."""
    return normal(*shape) * np.float32(np.sqrt(2 / np.prod(shape[1:])))


def stablehlo() -> Case:
    import jax
    from flax import linen
    from jax._src.interpreters import mlir
    from jax._src.lib.mlir import ir
    from stablehlo_coreml import build_pass_pipeline, convert

    class Network(linen.Module):
        @linen.compact
        def __call__(self, x):
            x = linen.relu(linen.Conv(32, (3, 3), strides=2)(x))
            x = linen.relu(linen.Conv(64, (3, 3), strides=2)(x))
            return linen.Dense(10)(linen.relu(linen.Dense(128)(x.reshape(1, -1))))

    network, samples = Network(), images("x", 1, 16, 16, 3)
    parameters = network.init(jax.random.key(0), samples[0]["x"])
    run = jax.jit(lambda x: network.apply(parameters, x))
    text = jax.export.export(run)(samples[0]["x"]).mlir_module()

    def to_coreml(path, pass_pipeline=None):
        module = ir.Module.parse(text, context=mlir.make_ir_context())
        model = ct.convert(
            convert(module, minimum_deployment_target=ct.target.iOS18),
            source="milinternal",
            minimum_deployment_target=ct.target.iOS18,
            pass_pipeline=pass_pipeline or build_pass_pipeline(),
            skip_model_load=True,
        )
        model.save(str(path))

    expected = [np.asarray(run(sample["x"])) for sample in samples]
    return Case(to_coreml, named(samples, to_coreml), expected, "pass_pipeline")


def onnx2coreml() -> Case:
    import onnx
    import onnx2coreml as client
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    weights = {
        "first": drawn(32, 3, 3, 3),
        "second": drawn(64, 32, 3, 3),
        "head": drawn(128, 1024),
        "last": drawn(10, 128),
    }
    around = {"pads": [1, 1, 1, 1], "strides": [2, 2]}
    nodes = [
        helper.make_node("Conv", ["x", "first"], ["a"], **around),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "second"], ["c"], **around),
        helper.make_node("Relu", ["c"], ["d"]),
        helper.make_node("Flatten", ["d"], ["e"]),
        helper.make_node("Gemm", ["e", "head"], ["f"], transB=1),
        helper.make_node("Relu", ["f"], ["g"]),
        helper.make_node("Gemm", ["g", "last"], ["y"], transB=1),
    ]
    shapes = (("x", [1, 3, 16, 16]), ("y", [1, 10]))
    given, made = (helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in shapes)
    stored = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "network", [given], [made], stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    onnx.checker.check_model(model)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    samples = images("x", 1, 3, 16, 16)
    return Case(
        lambda path: client.convert(model, minimum_deployment_target="iOS17").save(str(path)),
        samples,
        [session.run(None, sample)[0] for sample in samples],
        "converting",
    )


def tensorflow() -> Case:
    import tensorflow as tf

    tf.random.set_seed(0)
    first, second, head, last = (
        tf.Variable(np.ascontiguousarray(np.moveaxis(drawn(*shape), 0, -1)))
        for shape in ((32, 3, 3, 3), (64, 3, 3, 32), (128, 1024), (10, 128))
    )

    @tf.function(input_signature=[tf.TensorSpec((1, 16, 16, 3), tf.float32, name="x")])
    def network(x):
        x = tf.nn.relu(tf.nn.conv2d(x, first, 2, "SAME"))
        x = tf.nn.relu(tf.nn.conv2d(x, second, 2, "SAME"))
        return tf.nn.relu(tf.reshape(x, (1, -1)) @ head) @ last

    def convert(path, pass_pipeline=None):
        model = ct.convert(
            [network.get_concrete_function()],
            source="tensorflow",
            minimum_deployment_target=ct.target.iOS17,
            pass_pipeline=pass_pipeline or ct.PassPipeline.DEFAULT,
            skip_model_load=True,
        )
        model.save(str(path))

    samples = images("x", 1, 16, 16, 3)
    expected = [network(tf.constant(sample["x"])).numpy() for sample in samples]
    return Case(convert, samples, expected, "pass_pipeline")


def executorch() -> Case:
    import torch
    from executorch.backends.apple.coreml.compiler import CoreMLBackend
    from executorch.backends.apple.coreml.partition import CoreMLPartitioner
    from executorch.exir import to_edge_transform_and_lower

    network, samples = torch_network(), images("x", 1, 3, 16, 16)

    def convert(path, **names):
        specs = CoreMLBackend.generate_compile_specs(
            minimum_deployment_target=ct.target.iOS17, **names
        )
        exported = torch.export.export(network, (torch.zeros(1, 3, 16, 16),))
        partitioner = CoreMLPartitioner(compile_specs=specs)
        edge = to_edge_transform_and_lower(exported, partitioner=[partitioner])
        path.write_bytes(edge.to_executorch().buffer)

    with torch.no_grad():
        expected = [network(torch.from_numpy(sample["x"])).numpy() for sample in samples]
    return Case(convert, named(samples, convert, ".pte"), expected, "pass_names", ".pte")


def torch_network() -> Any:
    import torch
    from torch import nn

    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 32, 3, 2, 1), nn.ReLU(), nn.Conv2d(32, 64, 3, 2, 1), nn.ReLU()]
    layers += [nn.Flatten(), nn.Linear(1024, 128), nn.ReLU(), nn.Linear(128, 10)]
    return nn.Sequential(*layers).eval()


def mlx2coreml() -> Case:
    import mlx.core as mx
    import mlx.nn as nn
    import mlx2coreml as client

    mx.random.seed(0)
    layers = [nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 10)]
    network, samples = nn.Sequential(*layers), images("x", 1, 64)

    def convert(path):
        made = client.convert_mlx_to_coreml(
            network,
            {"x": mx.array(samples[0]["x"])},
            config=client.ConversionConfig(deployment_target="iOS18", convert_to="mlprogram"),
            capture_function=lambda x: network(x),
        )
        made.model.save(str(path))

    expected = [np.array(network(mx.array(sample["x"]))) for sample in samples]
    return Case(convert, samples, expected, "converting")


def yolo(nms: bool) -> Case:
    os.environ.update(YOLO_AUTOINSTALL="false", YOLO_OFFLINE="true", YOLO_VERBOSE="false")
    os.environ["YOLO_CONFIG_DIR"] = tempfile.mkdtemp()
    import torch
    from torch import nn
    from ultralytics import YOLO

    size = 96
    torch.manual_seed(0)
    model = YOLO("yolo11n.yaml")
    norms = [part for part in model.model.modules() if isinstance(part, nn.BatchNorm2d)]
    for part in norms:  # their statistics from pictures: no activation dies or explodes
        part.momentum = 1.0
    with torch.no_grad():
        model.model.train()(torch.rand(8, 3, size, size))
    model.model.eval()

    def convert(path):
        before = os.getcwd()
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)
            try:
                made = model.export(format="coreml", imgsz=size, nms=nms, conf=0.001)
                Path(made).rename(path)
            finally:
                os.chdir(before)

    from PIL import Image

    pixels = RNG.integers(0, 256, (8, size, size, 3)).astype(np.uint8)
    batch = torch.from_numpy(pixels.transpose(0, 3, 1, 2) / np.float32(255))
    expected = []
    for one in batch:
        with torch.no_grad():
            (made,) = model.model(one[None])[0].numpy()  # (4 and the classes, places)
        boxes, classes = made[:4].T / np.float32(size), made[4:].T
        expected.append(np.concatenate([classes.ravel(), boxes.ravel()]) if nms else made)
    return Case(
        convert, [{"image": Image.fromarray(one)} for one in pixels], expected, "converting"
    )


def language_model(kind: str) -> Case:
    import torch
    import transformers

    context, layers, heads, width = 32, 2, 2, 32
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=256,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=heads,
        max_position_embeddings=context,
        head_dim=width,
        attn_implementation="eager",
    )
    torch.manual_seed(0)
    network = getattr(transformers, f"{kind}ForCausalLM")(config).eval()

    class Cache:
        """What attention asks of a cache, on buffers that Core ML makes states of."""

        is_compileable, layers = False, ()

        def __init__(self, keys, values, end):
            self.keys, self.values, self.end = keys, values, end

        def update(self, key, value, layer, *_, **__):
            for stored, new in ((self.keys, key), (self.values, value)):
                stored[layer : layer + 1, :, self.end - 1 : self.end] = new
            return (each[layer : layer + 1, :, : self.end] for each in (self.keys, self.values))

        def get_seq_length(self, *_):
            return self.end - 1

    class Decoder(torch.nn.Module):
        """One token, its place, and a mask as long as what there is to look at."""

        def __init__(self):
            super().__init__()
            self.network = network
            shape = (layers, heads, context, width)
            self.register_buffer("keys", torch.zeros(shape))
            self.register_buffer("values", torch.zeros(shape))

        def forward(self, token, place, mask):
            cache = Cache(self.keys, self.values, mask.shape[-1])
            return network(
                token,
                attention_mask=mask,
                position_ids=place,
                past_key_values=cache,
                use_cache=True,
            ).logits

    length = ct.RangeDim(1, context, default=1)

    def convert(path, pass_pipeline=None):
        decoder = Decoder().eval()
        example = (torch.zeros(1, 1).int(), torch.zeros(1, 1).int(), torch.zeros(1, 1, 1, 5))
        model = ct.convert(
            torch.jit.trace(decoder, example, check_trace=False),
            inputs=[
                ct.TensorType("token", (1, 1), dtype=np.int32),
                ct.TensorType("place", (1, 1), dtype=np.int32),
                ct.TensorType("mask", (1, 1, 1, length), dtype=np.float16),
            ],
            outputs=[ct.TensorType("logits", dtype=np.float16)],
            states=[
                ct.StateType(ct.TensorType(shape=decoder.keys.shape, dtype=np.float16), name)
                for name in ("keys", "values")
            ],
            minimum_deployment_target=ct.target.iOS18,
            pass_pipeline=pass_pipeline or ct.PassPipeline.DEFAULT,
            skip_model_load=True,
        )
        model.save(str(path))

    texts = RNG.integers(0, 256, (4, 24)).astype(np.int32)
    samples = [
        [
            {
                "token": token.reshape(1, 1),
                "place": np.array([[place]], np.int32),
                "mask": np.zeros((1, 1, 1, place + 1), np.float16),
            }
            for place, token in enumerate(text)
        ]
        for text in texts
    ]
    with torch.no_grad():  # all tokens at once, without a cache
        whole = [network(torch.from_numpy(text)[None].long()).logits[0] for text in texts]
    expected = [row.numpy() for rows in whole for row in rows]
    return Case(convert, samples, expected, "pass_pipeline")


CASES: dict[str, Callable[[], Case]] = {
    "stablehlo-coreml": stablehlo,
    "onnx2coreml": onnx2coreml,
    "tensorflow": tensorflow,
    "executorch": executorch,
    "ultralytics": lambda: yolo(nms=False),
    "ultralytics nms=True": lambda: yolo(nms=True),
    "transformers Llama": lambda: language_model("Llama"),
    "transformers Qwen2": lambda: language_model("Qwen2"),
    "mlx2coreml": mlx2coreml,
}
