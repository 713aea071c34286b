"""Training without labels: the loss, the loop, and the command."""

import json
import re

import numpy as np
import pytest
import torch

import mlpass
from mlpass import Percentile
from mlpass.cli import main
from mlpass.errors import CalibrationError, ConfigError, ExecutionError, InputError
from mlpass.finetune import (
    ConstantSparsity,
    MagnitudePruner,
    distill,
    distillation_loss,
    finetune,
    to_module,
)
from tests.finetune.networks import FIXTURES, images
from tests.program.packages import tree

DIGITS = FIXTURES / "digits_ios15.mlpackage"
PIXELS = images(24)[0].numpy()
SAMPLES = [{"image": image[None]} for image in PIXELS]


def weights_of(module):
    return [parameter.detach().clone() for parameter in module.parameters()]


def test_the_loss_is_relative_to_each_output():
    wanted = {"a": torch.tensor([3.0, 4.0]), "b": torch.tensor([10.0]), "c": torch.tensor([1])}
    outputs = {"a": torch.tensor([3.0, 9.0]), "b": torch.tensor([12.0]), "c": torch.tensor([2])}
    assert distillation_loss(outputs, wanted).item() == pytest.approx((25 / 25 + 4 / 100) / 2)
    assert distillation_loss(wanted, wanted).item() == 0
    zeros = {"a": torch.zeros(2)}
    assert distillation_loss(zeros, zeros).item() == 0
    with pytest.raises(CalibrationError, match="not one of c is a float output of both models"):
        distillation_loss(outputs, {"c": wanted["c"]})


def test_a_pruned_module_comes_back_to_the_dense_one():
    module = to_module(DIGITS)
    pruner = MagnitudePruner(module, Percentile(0.8), ConstantSparsity(0))
    pruner.prepare()
    pruner.step()
    before = weights_of(module)
    losses = distill(module, DIGITS, SAMPLES, 30, learning_rate=1e-3, pruner=pruner)
    assert len(losses) == 30
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) / 3
    assert not any(torch.equal(*pair) for pair in zip(before, weights_of(module), strict=True))


def test_it_is_the_same_again_and_another_with_another_seed():
    def run(**options):
        module = to_module(DIGITS)
        with torch.no_grad():
            next(module.parameters()).mul_(2)
        return distill(module, to_module(DIGITS), SAMPLES, 4, batch_size=5, **options)

    assert run() == run()
    assert run() != run(seed=1)


def test_an_optimizer_and_a_loss_may_be_ones_own():
    module, seen = to_module(DIGITS), []

    def loss(outputs, wanted):
        seen.append(outputs["logits"].shape)
        return (outputs["logits"] - wanted["logits"] + 1).square().mean()

    optimizer = torch.optim.SGD(module.parameters(), 0.0)
    before = weights_of(module)
    losses = distill(module, DIGITS, SAMPLES, 2, optimizer=optimizer, loss=loss, batch_size=3)
    assert seen == [(3, 10)] * 2
    assert losses == pytest.approx([1, 1])
    assert all(torch.equal(*pair) for pair in zip(before, weights_of(module), strict=True))


def test_all_samples_come_before_any_again():
    module, seen = to_module(DIGITS), []

    class Teacher(type(module)):
        def forward(self, *given, **inputs):
            seen.extend(inputs["image"][:, 0, 0, 0].tolist())
            return super().forward(*given, **inputs)

    teacher = to_module(DIGITS)
    teacher.__class__ = Teacher
    distill(module, teacher, SAMPLES, 8, batch_size=9)
    first = [float(image[0, 0, 0]) for image in PIXELS]
    for epoch in range(3):
        assert sorted(seen[24 * epoch : 24 * epoch + 24]) == sorted(first)


