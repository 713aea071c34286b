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
