"""Images with a scale and a bias: inside a conversion their pixels are what they are afterwards."""

from __future__ import annotations

import warnings

import coremltools as ct
import numpy as np
import pytest
import torch
from coremltools.converters.mil.mil import Builder as mb
from coremltools.converters.mil.mil import types
from PIL import Image

import mlpass
from mlpass import Percentile, SparseGPT
from mlpass.errors import InputError
from tests import peer
from tests.plugin.test_passes_equal import assert_same
from tests.runtime.programs import convert

pytestmark = pytest.mark.filterwarnings("ignore:Implicitly cleaning up:ResourceWarning")

SIZE = 10
BIAS = [-2.1, -0.4, 1.7]
# layout, scale, bias
IMAGES = {
    "rgb": ("RGB", 1 / 58.4, BIAS),
    "bgr": ("BGR", 1 / 58.4, BIAS),
    "scale": ("RGB", 1 / 255, None),
    "bias": ("RGB", 1.0, [-123.7, -116.8, -103.9]),
    "gray": ("GRAYSCALE", 2 / 255, -1.0),
    "gray scale": ("GRAYSCALE", 1 / 255, None),
    "gray half": ("GRAYSCALE_FLOAT16", 1 / 127, -0.9),
    "neither": ("RGB", 1.0, None),
}


def image_type(name, **options):
    layout, scale, bias = IMAGES[name]
    channels = 3 if "GRAY" not in layout else 1
    shape = options.pop("shape", (1, channels, SIZE, SIZE))
    return ct.ImageType(
        "image", shape, scale, bias, getattr(ct.colorlayout, layout), **options
    ), channels


def network(channels, dtype=types.fp32, *, last=False):
    """A program with two layers, whose masks hang on what they meet."""
    generator = np.random.default_rng(7)
    shape = (1, SIZE, SIZE, channels) if last else (1, channels, SIZE, SIZE)

    @mb.program(input_specs=[mb.TensorSpec(shape, dtype)], opset_version=ct.target.iOS17)
    def built(image):
        x = mb.transpose(x=image, perm=[0, 3, 1, 2]) if last else image
        x = mb.cast(x=x, dtype="fp32") if dtype == types.fp16 else x
        weight = generator.standard_normal((96, channels, 5, 5)).astype(np.float32)
        x = mb.relu(x=mb.conv(x=x, weight=weight, name="first"))
        weight = generator.standard_normal((24, 96, 3, 3)).astype(np.float32) / 12
        return mb.conv(x=x, weight=weight, name="second")

    return built


def samples_of(channels, count=16, *, last=False):
    """Samples whose pixels have a mean of their own in each channel."""
    generator = np.random.default_rng(5)
    mean = np.linspace(40, 200, channels)[:, None, None]
    made = np.clip(generator.normal(mean, 30, (count, 1, channels, SIZE, SIZE)), 0, 255)
    made = made.round().astype(np.float32)
    return [{"image": one.transpose(0, 2, 3, 1) if last else one} for one in made]


def with_images(program, *images):
    program.functions["main"].set_input_types(images)
    return program


def dtype_of(name):
    return types.fp16 if IMAGES[name][0].endswith("FLOAT16") else types.fp32


@pytest.mark.slow_but_every(16)
@pytest.mark.parametrize("precision", ["FLOAT32", "FLOAT16"])
@pytest.mark.parametrize("name", IMAGES)
def test_a_conversion_prunes_as_afterwards(tmp_path, name, precision):
    image, channels = image_type(name)
    samples = samples_of(channels)
    options = {"method": SparseGPT(), "sample_data": samples}
    settings = {"inputs": [image], "compute_precision": getattr(ct.precision, precision)}
    plain = tmp_path / "plain.mlpackage"
    convert(network(channels, dtype_of(name)), **settings).save(str(plain))
    pipeline = mlpass.pipeline(Percentile(0.6), **options)
    model = convert(network(channels, dtype_of(name)), pass_pipeline=pipeline, **settings)
    assert_same(model, plain, Percentile(0.6), samples[0], tmp_path, at_least=2, **options)
    made, wanted = (
        (tmp_path / which / "Data/com.apple.CoreML/weights/weight.bin").read_bytes()
        for which in ("pipeline.mlpackage", "pruned.mlpackage")
    )
    assert made == wanted


