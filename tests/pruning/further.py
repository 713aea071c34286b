"""Packages with one weight of each compressed form, as coremltools and mlpass make them."""

from __future__ import annotations

from functools import partial
from inspect import signature

import coremltools as ct
import coremltools.optimize.coreml as cto
import numpy as np
from coremltools.converters.mil.mil import Builder as mb
from coremltools.converters.mil.mil import types
from coremltools.converters.mil.mil.passes.pass_pipeline import PassOption
from coremltools.converters.mil.mil.passes.pass_registry import PASS_REGISTRY

import mlpass
from mlpass import NM, Config, OpConfig, Palette, Percentile, Quantized
from tests import peer
from tests.runtime.programs import convert

SIZE = 32

_quantized = partial(cto.OpLinearQuantizerConfig, mode="linear_symmetric", weight_threshold=1)
_palettized = partial(cto.OpPalettizerConfig, mode="uniform", weight_threshold=1)
_pruned = cto.OpMagnitudePrunerConfig(target_sparsity=0.5, weight_threshold=1)
_pairs = cto.OpMagnitudePrunerConfig(n_m_ratio=(2, 4), dim=1, weight_threshold=1)

PASSES = {
    cto.OpMagnitudePrunerConfig: "prune_weights",
    cto.OpPalettizerConfig: "palettize_weights",
    cto.OpLinearQuantizerConfig: "linear_quantize_weights",
}

# By the name of a weight: the steps of coremltools that compress it, one after another.
OLD = {
    "plain": [],
    "sparse": [_pruned],
    "int8": [_quantized(dtype=np.int8)],
    "uint8": [_quantized(mode="linear", dtype=np.uint8)],
    "palette": [_palettized(nbits=4)],
}
NEW = {
    **OLD,
    "pairs": [_pairs],
    "tensor": [_quantized(dtype=np.int8, granularity="per_tensor")],
    "int4": [_quantized(dtype="int4", granularity="per_block", block_size=16)],
    "uint4": [_quantized(mode="linear", dtype="uint4", granularity="per_channel")],
    "groups": [_palettized(nbits=3, granularity="per_grouped_channel", group_size=8)],
    "across": [
        _palettized(nbits=2, granularity="per_grouped_channel", group_size=8, channel_axis=1)
    ],
    "scaled": [_palettized(nbits=4, enable_per_channel_scale=True)],
    "sparse_int8": [_pruned, _quantized(dtype=np.int8)],
    "sparse_palette": [_pairs, _palettized(nbits=4)],
    "palette_int8": [_palettized(nbits=4), _quantized(dtype=np.int8, granularity="per_tensor")],
}
# The same of mlpass.
OURS = {
    "our_sparse": OpConfig(NM(2, 4)),
    "our_int4": Quantized("int4", block_size=16),
    "our_palette": Palette(2, 4),
    "our_sparse_int4": OpConfig(Percentile(0.5), Quantized("int4")),
    "our_sparse_palette": OpConfig(Percentile(0.75), Palette(4)),
}


def write_source(path, opset):
    """Writes a package in which linears are one after another, each with a weight of a form."""
    forms = OLD if opset < 18 else NEW
    names = [*forms, *(OURS if opset >= 18 else ())]
    rng = np.random.default_rng(0)

    @mb.program(input_specs=[mb.TensorSpec((SIZE, SIZE))], opset_version=target(opset))
    def made(x):
        for name in names:
            weight = rng.standard_normal((SIZE, SIZE)).astype(np.float32) / np.sqrt(SIZE)
            x = mb.linear(x=x, weight=mb.const(val=weight, name=name), name=f"{name}_out")
        return mb.linear(x=x, weight=vectors(rng), name="vectors_out") if opset >= 18 else x

    for number in range(2):
        for kind, compress in PASSES.items():
            chosen = {
                op.name: forms[name][number]
                for name, weight in linear_weights(made).items()  # each pass renames them
                for op in (weight.op, *parts_of(weight.op))
                if len(forms.get(name, ())) > number and isinstance(forms[name][number], kind)
            }
            if chosen:
                config = cto.OptimizationConfig(op_name_configs=chosen)
                options = [PassOption("config", config)]
                if number:
                    options.append(PassOption("joint_compression", True))
                compression = PASS_REGISTRY[f"compression::{compress}"]
                compression.set_options(options)
                compression.apply(made)
    model = convert(
        made, minimum_deployment_target=target(opset), pass_pipeline=ct.PassPipeline.EMPTY
    )
    model.save(str(path))
    if opset >= 18:
        between = path.with_name("between.mlpackage")
        path.rename(between)
        mlpass.prune(between, path, Config(op_name_configs=OURS, weight_threshold=1))


def vectors(rng):
    """Returns a weight that is palettized by vectors of two elements."""
    codes = rng.integers(0, 16, (SIZE, SIZE // 2)).astype(types.np_uint4_dtype)
    table = rng.standard_normal((1, 1, 16, 2)).astype(np.float32) / np.sqrt(SIZE)
    return mb.constexpr_lut_to_dense(indices=codes, lut=table, vector_axis=1, name="vectors")


def target(opset):
    """Returns coremltools' name of an opset."""
    return getattr(ct.target, f"iOS{opset}")


def samples():
    """Returns inputs that correlate."""
    rng = np.random.default_rng(1)
    mix = rng.standard_normal((SIZE, SIZE)).astype(np.float32) / np.sqrt(SIZE)
    mix += np.eye(SIZE, dtype=np.float32)
    return [{"x": rng.standard_normal((SIZE, SIZE)).astype(np.float32) @ mix} for _ in range(4)]


def weights_of(package):
    """Returns the weight of each linear by the weight's name, as coremltools decodes it."""
    (program,) = peer.load_programs(package)
    return {var.name: decoded(var) for var in linear_weights(program).values()}


def linear_weights(program):
    """Returns the weights of a pymil program by the name of the linear that reads each."""
    return {
        op.outputs[0].name.removesuffix("_out"): op.weight
        for op in peer.all_ops([program])
        if op.op_type == "linear"
    }


def decoded(var):
    """Returns the value of a constant, each op before it decoded by coremltools."""
    if var.op.op_type == "const":
        return var.val
    names = signature(var.op.decompress).parameters
    given = {name: getattr(var.op, name) for name in names}
    made = var.op.decompress(**{n: None if v is None else decoded(v) for n, v in given.items()})
    return made[var.op.outputs.index(var)] if isinstance(made, tuple) else made


def parts_of(op):
    """Returns the ops that a compressed weight is made by, before its own."""
    found = [var.op for _, var in peer.inputs(op) if var.op is not None]
    return [each for op in found for each in (op, *parts_of(op))]
