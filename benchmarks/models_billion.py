"""A decoder of 1.1 billion parameters, written straight as a package: nothing is converted.

22 layers of 2,048 channels, 5,632 hidden ones, 32 heads that share 4 keys and values, 32,000 words:
2.2 GB in fp16, so that its last weights lie past 2^31. The weights are random, but not white: each
has a bulk, directions whose strength falls as k^-0.5, and channels of different loudness, as those
of trained models have. So the inputs of layers correlate, and ranking by magnitude costs more
than solving does.

    python benchmarks/models_billion.py billion.mlpackage
    python benchmarks/models_billion.py small.mlpackage --layers 2 --width 512 --hidden 1408 --check
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlpass.program.blobs import BlobWriter
from mlpass.program.ir import Argument, Constant, Op, TensorType, Value
from mlpass.program.messages import encode_op
from mlpass.program.proto import MIL, Model

TOKENS = 128  # of a window
HEAD_WIDTH = 64
SHARING = 8  # heads that share one key and value
ROTARY_BASE = 10_000.0
DIRECTIONS = 256  # of a weight that stand out, at most
OPSET, SPECIFICATION = 18, 9  # iOS18's
WEIGHT_FILE = "@model_path/weights/weight.bin"


@dataclass(frozen=True)
class Size:
    """Of a decoder; widths are multiples of 512, so that heads can share."""

    layers: int = 22
    width: int = 2048
    hidden: int = 5632
    words: int = 32_000

    @property
    def parameters(self) -> int:
        """How many elements its matrices have."""
        shared = self.width // SHARING
        layer = self.width * (2 * self.width + 2 * shared + 3 * self.hidden)
        return self.layers * layer + 2 * self.words * self.width


def write(package: Path, size: Size) -> None:
    """Writes the package of a decoder: `input_ids` (1, 128) to `logits` (1, 128, words).

    Of the weights one is in memory at a time.
    """
    data = package / "Data" / "com.apple.CoreML"
    (data / "weights").mkdir(parents=True)
    writer = BlobWriter(data / "weights" / "weight.bin")
    decoder = _Decoder(writer)
    tokens = Value("input_ids", TensorType("int32", (1, TOKENS)))
    logits = decoder.logits(tokens, size)
    writer.close()

    model = Model(specificationVersion=SPECIFICATION)
    for features, value, kind in (
        (model.description.input, tokens, "INT32"),
        (model.description.output, logits, "FLOAT16"),
    ):
        array = features.add(name=value.name).type.multiArrayType
        array.dataType = array.ArrayDataType.Value(kind)
        array.shape.extend(value.type.shape)
    program = model.mlProgram
    program.version = 1
    function = program.functions["main"]
    function.opset = f"CoreML{OPSET - 10}"
    given = function.inputs.add(name=tokens.name).type.tensorType
    given.dataType, given.rank = MIL.INT32, 2
    for length in (1, TOKENS):
        given.dimensions.add().constant.size = length
    block = function.block_specializations[function.opset]
    block.operations.extend(decoder.messages)
    block.outputs.append(logits.name)
    (data / "model.mlmodel").write_bytes(model.SerializeToString(deterministic=True))
    author, what = "com.apple.CoreML", {"model.mlmodel": "the model", "weights": "its weights"}
    items = {
        name: {"author": author, "description": text, "name": name, "path": f"{author}/{name}"}
        for name, text in what.items()
    }
    manifest = {
        "fileFormatVersion": "1.0.0",
        "itemInfoEntries": items,
        "rootModelIdentifier": "model.mlmodel",
    }
    (package / "Manifest.json").write_text(json.dumps(manifest, indent=4))


def windows(count: int, size: Size) -> list[dict[str, NDArray[np.int32]]]:
    """Returns samples: words drawn as often as those of a text are, the k-th as k^-1."""
    share = 1 / np.arange(1, size.words + 1)
    draw = np.random.default_rng(0)
    words = draw.choice(size.words, (count, 1, TOKENS), p=share / share.sum())
    return [{"input_ids": window.astype(np.int32)} for window in words]


class _Decoder:
    """The messages of a decoder's ops, in order, as they are added."""

    def __init__(self, writer: BlobWriter) -> None:
        self.messages: list[Any] = []
        self._writer = writer
        self._draw = np.random.default_rng(0)

    def logits(self, tokens: Value, size: Size) -> Value:
        """Adds all ops; returns what they end in."""
        width, hidden, shared = size.width, size.hidden, size.width // SHARING
        quiet = (2 * size.layers) ** -0.5  # of what is added to the residual stream
        angles = np.outer(
            np.arange(TOKENS), ROTARY_BASE ** -(np.arange(0, HEAD_WIDTH, 2) / HEAD_WIDTH)
        )
        angles = np.concatenate([angles, angles], axis=1)
        self._cosine, self._sine = (
            self._constant(table, name)
            for table, name in ((np.cos(angles), "cosine"), (np.sin(angles), "sine"))
        )
        self._mask = self._constant(np.triu(np.full((TOKENS, TOKENS), -1e4), 1), "mask")

        table = self._weight("embed", size.words, width, 1.0)
        x = self._op(
            "gather", (1, TOKENS, width), x=table, indices=tokens, axis=0, batch_dims=0,
            validate_indices=False, name="embedded",
        )  # fmt: skip
        for number in range(size.layers):
            at = f"layer_{number}"
            normed = self._norm(x, f"{at}_norm_1")
            q, k, v = (
                self._linear(normed, f"{at}_{name}", rows)
                for name, rows in (("q", width), ("k", shared), ("v", shared))
            )
            x = self._add(x, self._linear(self._mixed(q, k, v), f"{at}_out", width, quiet))
            normed = self._norm(x, f"{at}_norm_2")
            gate, up = (self._linear(normed, f"{at}_{name}", hidden) for name in ("gate", "up"))
            gated = self._mul(self._op("silu", gate.type.shape, x=gate), up)
            x = self._add(x, self._linear(gated, f"{at}_down", width, quiet))
        return self._linear(self._norm(x, "norm"), "logits", size.words)

    def _norm(self, x: Value, name: str) -> Value:
        """Adds RMSNorm: over the largest of a token first, so that no square is above 1."""
        one = (1, TOKENS, 1)
        largest = self._op(
            "reduce_max", one, x=self._op("abs", x.type.shape, x=x), axes=[-1], keep_dims=True
        )
        largest = self._op("maximum", one, x=largest, y=np.float16(1e-4))
        scaled = self._op("real_div", x.type.shape, x=x, y=largest)
        square = self._op("square", x.type.shape, x=scaled)
        mean = self._op("reduce_mean", one, x=square, axes=[-1], keep_dims=True)
        normed = self._mul(scaled, self._op("rsqrt", one, x=mean, epsilon=np.float16(1e-6)))
        loudness = np.exp(0.4 * self._draw.standard_normal(x.type.shape[-1]))
        return self._mul(normed, self._constant(loudness, f"{name}_weight"))

    def _mixed(self, q: Value, k: Value, v: Value) -> Value:
        """Adds attention, of (1, token, channel) each, to what the tokens before have."""
        groups, width = k.type.shape[-1] // HEAD_WIDTH, q.type.shape[-1]
        q, k, v = (self._heads(x, groups) for x in (q, k, v))
        scale, square = np.float16(HEAD_WIDTH**-0.5), (1, groups, SHARING, TOKENS, TOKENS)
        turned = self._mul(self._turned(q), scale)
        logits = self._op(
            "matmul", square, x=turned, y=self._turned(k), transpose_x=False, transpose_y=True
        )
        shares = self._op("softmax", square, x=self._add(logits, self._mask), axis=-1)
        mixed = self._op(
            "matmul", q.type.shape, x=shares, y=v, transpose_x=False, transpose_y=False
        )
        token_first = (1, TOKENS, groups, SHARING, HEAD_WIDTH)
        mixed = self._op("transpose", token_first, x=mixed, perm=[0, 3, 1, 2, 4])
        return self._op("reshape", (1, TOKENS, width), x=mixed, shape=[1, TOKENS, width])

    def _heads(self, x: Value, groups: int) -> Value:
        """Adds what makes (1, token, channel) (1, group, head, token, channel)."""
        heads = x.type.shape[-1] // (groups * HEAD_WIDTH)
        parted = (1, TOKENS, groups, heads, HEAD_WIDTH)
        x = self._op("reshape", parted, x=x, shape=list(parted))
        made = (1, groups, heads, TOKENS, HEAD_WIDTH)
        return self._op("transpose", made, x=x, perm=[0, 2, 3, 1, 4])

    def _turned(self, x: Value) -> Value:
        """Adds the turn of (..., token, channel) by the angles of its places."""
        half = (*x.type.shape[:-1], HEAD_WIDTH // 2)
        first, second = (
            self._op(
                "slice_by_size", half, x=x, begin=[0, 0, 0, 0, start], size=[-1, -1, -1, -1, 32]
            )
            for start in (0, HEAD_WIDTH // 2)
        )
        crossed = self._op(
            "concat", x.type.shape, values=(self._mul(second, np.float16(-1)), first), axis=-1,
            interleave=False,
        )  # fmt: skip
        return self._add(self._mul(x, self._cosine), self._mul(crossed, self._sine))

    def _linear(self, x: Value, name: str, rows: int, scale: float = 1.0) -> Value:
        columns = x.type.shape[-1]
        weight = self._weight(f"{name}_weight", rows, columns, scale * columns**-0.5)
        return self._op("linear", (1, TOKENS, rows), x=x, weight=weight, name=name)

    def _add(self, x: Value, y: Value) -> Value:
        return self._op("add", x.type.shape, x=x, y=y)

    def _mul(self, x: Value, y: Value | np.float16) -> Value:
        return self._op("mul", x.type.shape, x=x, y=y)

    def _weight(self, name: str, rows: int, columns: int, scale: float) -> Value:
        """Adds a weight of which each output has a power of about `scale` squared a column."""
        draw = self._draw
        count = min(DIRECTIONS, rows, columns)
        strength = np.arange(1, count + 1, dtype=np.float32) ** np.float32(-0.5)
        strength *= np.float32(1 / np.linalg.norm(strength))
        left = draw.standard_normal((rows, count), np.float32) * strength
        weight = left @ draw.standard_normal((count, columns), np.float32)
        weight += draw.standard_normal((rows, columns), np.float32)
        weight *= np.exp(0.3 * draw.standard_normal(columns, np.float32)) * np.float32(
            scale * 0.5**0.5
        )
        return self._constant(weight, name)

    def _constant(self, array: NDArray[Any], name: str) -> Value:
        """Adds a constant in fp16, in the weight file."""
        return self._stated(array.astype(np.float16), name)

    def _stated(self, array: NDArray[Any], name: str) -> Value:
        beside = Constant(TensorType("fp16", (1,)), bytes, (WEIGHT_FILE, 0), in_file=True)
        constant = Constant.of(array, beside if array.dtype == np.float16 else None)
        value = Value(name, constant.type)
        self._encode(Op("const", name, {"val": (constant,)}, (value,)))
        return value

    def _op(self, op_type: str, made: Sequence[int], /, name: str = "", **given: Any) -> Value:
        """Adds an op, and a const op for each argument that is not a value; returns its result.

        Args:
            op_type: MIL's.
            made: the shape of the result.
            name: of the op; by default its type and a number.
            given: its arguments.
        """
        name = name or f"{op_type}_{len(self.messages)}"
        inputs: dict[str, tuple[Argument, ...]] = {}
        for parameter, argument in given.items():
            if isinstance(argument, Value):
                inputs[parameter] = (argument,)
            elif isinstance(argument, tuple):
                inputs[parameter] = argument
            else:
                array = np.asarray(argument)
                array = array.astype(np.int32) if array.dtype == np.int64 else array
                inputs[parameter] = (self._stated(array, f"{name}_{parameter}"),)
        value = Value(name, TensorType("fp16", tuple(made)))
        self._encode(Op(op_type, name, inputs, (value,)))
        return value

    def _encode(self, op: Op) -> None:
        self.messages.append(encode_op(op, OPSET, self._store))

    def _store(self, constant: Constant) -> tuple[str, int]:
        return WEIGHT_FILE, self._writer.write(constant.load(), constant.dtype, constant.size)


def main() -> None:
    """Writes a decoder, and where asked has coremltools read it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("package", type=Path)
    for name, value in vars(Size()).items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--check", action="store_true", help="have coremltools read it")
    options = parser.parse_args()
    size = Size(*(getattr(options, name) for name in vars(Size())))
    write(options.package, size)
    print(f"{options.package}: {size.parameters:,} parameters")
    if options.check:
        import coremltools as ct
        from coremltools.converters.mil.frontend.milproto.load import load

        model = ct.models.MLModel(str(options.package), skip_model_load=True)
        load(model.get_spec(), SPECIFICATION, model.weights_dir)
        print("coremltools reads it")


if __name__ == "__main__":
    main()