def test_what_an_image_says_matters(tmp_path):
    """Without it the tests above could not fail."""
    made = []
    for scale, bias in [(1.0, None), (1 / 58.4, BIAS)]:
        program = network(3)
        image = ct.ImageType("image", (1, 3, SIZE, SIZE), scale, bias, channel_first=True)
        mlpass.prune(with_images(program, image), Percentile(0.6), sample_data=samples_of(3))
        made.append(weights_of(program))
    assert any(not np.array_equal(a == 0, b == 0) for a, b in zip(*made, strict=True))


def weights_of(program):
    """Returns the sparse weights of a pymil program, decoded by coremltools."""
    operations = program.functions["main"].operations
    sparse = [op for op in operations if op.op_type == "constexpr_sparse_to_dense"]
    assert len(sparse) == 2
    return [peer.value_of(op) for op in sparse]


@pytest.mark.slow_but_every(13)
@pytest.mark.parametrize("first", [True, None])
@pytest.mark.parametrize("name", IMAGES)
def test_a_program_is_pruned_as_its_package(tmp_path, name, first):
    image, channels = image_type(name, channel_first=first)
    samples = samples_of(channels)
    program = with_images(network(channels, dtype_of(name)), image)
    before = str(program)
    mlpass.Interpreter(program).predict(samples[0])
    assert str(program) == before  # it is read, not changed
    mlpass.prune(program, Percentile(0.6), sample_data=samples)
    plain, pruned = tmp_path / "plain.mlpackage", tmp_path / "pruned.mlpackage"
    convert(network(channels, dtype_of(name)), inputs=[image_type(name)[0]]).save(str(plain))
    mlpass.prune(plain, pruned, Percentile(0.6), sample_data=samples)
    (finished,) = peer.load_programs(pruned)
    wanted = weights_of(finished)
    for made, expected in zip(weights_of(program), wanted, strict=True):
        np.testing.assert_array_equal(made, expected)


@pytest.mark.parametrize("name", IMAGES)
@pytest.mark.parametrize("last", [False, True])
def test_a_program_runs_on_what_numpy_makes_of_its_pixels(name, last):
    layout, scale, bias = IMAGES[name]
    channels = 3 if "GRAY" not in layout else 1
    shape = (1, SIZE, SIZE, channels) if last else (1, channels, SIZE, SIZE)
    image, _ = image_type(name, shape=shape, channel_first=not last)
    sample = samples_of(channels, 1, last=last)[0]["image"]
    offset = np.zeros(1) if bias is None else np.reshape(bias, -1)
    offset = offset if last else offset[:, None, None]
    narrow = np.float16 if dtype_of(name) == types.fp16 else np.float32
    given = narrow(scale).astype(np.float32) * sample + offset.astype(narrow).astype(np.float32)
    plain = mlpass.Interpreter(network(channels, last=last))
    (wanted,) = plain.predict({"image": given}).values()
    program = with_images(network(channels, dtype_of(name), last=last), image)
    (made,) = mlpass.Interpreter(program).predict({"image": sample}).values()
    np.testing.assert_allclose(made, wanted, rtol=1e-4, atol=1e-4 * np.abs(wanted).max())


def test_channels_last_in_a_conversion(tmp_path):
    """coremltools numbers the names of what it moves to channels first, so values are compared."""

    def made(pipeline=None):
        image = ct.ImageType("image", (1, SIZE, SIZE, 3), 1 / 58.4, BIAS, channel_first=False)
        return convert(network(3, last=True), inputs=[image], pass_pipeline=pipeline)

    samples = samples_of(3)  # the package takes channels first
    plain, pruned = tmp_path / "plain.mlpackage", tmp_path / "pruned.mlpackage"
    made().save(str(plain))
    mlpass.prune(plain, pruned, Percentile(0.6), sample_data=samples)
    model = made(mlpass.pipeline(Percentile(0.6), sample_data=samples))
    (finished,) = peer.load_programs(pruned)
    for inside, after in zip(weights_of(model._mil_program), weights_of(finished), strict=True):
        np.testing.assert_array_equal(inside, after)


def test_a_finished_program_is_not_scaled_twice():
    image, channels = image_type("rgb")
    model = convert(network(channels), inputs=[image])
    program, sample = model._mil_program, samples_of(channels, 1)[0]
    operations = [op.op_type for op in program.functions["main"].operations]
    assert operations.count("mul") == 1
    (made,) = mlpass.Interpreter(program).predict(sample).values()
    (wanted,) = mlpass.Interpreter(model).predict(sample).values()
    np.testing.assert_array_equal(made, wanted)


