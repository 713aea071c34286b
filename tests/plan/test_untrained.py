"""Transforms and filterbanks inside a model stay as they are, and the report says why."""

from __future__ import annotations

import coremltools as ct
import numpy as np
import pytest
import torch
from coremltools.converters.mil import Builder as mb

import mlpass
from mlpass import Percentile
from mlpass.finetune import to_module
from mlpass.plan.untrained import reason_untrained
from mlpass.program.pymil import read_program
from mlpass.weights.sites import find_sites
from tests.plan.test_fixed import filterbank

WAVES = "it is waves under one window: a Fourier or cosine transform, not a trained weight"
TRIANGLES = "it is filters side by side: a filterbank, as mel's is, not a trained weight"

pytestmark = pytest.mark.filterwarnings("ignore:Implicitly cleaning up:ResourceWarning")


class Listener(torch.nn.Module):
    """A spectrogram on mel's scale, and a trained layer."""

    def __init__(self):
        super().__init__()
        mel, _ = filterbank("htk", 40, 129)
        self.register_buffer("window", torch.hann_window(200))
        self.register_buffer("mel", torch.from_numpy(mel.astype(np.float32)))
        self.head = torch.nn.Linear(40, 64)

    def forward(self, sound):
        spectrum = torch.stft(sound, 256, 128, 200, self.window, center=False, return_complex=True)
        power = torch.view_as_real(spectrum).square().sum(-1)
        return self.head(torch.matmul(self.mel, power).log1p().transpose(1, 2))


def converted(precision, target="milinternal"):
    torch.manual_seed(0)
    traced = torch.jit.trace(Listener().eval(), torch.randn(1, 1024))
    return ct.convert(
        traced,
        inputs=[ct.TensorType("sound", (1, 1024))],
        outputs=[ct.TensorType("heard")],
        convert_to=target,
        compute_precision=precision,
        minimum_deployment_target=ct.target.iOS16,
        skip_model_load=target == "mlprogram",
    )


@pytest.fixture(scope="module", params=[ct.precision.FLOAT16, ct.precision.FLOAT32], ids=str)
def package(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("listener") / "listener.mlpackage"
    converted(request.param, "mlprogram").save(str(path))
    return path


def test_a_nan_that_signals_is_looked_at_without_a_warning(tmp_path):
    weight = np.random.default_rng(0).standard_normal((32, 40)).astype(np.float32)
    weight.view(np.uint32)[[0, 20], [3, 7]] = 0x7F800001, 0xFF800000  # a NaN that signals, and -inf

    @mb.program(input_specs=[mb.TensorSpec((1, 40))], opset_version=ct.target.iOS17)
    def program(x):
        return mb.linear(x=x, weight=weight)

    (site,) = find_sites([read_program(program)])
    assert reason_untrained(site) is None


def test_the_parts_of_a_mel_spectrogram_are_left_alone(package, tmp_path):
    report = mlpass.prune(package, tmp_path / "out.mlpackage", Percentile(0.5))
    reasons = sorted(str(layer.skipped) for layer in report.layers)
    assert reasons == sorted([WAVES, WAVES, TRIANGLES, "None"])
    (layer,) = (layer for layer in report.layers if layer.skipped is None)
    assert layer.shape == (64, 40)


def test_a_global_ranking_leaves_them_out(package, tmp_path):
    config = Percentile(0.5, scope="global")
    report = mlpass.prune(package, tmp_path / "out.mlpackage", config)
    assert [layer.sparsity for layer in report.layers if layer.skipped is None] == [0.5]


def test_they_are_left_alone_in_a_program():
    program = converted(ct.precision.FLOAT16)
    sites = find_sites([read_program(program)])
    report = mlpass.prune(program, Percentile(0.5))
    assert len(sites) == len(report.layers) == 4
    reasons = sorted(str(layer.skipped) for layer in report.layers)
    assert reasons == sorted([WAVES, WAVES, TRIANGLES, "None"])


def test_they_are_not_trained(package):
    shapes = {tuple(parameter.shape) for parameter in to_module(package).parameters()}
    assert shapes == {(64, 40), (64,)}