def test_what_cannot_be_is_refused():
    module = to_module(DIGITS)
    for name in ("steps", "batch_size"):
        for value in (0, 1.5, True):
            options = {"steps": 1, "batch_size": 1, name: value}
            with pytest.raises(ConfigError, match=f"{name}: must be an int in .1, [0-9]+.. Got"):
                distill(module, DIGITS, SAMPLES, **options)
    for name, value in (
        ("steps", 1 << 63),
        ("batch_size", 10**400),
        ("seed", -1),
        ("seed", 1 << 64),
    ):
        with pytest.raises(ConfigError, match=f"{name}: must be an int in .[01], [0-9]+.. Got"):
            distill(module, DIGITS, SAMPLES, **{"steps": 1, name: value})
    for rate in (0, -1.0, True, float("nan"), float("inf"), 1e300, "fast"):
        with pytest.raises(ConfigError, match="learning_rate: must be a number above 0, at most"):
            distill(module, DIGITS, SAMPLES, 1, learning_rate=rate)
    with pytest.raises(InputError, match="there is no input 'picture'"):
        distill(module, DIGITS, [{"picture": PIXELS[:1]}], 1)
    with pytest.raises(CalibrationError, match="holds no samples"):
        distill(module, DIGITS, [], 1)


def test_a_loss_that_is_no_number_ends_it():
    module = to_module(DIGITS)
    with torch.no_grad():
        next(module.parameters())[0] = float("nan")
    with pytest.raises(ExecutionError, match="the loss of step 1 is nan: use a lower rate"):
        distill(module, DIGITS, SAMPLES, 3)


@pytest.fixture
def sample_data(tmp_path):
    np.savez(tmp_path / "x.npz", image=PIXELS[:, None])
    return tmp_path / "x.npz"


def test_from_package_to_package(tmp_path, sample_data, capsys):
    output, again = tmp_path / "out.mlpackage", tmp_path / "again.mlpackage"
    rate = ["--learning-rate", "1e-3", "--batch-size", "4", "--json"]
    common = ["--sample-data", str(sample_data), *rate]
    prune = ["--steps", "12", "--target-sparsity", "0.8"]
    assert main(["finetune", str(DIGITS), "-o", str(output), *prune, *common]) == 0
    report = json.loads(capsys.readouterr().out)
    assert [layer["encoding"] for layer in report["layers"]].count("sparse") == 4
    assert report["sparsity"] == pytest.approx(0.8, abs=0.01)

    more = ["--steps", "40", "--dense", str(DIGITS)]
    assert main(["finetune", str(output), "-o", str(again), *more, *common]) == 0
    assert json.loads(capsys.readouterr().out)["sparsity"] == report["sparsity"]
    plain = tmp_path / "plain.mlpackage"
    mlpass.prune(DIGITS, plain, Percentile(0.8))
    noise = [
        mlpass.compare(DIGITS, other, sample_data).outputs[0].snr
        for other in (plain, output, again)
    ]
    assert noise[0] + 1 < noise[1] and noise[1] + 1 < noise[2]


def test_the_command_says_what_is_missing(tmp_path, sample_data, capsys):
    output = tmp_path / "out.mlpackage"
    common = ["finetune", str(DIGITS), "-o", str(output), "--sample-data", str(sample_data)]
    with pytest.raises(SystemExit, match="2"):
        main([*common, "--steps", "1"])
    assert "say what to prune" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        main([*common, "--target-sparsity", "0.5"])
    assert "--steps" in capsys.readouterr().err
    output.mkdir()
    assert main([*common, "--steps", "1", "--target-sparsity", "0.5"]) == 1
    assert (
        "already exists; pass --force to replace it, or name another target"
        in capsys.readouterr().err
    )


def test_a_target_that_exists_is_refused_before_training(tmp_path):
    with pytest.raises(mlpass.OutputExistsError, match="already exists; pass force=True"):
        finetune(DIGITS, _made(tmp_path / "o.mlpackage"), Percentile(0.5), None, steps=1)
    with pytest.raises(mlpass.ModelFormatError, match="must end in .mlpackage"):
        finetune(DIGITS, tmp_path / "o", Percentile(0.5), None, steps=1)