@pytest.mark.slow_but_every(3)
@pytest.mark.parametrize("name", ["rgb", "bgr", "gray"])
def test_samples_may_be_pictures(tmp_path, name):
    image, channels = image_type(name)
    samples = []
    for sample in samples_of(channels):
        pixels = sample["image"][0].transpose(1, 2, 0).astype(np.uint8)
        samples.append({"image": Image.fromarray(pixels[..., 0] if channels == 1 else pixels)})
    plain = tmp_path / "plain.mlpackage"
    convert(network(channels), inputs=[image]).save(str(plain))
    pipeline = mlpass.pipeline(Percentile(0.6), sample_data=samples)
    model = convert(network(channels), inputs=[image], pass_pipeline=pipeline)
    assert_same(model, plain, Percentile(0.6), samples[0], tmp_path, sample_data=samples)


def test_a_picture_of_another_size():
    image, channels = image_type("rgb", channel_first=True)
    runner = mlpass.Interpreter(with_images(network(channels), image))
    with pytest.raises(InputError, match=r"must be of \(height, width\) \(10, 10\)"):
        runner.predict({"image": np.zeros((1, 3, 4, 4), np.float32)})


def test_other_functions_and_other_inputs_are_as_they_were():
    program = network(3)
    program.functions["other"] = program.functions.pop("main")
    image, _ = image_type("rgb", channel_first=True)
    program.functions["other"].set_input_types((image,))
    sample = samples_of(3, 1)[0]
    made = mlpass.Interpreter(program, function_name="other").predict(sample)
    wanted = mlpass.Interpreter(network(3)).predict(sample)
    np.testing.assert_array_equal(*made.values(), *wanted.values())
    program = with_images(network(3), ct.ImageType("another", (1, 3, 4, 4), 0.5))
    made = mlpass.Interpreter(program).predict(sample)
    np.testing.assert_array_equal(*made.values(), *wanted.values())


def test_images_of_many_sizes(tmp_path):
    shape = (1, 3, ct.RangeDim(8, 16, 10), ct.RangeDim(8, 16, 10))

    def made(pipeline=None):
        traced = torch.jit.trace(_Net().eval(), torch.zeros(1, 3, SIZE, SIZE))
        image = ct.ImageType("image", shape, 1 / 58.4, BIAS)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ct.convert(
                traced,
                skip_model_load=True,
                minimum_deployment_target=ct.target.iOS17,
                inputs=[image],
                pass_pipeline=pipeline,
            )

    small = samples_of(3, 4)
    big = [{"image": np.tile(one["image"], (1, 1, 1, 2))[..., :15]} for one in samples_of(3, 8)[4:]]
    options = {"sample_data": [*small, *big]}
    made().save(str(tmp_path / "plain.mlpackage"))
    model = made(mlpass.pipeline(Percentile(0.6), **options))
    plain = tmp_path / "plain.mlpackage"
    assert_same(model, plain, Percentile(0.6), big[0], tmp_path, at_least=2, **options)


class _Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first = torch.nn.Conv2d(3, 32, 5, bias=False)
        self.second = torch.nn.Conv2d(32, 24, 3)

    def forward(self, x):
        return self.second(torch.relu(self.first(x)))


@pytest.mark.slow_but_every(2)
@pytest.mark.conversion
@pytest.mark.parametrize("target", [ct.target.iOS16, ct.target.iOS18], ids=str)
def test_a_torch_model_with_a_name_that_is_sanitized(tmp_path, target):
    shape = (1, 3, SIZE, SIZE)
    samples = [{"my image": one["image"]} for one in samples_of(3)]
    known = [{"my_image": one["image"]} for one in samples_of(3)]

    def made(pipeline=None):
        traced = torch.jit.trace(_Net().eval(), torch.zeros(shape))
        image = ct.ImageType("my image", shape, 1 / 58.4, BIAS, ct.colorlayout.BGR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ct.convert(
                traced,
                inputs=[image],
                pass_pipeline=pipeline,
                minimum_deployment_target=target,
                skip_model_load=True,
            )

    plain = tmp_path / "plain.mlpackage"
    made().save(str(plain))
    model = made(mlpass.pipeline(Percentile(0.6), sample_data=samples))
    config = Percentile(0.6)
    assert_same(model, plain, config, known[0], tmp_path, at_least=2, sample_data=known)
