"""ExecuTorch's export, which takes names of passes, and no options: its Core ML delegates, pruned.

Runs where the extra `executorch` is installed, on Linux as on a Mac.
"""

from __future__ import annotations

from importlib.util import find_spec

import coremltools as ct
import numpy as np
import pytest
import torch

import mlpass
import mlpass.plugin
from mlpass import NM, Percentile

if not find_spec("executorch"):
    pytest.skip("the extra executorch is not installed", allow_module_level=True)

# They are what torch and ExecuTorch have to say to each other.
pytestmark = pytest.mark.filterwarnings("ignore")


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first = torch.nn.Linear(64, 128)
        self.second = torch.nn.Linear(128, 64)

    def forward(self, x):
        return self.second(torch.relu(self.first(x)))


def delegate(folder, pass_names=None):
    """Returns the package in the Core ML delegate of an export."""
    from executorch.backends.apple.coreml import executorchcoreml
    from executorch.backends.apple.coreml.compiler import CoreMLBackend
    from executorch.backends.apple.coreml.partition import CoreMLPartitioner
    from executorch.exir import to_edge_transform_and_lower

    specs = CoreMLBackend.generate_compile_specs(
        minimum_deployment_target=ct.target.iOS17,
        **({} if pass_names is None else {"pass_names": pass_names}),
    )
    exported = torch.export.export(Model().eval(), (torch.zeros(1, 64),))
    edge = to_edge_transform_and_lower(
        exported, partitioner=[CoreMLPartitioner(compile_specs=specs)]
    )
    assert len(edge.to_executorch().buffer) > 1000  # it goes to a .pte
    (lowered,) = [
        module
        for _, module in edge.exported_program().graph_module.named_children()
        if hasattr(module, "processed_bytes")
    ]
    folder.mkdir()
    executorchcoreml.unflatten_directory_contents(lowered.processed_bytes, str(folder))
    return next(folder.rglob("*.mlpackage"))


def samples():
    rng = np.random.default_rng(1)
    return [{"x": rng.standard_normal((1, 64)).astype(np.float32)} for _ in range(8)]


def inside(folder, how, config, **given):
    """Returns the package of an export that prunes, by names or in a block."""
    if how == "names":
        return delegate(folder, mlpass.plugin.names(config, **given))
    with mlpass.converting(config, **given) as reports:
        package = delegate(folder)
    assert len(reports) == 1
    return package


@pytest.mark.parametrize("how", ["names", "converting"])
@pytest.mark.parametrize(
    ("config", "given"),
    [(Percentile(0.75), {}), (NM(2, 4), {"method": "sparsegpt", "sample_data": samples()})],
    ids=["data-free", "calibrated"],
)
def test_pruned_inside_it_is_what_it_is_pruned_afterwards(how, config, given, tmp_path):
    package = inside(tmp_path / "inside", how, config, **given)
    afterwards = {**given, "method": mlpass.SparseGPT()} if given else {}
    mlpass.prune(delegate(tmp_path / "dense"), tmp_path / "after.mlpackage", config, **afterwards)
    layers = mlpass.inspect(package).layers
    assert [layer.encoding for layer in layers] == ["sparse", "sparse"]
    assert [layer.zeros for layer in layers] == [
        layer.zeros for layer in mlpass.inspect(tmp_path / "after.mlpackage").layers
    ]
    for sample in samples():
        ours = mlpass.Interpreter(package).predict(sample)
        theirs = mlpass.Interpreter(tmp_path / "after.mlpackage").predict(sample)
        for name, value in ours.items():
            np.testing.assert_allclose(value, theirs[name], atol=1e-3)


class Two(Model):
    """One layer, an op that is left to ExecuTorch, and another layer."""

    def forward(self, x):
        return self.second(torch.sigmoid(self.first(x)))