def test_a_result_whose_place_was_taken_meanwhile_is_kept_beside_it(tmp_path, capsys, sample_data):
    alone, output = tmp_path / "alone.mlpackage", tmp_path / "o.mlpackage"
    words = ["finetune", str(DIGITS), "--sample-data", str(sample_data), "--steps", "2"]
    words += ["--target-sparsity", "0.5", "-o"]
    assert main([*words, str(alone)]) == 0
    with pytest.MonkeyPatch.context() as patched:

        def late(self, *_):
            step(self)
            output.write_text("theirs")

        step = MagnitudePruner.step
        patched.setattr(MagnitudePruner, "step", late)
        assert main([*words, str(output)]) == 1
    kept = tmp_path / "o-1.mlpackage"
    assert (
        f"{output}: came into being meanwhile, and is kept; the result is {kept}, whole: rename "
        "it, or pass --force to replace what is there" in capsys.readouterr().err
    )
    assert output.read_text() == "theirs"
    assert tree(kept) == tree(alone)


@pytest.mark.slow_but_every(2)
@pytest.mark.parametrize("steps", [1, 2, 7, 50])
def test_the_target_is_reached_whatever_the_steps(tmp_path, steps):
    samples = SAMPLES[:2]
    output = tmp_path / "o.mlpackage"
    report = finetune(DIGITS, output, Percentile(0.5), samples, steps=steps, batch_size=1)
    assert {layer.sparsity for layer in report.layers if layer.mode} == {0.5}
    (note,) = report.notes
    few = "(the mean of the first and of the last 5)" if steps == 50 else "(the first and the last)"
    pattern = rf"trained for {steps} steps; the loss, .*, went from (\S+) to (\S+) {re.escape(few)}"
    found = re.fullmatch(rf"{pattern}, by way of (\S+): .*, up to step (\d+), and falls .*", note)
    assert found
    assert steps > 1 or found[1] == found[2] == found[3]
    assert float(found[3]) >= max(float(found[1]), float(found[2]))
    assert 1 <= int(found[4]) <= max(1, steps // 2)
    assert note in str(report)
    assert report.to_dict()["notes"] == [note]
    with pytest.raises(ConfigError, match="steps: must be an int in"):
        finetune(DIGITS, tmp_path / "p.mlpackage", Percentile(0.5), samples, steps=0)


def _made(path):
    path.mkdir()
    return path


def test_a_model_is_raised_for_the_forms_that_it_is_to_have(tmp_path, sample_data, capsys):
    output = tmp_path / "out.mlpackage"
    common = ["finetune", str(DIGITS), "-o", str(output), "--sample-data", str(sample_data)]
    common += ["--steps", "2", "--json", "--batch-size", "4"]
    palettes = ["--palettize", "3", "--target-sparsity", "0.5"]
    assert main([*common, *palettes]) == 1
    assert "(--minimum-deployment-target iOS18) raises the model" in capsys.readouterr().err
    raised = ["--minimum-deployment-target", "iOS18"]
    assert main([*common, *palettes, *raised]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["source"] == str(DIGITS)
    found = mlpass.inspect(output)
    assert {function.opset for function in found.functions} == {18}
    assert "sparse + palettized" in {layer.encoding for layer in found.layers}
    with pytest.raises(SystemExit, match="2"):  # a polish keeps what there is
        main([*common, "--force", "--dense", str(DIGITS), *raised])
    assert "--minimum-deployment-target: a polish keeps the forms" in capsys.readouterr().err


def test_compressed_weights_are_left_as_they_are_and_that_is_told(tmp_path):
    source, out = FIXTURES / "quantized_digits.mlpackage", tmp_path / "out.mlpackage"
    image = np.load(source.with_suffix(".npz"))["input:image"]
    given = [{"image": image}, {"image": image[..., ::-1].copy()}]
    report = finetune(source, out, Percentile(0.5), given, steps=2)
    assert report.notes[-1] == (
        "4 of 5 weights are compressed already, and left as they are: mlpass prune "
        "--joint-compression prunes those, and finetune without a config trains them"
    )
