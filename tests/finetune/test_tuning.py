"""What a region is trained with: its values are the Interpreter's, its gradients the slopes."""

from __future__ import annotations

from contextlib import closing, contextmanager

import numpy as np
import pytest
import torch

import mlpass
from mlpass import Percentile
from mlpass.examine.matching import match_values
from mlpass.finetune import Regions, to_module, to_stored_module
from mlpass.finetune.batching import PerSample
from mlpass.finetune.cutting import cut, cut_alike
from mlpass.finetune.feeding import inputs_of
from mlpass.finetune.losses import Kind
from mlpass.finetune.owning import owned_by_windows, readers_of, weights_of
from mlpass.finetune.streams import Stream
from mlpass.finetune.tuning import Tuning, _wanted, goal_of, region_loss
from mlpass.runtime.execute import Run
from mlpass.runtime.function_plan import reads
from mlpass.runtime.spill import Spill
from mlpass.runtime.steps import steps_of
from tests.conftest import PACKAGES
from tests.finetune.networks import FIXTURES
from tests.finetune.samples import samples_of

NAMES = [name.removesuffix(".mlpackage") for name in PACKAGES]


def pruned(name, folder):
    """A fixture with half of its weights zero."""
    joint = name.startswith(("quantized", "palettized"))
    path = folder / "c.mlpackage"
    mlpass.prune(FIXTURES / f"{name}.mlpackage", path, Percentile(0.5), joint_compression=joint)
    return path


def stages(name, compressed, count, size, budget=1 << 30, cut_at=1 << 30):
    """Both streams at the start of each stage, with the regions of the two models.

    They are to come to their ends before the next.
    """
    source = FIXTURES / f"{name}.mlpackage"
    module, teacher = to_stored_module(compressed).eval(), to_module(source)
    samples = samples_of(source.name, count)
    settings = {"batch_size": size, "memory_budget": budget}
    given, wanted = (inputs_of(one, samples) for one in (module, teacher))
    for stage, its in zip(module.stages, teacher.stages, strict=True):
        regions = cut(stage.plan, weights_of(module, stage), cut_at)
        likes = match_values([(stage.part.plan.function.block, its.part.plan.function.block)])
        likes = {like: value for value, like in likes.items()}
        others = cut_alike(its.plan, regions, likes)
        mine = Stream(module, stage, regions, given, **settings)
        dense = Stream(teacher, its, others, wanted, **settings, behind=1)
        with closing(mine), closing(dense):
            yield mine, dense, regions, others, likes, samples
            given, wanted = mine.all_results(), dense.all_results()


@pytest.mark.slow_but_every(21)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("budget", [1, 1 << 30])
def test_at_the_end_of_each_region_are_the_interpreters_values(name, budget, tmp_path):
    compressed, size = pruned(name, tmp_path), 1 if name == "branches" else 2
    packages = compressed, FIXTURES / f"{name}.mlpackage"
    interpreters = [mlpass.Interpreter(package, backend="torch") for package in packages]
    checked = 0
    for mine, dense, regions, others, _, samples in stages(name, compressed, 3, size, budget, 1):
        for stream, interpreter, some in (
            (mine, interpreters[0], regions),
            (dense, interpreters[1], others),
        ):
            wanted = []
            for sample in samples:
                state = interpreter.make_state() if interpreter.states else None
                names = [value.name for region in some for value in region.outputs]
                wanted.append(
                    [interpreter.run(step, names, state) for step in steps_of(sample, interpreter)]
                )
            for region in some:
                stream.advance()
                for number in range(len(samples)):
                    for step, live in enumerate(stream.of([number], region.outputs)):
                        for value, one in live.values.items():
                            array = one.samples[0] if isinstance(one, PerSample) else one
                            expected = wanted[number][step][value.name]
                            np.testing.assert_allclose(
                                array.numpy().astype(expected.dtype), expected, rtol=2e-2, atol=2e-2
                            )
                            checked += 1
            assert len(stream.all_results()) == len(samples)
    assert checked


@contextmanager
def streams(*arguments, **options):
    """What `stages` gives for the first stage."""
    found = stages(*arguments, **options)
    yield next(found)


def tuning_of(mine, dense, regions, others, likes, number):
    for at in range(number + 1):
        dense.advance()
        if at < number:
            mine.advance()
    goal = goal_of(dense, regions[number], others[number], likes)
    return Tuning(mine, regions[number], goal, [], number)


SLOW = ["stateful_lm"]
SHARES = {"tiny_lm": 0.5}  # of the dense model's values; else all


