"""Modules: what the Interpreter computes, on one sample and on many, ready to train."""

import subprocess
import sys

import coremltools as ct
import numpy as np
import pytest
import torch
from coremltools.converters.mil.mil import Builder as mb

import mlpass
from mlpass.errors import ConfigError, ExecutionError, InputError, ModelFormatError
from mlpass.finetune import to_module
from tests.finetune.networks import FIXTURES, layers, save_layers
from tests.runtime.programs import convert, program, truth

TRUTHS = ["basic_pitch", "digits_classifier", "digits_ios15", "digits_pipeline", "multifunction_lm"]
TRUTHS += ["palettized_digits", "quantized_digits", "silero_vad", "tiny_lm"]


def save(build, path, *shapes, **options):
    convert(program(build, *shapes), **options).save(str(path))
    return path


def as_array(output):
    """An output of a prediction as an array; a classifier's by its labels."""
    return np.asarray(list(output.values()) if isinstance(output, dict) else output)


@pytest.mark.slow_but_every(2)
@pytest.mark.parametrize("name", [*TRUTHS, "branches"])
@pytest.mark.parametrize("training", [True, False])
def test_outputs_are_the_interpreters(name, training):
    path = FIXTURES / f"{name}.mlpackage"
    interpreter = mlpass.Interpreter(path, backend="torch")
    if name == "branches":
        generator = np.random.default_rng(0)
        shapes = {feature.name: feature.shape for feature in interpreter.inputs}
        inputs = {n: generator.standard_normal(s).astype("f4") for n, s in shapes.items()}
    else:
        inputs, _ = truth(name)
        inputs = {feature.name: inputs[feature.name] for feature in interpreter.inputs}
    module = to_module(path).train(training)
    with torch.set_grad_enabled(training):
        made = module(**inputs)
    wanted = interpreter.predict(inputs)
    assert set(made) == set(wanted) - {"classLabel"}
    for key, output in made.items():
        array = as_array(wanted[key])
        assert output.requires_grad == training
        np.testing.assert_allclose(
            output.detach().numpy().reshape(array.shape), array, atol=1e-5 * abs(array).max()
        )


def samples_of(module, count):
    generator = torch.Generator().manual_seed(3)
    samples = []
    for _ in range(count):
        sample = {}
        for feature in module.inputs:
            shape = feature.shape if feature.kind == "array" else (1, 1, *feature.shape)
            random = torch.rand(shape, generator=generator)
            sample[feature.name] = (random * 60).int() if feature.dtype == "int32" else random
        samples.append(sample)
    return samples


def together(samples):
    return {name: torch.cat([sample[name] for sample in samples]) for name in samples[0]}