def exported(model, methods, left=(), *, segments=True, shared=True):
    """Returns a whole program, some ops of which are left to ExecuTorch."""
    from executorch.backends.apple.coreml.compiler import CoreMLBackend
    from executorch.backends.apple.coreml.compiler.coreml_preprocess import (
        MULTIMETHOD_WEIGHT_SHARING_STRATEGY as SHARING,
    )
    from executorch.backends.apple.coreml.partition import CoreMLPartitioner
    from executorch.exir import ExecutorchBackendConfig, to_edge_transform_and_lower

    specs = CoreMLBackend.generate_compile_specs(minimum_deployment_target=ct.target.iOS18)
    specs.append(
        CoreMLBackend.generate_multimethod_weight_sharing_strategy_compile_spec(
            SHARING.POSITIONAL if shared else SHARING.DISABLED
        )
    )
    edge = to_edge_transform_and_lower(
        {
            name: torch.export.export(model, (torch.zeros(rows, 64),))
            for name, rows in methods.items()
        },
        partitioner=[CoreMLPartitioner(compile_specs=specs, skip_ops_for_coreml_delegation=left)],
    )
    return edge.to_executorch(ExecutorchBackendConfig(extract_delegate_segments=segments)).buffer


def read(path):
    """Returns what ExecuTorch reads: the program without data, its Core ML folders, the rest."""
    from executorch.exir._serialize._program import deserialize_pte_binary

    file = deserialize_pte_binary(path.read_bytes())
    blobs = [bytes(each.data) for each in file.program.backend_delegate_data]
    file.program.backend_delegate_data = []
    named = file.named_data
    if named is not None:
        blobs += [bytes(each) for each in named.buffers]
    keys = None if named is None else sorted(named.pte_data)
    return (
        (file.program, keys, file.mutable_data),
        [blob for blob in blobs if not blob.startswith(b"CMJR")],
        [blob for blob in blobs if blob.startswith(b"CMJR")],
    )


def unpacked(blob, folder):
    """Returns the folder of a delegate, as ExecuTorch unpacks it, and that it packs it so."""
    from executorch.backends.apple.coreml import executorchcoreml

    folder.mkdir()
    assert executorchcoreml.unflatten_directory_contents(blob, str(folder))
    (inner,) = folder.iterdir()
    assert executorchcoreml.flatten_directory_contents(str(inner)) == blob
    return inner


def contents(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize(
    ("kind", "methods", "given", "models"),
    [
        (Model, {"forward": 1}, {}, 1),
        (Model, {"forward": 1}, {"segments": False}, 1),
        (Two, {"forward": 1}, {"left": ["aten.sigmoid.default"]}, 2),
        (Two, {"forward": 1}, {"left": ["aten.sigmoid.default"], "segments": False}, 2),
        (Model, {"forward": 1, "prefill": 8}, {}, 1),
        (Model, {"forward": 1, "prefill": 8}, {"shared": False}, 2),
    ],
    ids=["segment", "inline", "two", "two inline", "shared", "apart"],
)
def test_a_finished_program_is_pruned(kind, methods, given, models, tmp_path):
    source, out = tmp_path / "model.pte", tmp_path / "pruned.pte"
    source.write_bytes(exported(kind().eval(), methods, **given))
    report = mlpass.prune(source, out, Percentile(0.5))
    assert report.bytes_before - report.bytes_after == source.stat().st_size - out.stat().st_size
    assert report.bytes_after < 0.75 * report.bytes_before
    (program, folders, references), (same, pruned, others) = read(source), read(out)
    assert program == same and references == others and len(folders) == len(pruned)
    for number, (before, after) in enumerate(zip(folders, pruned, strict=True)):
        old, new = (
            unpacked(blob, tmp_path / f"{name}{number}")
            for name, blob in (("old", before), ("new", after))
        )
        assert old.name == new.name
        was, is_ = contents(old), contents(new)
        assert was.keys() == is_.keys()
        assert {name for name in was if was[name] != is_[name]} == {
            "metadata.json",
            "model.mlpackage/Data/com.apple.CoreML/model.mlmodel",
            "model.mlpackage/Data/com.apple.CoreML/weights/weight.bin",
        }
        mlpass.prune(old / "model.mlpackage", tmp_path / f"{number}.mlpackage", Percentile(0.5))
        assert contents(tmp_path / f"{number}.mlpackage") == contents(new / "model.mlpackage")
    assert len({layer.name for layer in report.layers}) == len(report.layers)
    mlpass.prune(source, tmp_path / "same.pte", mlpass.Threshold(0.0))
    assert (tmp_path / "same.pte").read_bytes() == source.read_bytes()
    assert models == len({layer.name.rpartition("/")[0] for layer in report.layers})