@pytest.mark.slow_but_every(10)
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] if n in SLOW else []) for n in NAMES]
)
def test_gradients_are_slopes(name, tmp_path, monkeypatch):
    size = 1 if name == "branches" else 2
    with streams(name, pruned(name, tmp_path), 2, size, cut_at=1) as made:
        module = made[0].module
        cuts = [made[2], *([] for _ in module.stages[1:])]
        own = owned_by_windows(module, cuts, readers_of(module, cuts), Regions())
        number = next(number for number, names in enumerate(own) if names)
        task = tuning_of(*made[:5], number)
        module = task.module.train()
        module.double()
        for stream in (task.stream, task.goal.stream):  # as if all had been in fp64
            stream.of = doubled(stream.of)
        read, called = torch.from_numpy, Run.call
        monkeypatch.setattr(torch, "from_numpy", lambda array: _double(read(array)))
        monkeypatch.setattr(Run, "call", lambda *given: tuple(map(_double, called(*given))))
        samples = list(range(size))
        share = SHARES.get(name, 1.0)
        loss = region_loss(task, samples, share)
        loss.backward()
        checked = 0
        generator = torch.Generator().manual_seed(0)
        for parameter in module.parameters():
            if parameter.grad is None or not bool(parameter.grad.any()):
                continue
            way = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            way = way / way.norm()
            slope = float((parameter.grad * way).sum())
            ends = []
            for step in (1e-6, -1e-6):
                with torch.no_grad():
                    parameter.add_(way, alpha=step)
                    ends.append(float(region_loss(task, samples, share)))
                    parameter.add_(way, alpha=-step)
            assert slope == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-3, abs=1e-7)
            checked += 1
        assert checked >= 1


def doubled(function):
    def called(*arguments):
        return [
            step._replace(values={value: _double(one) for value, one in step.values.items()})
            for step in function(*arguments)
        ]

    return called


def _double(value):
    if isinstance(value, PerSample):
        return PerSample(_double(value.samples))
    floating = isinstance(value, torch.Tensor) and value.is_floating_point()
    return value.double() if floating else value


def test_what_is_aimed_at_lies_between_the_dense_model_and_the_dense_region(tmp_path):
    """A region of its dense weights is at its own target, and half as far as the dense model's."""
    with streams("tiny_lm", pruned("tiny_lm", tmp_path), 2, 2) as made:
        task = tuning_of(*made[:5], 3)
        aims = [
            _wanted(task.goal, [0, 1], task.stream.of([0, 1], task.region.inputs), share)
            for share in (0.0, 0.5, 1.0)
        ]
        (own, half, dense), (value,) = (step for (step,) in aims), task.goal.values
        torch.testing.assert_close(half[value], (own[value] + dense[value]) / 2)
        # The dense model's own region, given what the dense model has, is the dense model.
        goal = task.goal._replace(inputs={})
        (same,) = _wanted(goal, [0, 1], task.stream.of([0, 1], task.region.inputs), 0.0)
        torch.testing.assert_close(same[value], dense[value], rtol=1e-5, atol=1e-5)
        assert not torch.allclose(own[value], dense[value], rtol=1e-2, atol=1e-2)


def test_a_token_counts_by_its_own_size(tmp_path):
    """A token 20,000 times as large as the others would be all of a plain mean square."""
    compressed = tmp_path / "c.mlpackage"
    mlpass.prune(FIXTURES / "tiny_lm.mlpackage", compressed, Percentile(0.5))
    with streams("tiny_lm", compressed, 2, 2) as made:
        task = tuning_of(*made[:5], 2)
        (value,), (like,) = task.goal.values, task.goal.values.values()
        assert task.goal.kinds == {value: Kind("values", -1)}
        before = float(region_loss(task, [0, 1]).detach())
        once = task.goal.stream.of

        def large(function, wanted):
            def called(numbers, values):
                found = function(numbers, values)
                for _, step in found:
                    for each in wanted & set(step):
                        samples = step[each].samples.clone()
                        samples[:, :, 0] *= 20_000
                        step[each] = PerSample(samples)
                return found

            return called

        task.goal.stream.of = large(once, {like})
        wanted = task.goal.stream.of([0, 1], [like])[0].values[like].samples
        plain = wanted.square().sum(-1)
        assert float(plain[:, :, 0].sum() / plain.sum()) > 0.999
        after = float(region_loss(task, [0, 1]).detach())
        # One token of 64 is missed as a whole; the others count as they did, were it not for the
        # floor under the size of a token, which is a thousandth of the mean.
        assert after < before + 2 / 64


def test_channels_are_tokens_of_an_image(tmp_path):
    compressed = FIXTURES / "efficientnet_lite0.mlpackage"
    with streams("efficientnet_lite0", compressed, 2, 2) as made:
        task = tuning_of(*made[:5], 1)
        (kind,) = task.goal.kinds.values()
        (value,) = task.goal.values
        assert kind.axis == -3
        assert len(value.type.shape) == 4


def test_no_more_is_held_than_is_live(monkeypatch):
    spilled = []
    once = Spill._write
    monkeypatch.setattr(
        Spill, "_write", lambda self, value: spilled.append(value) or once(self, value)
    )
    compressed = FIXTURES / "tiny_lm.mlpackage"
    with streams("tiny_lm", compressed, 2, 2, budget=1, cut_at=1) as (mine, _, regions, *_rest):
        for region in regions:
            mine.advance()
            held = {value for steps in mine._values for values in steps for value in values}
            assert not held
            later = {
                value
                for step in mine.stage.plan.block.steps[region.end :]
                for value in reads(step.op)
            }
            assert set(mine._spill._files) <= later | {*mine.stage.plan.block.outputs}
        assert {value.name for value in spilled} >= {value.name for value in regions[2].outputs}