def gradients(module, outputs):
    module.zero_grad()
    sum((output**2).sum() for output in outputs).backward()
    return {name: p.grad for name, p in module.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(
    "name", ["digits_classifier", "digits_pipeline", "silero_vad", "tiny_lm", "stateful_lm"]
)
def test_a_batch_is_its_samples_one_after_another(name):
    module = to_module(FIXTURES / f"{name}.mlpackage")
    samples = samples_of(module, 3)
    if name == "stateful_lm":
        for place, sample in enumerate(samples):
            sample["position"] = torch.tensor([place])
    made = module(**together(samples))
    single = [module(**sample) for sample in samples]
    for key, output in made.items():
        wanted = torch.cat([one[key] for one in single])
        torch.testing.assert_close(output, wanted, rtol=1e-4, atol=1e-4)
    whole = gradients(module, made.values())
    parts = gradients(module, [output for one in single for output in one.values()])
    assert whole.keys() == parts.keys() and whole
    largest = max(float(part.abs().max()) for part in parts.values())
    for key, part in parts.items():
        torch.testing.assert_close(whole[key], part, rtol=1e-3, atol=1e-5 * largest)


@pytest.mark.parametrize("name", ["digits_ios15", "silero_vad", "tiny_lm", "branches"])
def test_gradients_are_those_of_small_changes(name):
    module = to_module(FIXTURES / f"{name}.mlpackage")
    (sample,) = samples_of(module, 1)
    generator = torch.Generator().manual_seed(9)

    def loss():
        return sum(output.double().square().mean() for output in module(**sample).values())

    loss().backward()
    moved = {n: p for n, p in module.named_parameters() if p.grad is not None}
    steps = {
        n: torch.randn(p.shape, generator=generator) * p.detach().abs().mean()
        for n, p in moved.items()
    }
    wanted = sum(float((p.grad * steps[n]).sum(dtype=torch.float64)) for n, p in moved.items())

    def after(share):
        with torch.no_grad():
            for n, p in moved.items():
                p.add_(share * steps[n])
            moved_loss = float(loss())
            for n, p in moved.items():
                p.sub_(share * steps[n])
        return moved_loss

    assert after(1e-3) - after(-1e-3) == pytest.approx(2e-3 * wanted, rel=2e-2)


def test_parameters_are_the_float_weights_under_their_names(tmp_path):
    modules = layers()
    module = to_module(save_layers(modules, tmp_path / "layers.mlpackage"))
    wanted = {f"{name}_{kind}" for name in modules for kind in ("weight", "bias")}
    assert {name for name, _ in module.named_parameters()} == wanted
    for name, layer in modules.items():
        assert torch.equal(module.get_parameter(f"{name}_weight"), layer.weight)
        assert torch.equal(module.get_parameter(f"{name}_bias"), layer.bias)


def test_masters_of_fp16_weights_are_fp32():
    module = to_module(FIXTURES / "digits_ios15.mlpackage")
    assert {p.dtype for p in module.parameters()} == {torch.float32}
    record = mlpass.inspect(FIXTURES / "digits_ios15.mlpackage").layers[0]
    assert record.dtype == "fp16" and record.name in dict(module.named_parameters())


def test_compressed_weights_and_tables_of_positions_stay(tmp_path):
    def build(indices):
        angles = np.arange(32)[:, None] * np.asarray([1.0, 0.3, 0.1, 0.03])
        table = np.concatenate([np.sin(angles), np.cos(angles)], 1).astype(np.float32)
        found = mb.gather(x=mb.const(val=table, name="positions"), indices=[3], axis=0)
        return mb.linear(x=mb.add(x=indices, y=found), weight=np.ones((4, 8), np.float32))

    module = to_module(save(build, tmp_path / "m.mlpackage", (1, 8)))
    assert "positions" not in dict(module.named_parameters())
    assert [p.ndim for p in module.parameters()] == [2, 1]
    quantized = to_module(FIXTURES / "quantized_digits.mlpackage")
    assert all(p.numel() < 2048 for p in quantized.parameters())


def test_a_batch_norm_trains_its_affine_part_and_no_statistics(tmp_path):
    ones = np.ones(3, np.float32)

    def build(x):
        gain = {"gamma": mb.const(val=2 * ones, name="gain"), "beta": mb.const(val=ones, name="b")}
        statistics = {
            "mean": mb.const(val=ones, name="m"),
            "variance": mb.const(val=ones, name="v"),
        }
        return mb.batch_norm(x=mb.sin(x=x), **gain, **statistics, name="normed")

    module = to_module(save(build, tmp_path / "m.mlpackage", (1, 3, 4, 4)))
    assert {name for name, _ in module.named_parameters()} == {"gain", "b"}
    x = torch.rand(2, 3, 4, 4)
    ((trained,), (evaluated,)) = module(x=x).values(), module.eval()(x=x).values()
    assert torch.equal(trained, evaluated)


def test_names_that_torch_does_not_take_are_altered(tmp_path):
    def build(x):
        return mb.linear(x=x, weight=mb.const(val=np.ones((4, 8), np.float32), name="half"))

    module = to_module(save(build, tmp_path / "m.mlpackage", (1, 8)))
    assert "half_" in dict(module.named_parameters())
    assert module._free_name("half__mask") == "half__mask_"
    assert module._free_name("a.b") == "a_b"
    assert module.sites["half_"].name == "half"


def test_a_function_is_chosen():
    path = FIXTURES / "multifunction_lm.mlpackage"
    inputs = {"tokens": torch.arange(16)[None]}
    made = to_module(path, function_name="short")(**inputs)["logits"]
    wanted = mlpass.Interpreter(path, function_name="short").predict(inputs)["logits"]
    np.testing.assert_allclose(made.detach().numpy(), wanted, atol=2e-2)
    with pytest.raises(ConfigError, match="function_name: must be one of"):
        to_module(path, function_name="long")


def test_samples_of_several_rows_stay_apart(tmp_path):
    def build(x):
        return mb.reduce_sum(x=mb.linear(x=x, weight=np.ones((4, 8), np.float32)), axes=[0])

    source = mb.program(input_specs=[mb.TensorSpec((8, 8))], opset_version=ct.target.iOS17)(build)
    path = tmp_path / "m.mlpackage"
    convert(source, inputs=[ct.TensorType("x", (8, 8))]).save(str(path))
    module = to_module(path)
    ((whole,), (twice,)) = (
        module(x=torch.ones(8, 8)).values(),
        module(x=torch.ones(16, 8)).values(),
    )
    assert whole.shape == (4,)
    assert twice.tolist() == [*whole.tolist(), *whole.tolist()]


def test_inputs_may_be_shared_by_a_batch(tmp_path):
    def build(x, y):
        product = mb.linear(x=x, weight=np.ones((4, 8), np.float32))
        return mb.add(x=product, y=y, name="sum"), mb.mul(x=y, y=2.0, name="alone")

    module = to_module(save(build, tmp_path / "m.mlpackage", (1, 8), (1, 4)))
    made = module(x=torch.arange(16.0).reshape(2, 8), y=torch.ones(1, 4))
    assert made["sum"].tolist() == [[29.0] * 4, [93.0] * 4]
    assert made["alone"].tolist() == [[2.0] * 4] * 2


def test_control_flow_that_depends_on_the_sample_is_refused():
    module = to_module(FIXTURES / "branches.mlpackage")
    inputs = {f.name: torch.randn(2 * f.shape[0], *f.shape[1:]) for f in module.inputs}
    text = "cond 'chosen'.*depends on the sample.*train with batches of one"
    with pytest.raises(ExecutionError, match=text):
        module(**inputs)


def test_inputs_that_do_not_fit_are_refused():
    module = to_module(FIXTURES / "digits_ios15.mlpackage")
    with pytest.raises(InputError, match=r"must be of shape \(1, 1, 28, 28\), or several of these"):
        module(image=torch.zeros(2, 1, 28, 27))
    with pytest.raises(InputError, match=r"along the leading axis. Got \(0, 1, 28, 28\)"):
        module(image=torch.zeros(0, 1, 28, 28))
    with pytest.raises(InputError, match="there is no input 'images', did you mean 'image'"):
        module(images=torch.zeros(1, 1, 28, 28))
    with pytest.raises(InputError, match="input 'image': is not a tensor"):
        module(image="cat")
    lm = to_module(FIXTURES / "tiny_lm.mlpackage")
    with pytest.raises(
        InputError, match=r"input 'tokens': must be int32 \(1, 64\). Got torch.float"
    ):
        lm(tokens=torch.zeros(1, 64))
    voice = to_module(FIXTURES / "silero_vad.mlpackage")
    shapes = {feature.name: feature.shape for feature in voice.inputs}
    inputs = {name: torch.zeros(2 * shape[0], *shape[1:]) for name, shape in shapes.items()}
    first = next(iter(inputs))
    inputs[first] = torch.zeros(3 * shapes[first][0], *shapes[first][1:])
    with pytest.raises(InputError, match="must be batches of one size. Got 'input' 3, 'stateIn' 2"):
        voice(**inputs)


def test_an_image_may_be_of_its_own_shape_alone():
    module = to_module(FIXTURES / "digits_classifier.mlpackage")
    with pytest.raises(InputError, match=r"must be of shape \(1, 1, height, width\) of \(28, 28\)"):
        module(image=torch.zeros(1, 3, 28, 28))


def test_inputs_are_rounded_to_their_declared_type(tmp_path):
    def build(x):
        return mb.linear(x=x, weight=np.ones((1, 8), np.float16))

    specs = [mb.TensorSpec((1, 8), dtype=ct.converters.mil.mil.types.fp16)]
    source = mb.program(input_specs=specs, opset_version=ct.target.iOS17)(build)
    path = tmp_path / "m.mlpackage"
    convert(source, compute_precision=ct.precision.FLOAT16).save(str(path))
    (made,) = to_module(path)(x=torch.full((1, 8), 1.0001)).values()
    assert made.item() == 8.0 and made.dtype == torch.float32


def test_an_input_that_is_left_out_takes_its_default():
    module = to_module(FIXTURES / "digits_ios15.mlpackage")
    feature = module.inputs[0]
    object.__setattr__(feature, "optional", True)
    (made,) = module().values()
    (wanted,) = module(image=torch.zeros(1, 1, 28, 28)).values()
    assert torch.equal(made, wanted)


def test_what_ran_without_gradients_trains_after():
    module = to_module(FIXTURES / "digits_ios15.mlpackage")
    image = torch.zeros(2, 1, 28, 28)
    for without in (torch.inference_mode, torch.no_grad):
        with without():
            assert not module(image=image)["logits"].requires_grad
    module(image=image)["logits"].sum().backward()
    assert all(parameter.grad is not None for parameter in module.parameters())


def test_an_mlmodel_is_taken_as_it_is(tmp_path):
    def build(x):
        return mb.linear(x=x, weight=mb.const(val=np.ones((4, 8), np.float32), name="w"))

    model = convert(program(build, (1, 8)))
    pruner = mlpass.finetune.MagnitudePruner(to_module(model))
    with torch.no_grad():
        pruner.prepare().get_parameter("w").mul_(3)
    pruner.finalize(tmp_path / "m.mlpackage")
    assert to_module(tmp_path / "m.mlpackage").get_parameter("w").unique().tolist() == [3]


def test_a_device_that_is_not_here_is_refused():
    with pytest.raises(mlpass.BackendError, match="device 'nowhere': torch cannot use it here"):
        to_module(FIXTURES / "digits_ios15.mlpackage", device="nowhere")


def test_a_program_without_weights_is_refused(tmp_path):
    path = save(lambda x: mb.sin(x=x), tmp_path / "m.mlpackage", (1, 8))
    with pytest.raises(ModelFormatError, match="has no float weights to train"):
        to_module(path)


def test_without_torch_it_says_which_extra_to_install():
    script = """
import sys
sys.modules["torch"] = None
import mlpass
mlpass.prune
try:
    mlpass.finetune
except mlpass.BackendError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout == "mlpass.finetune needs torch: pip install torch\n"


def test_it_is_a_room_of_the_package():
    assert mlpass.finetune.to_module is to_module
    assert "finetune" in dir(mlpass)
