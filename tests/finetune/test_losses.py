"""Losses of outputs by their kind, and how kinds are found: against torch's own divergence."""

import pytest
import torch
from coremltools.converters.mil.mil import Builder as mb
from torch.nn import functional

from mlpass.errors import CalibrationError, ConfigError
from mlpass.finetune import distillation_loss, to_module
from mlpass.finetune.losses import Kind, kinds_of, output_loss
from tests.finetune.networks import FIXTURES
from tests.runtime.programs import convert, program

LOGITS, PROBABILITIES, VALUES = Kind("logits"), Kind("probabilities"), Kind("values")


def pair(*shape):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(shape, generator=generator), torch.randn(shape, generator=generator)


def loss(kind, made, wanted, count=1):
    return output_loss({"y": kind}, {"y": made}, {"y": wanted}, count)


def test_logits_and_probabilities_diverge_as_torch_says():
    made, wanted = pair(4, 7, 9)
    expected = functional.kl_div(
        made.log_softmax(-1).reshape(-1, 9),
        wanted.log_softmax(-1).reshape(-1, 9),
        reduction="batchmean",
        log_target=True,
    )
    torch.testing.assert_close(loss(LOGITS, made, wanted, 4), expected)
    torch.testing.assert_close(
        loss(PROBABILITIES, made.softmax(-1), wanted.softmax(-1), 4), expected
    )
    torch.testing.assert_close(loss(LOGITS, made + 3, wanted - 5, 4), expected)
    along = [each.movedim(-1, 1) for each in (made, wanted)]
    torch.testing.assert_close(loss(Kind("logits", -2), *along, 4), expected)
    assert loss(LOGITS, wanted, wanted) == 0


def test_a_batch_of_vectors_is_its_samples():
    made, wanted = pair(3, 5)
    expected = torch.stack([loss(LOGITS, *each) for each in zip(made, wanted, strict=True)]).mean()
    torch.testing.assert_close(loss(LOGITS, made.reshape(-1), wanted.reshape(-1), 3), expected)


def test_masked_logits_do_not_count():
    made, wanted = pair(2, 6)
    made.requires_grad_()
    masked = wanted.clone()
    masked[:, 4:] = -torch.inf
    found = loss(LOGITS, made, masked, 2)
    found.backward()
    torch.testing.assert_close(found, loss(LOGITS, made[:, :4], wanted[:, :4], 2))
    assert torch.isfinite(made.grad).all()
    assert loss(VALUES, masked, masked, 2) == 0


def test_what_the_model_masks_by_itself_does_not_count():
    """Where it masks by what it computes, it may mask other places than the dense one."""
    made, wanted = pair(2, 6)
    made.requires_grad_()
    mask = torch.arange(6) >= 4
    for kind in (LOGITS, VALUES):
        made.grad = None
        found = loss(kind, made.masked_fill(mask, -torch.inf), wanted, 2)
        found.backward()
        torch.testing.assert_close(found, loss(kind, made[:, :4], wanted[:, :4], 2))
        assert torch.isfinite(made.grad).all()
    masked = {"a": made.masked_fill(mask, -torch.inf)}
    expected = distillation_loss({"a": made[:, :4]}, {"a": wanted[:, :4]})
    torch.testing.assert_close(distillation_loss(masked, {"a": wanted}), expected)
    nothing = {"a": torch.full_like(wanted, -torch.inf)}
    assert not torch.isfinite(distillation_loss(nothing, {"a": wanted}))
    assert not torch.isfinite(distillation_loss({"a": -masked["a"]}, {"a": wanted}))


def test_a_token_counts_by_its_own_size():
    made, wanted = pair(1, 8, 16)
    expected = ((made - wanted).square().sum(-1) / wanted.square().sum(-1)).mean()
    torch.testing.assert_close(loss(VALUES, made, wanted), expected, rtol=0.01, atol=0)
    # One that is a thousand times as large, and wrong by as much of it, adds no more than it did.
    made[0, 0] *= 1e3
    wanted[0, 0] *= 1e3
    others = loss(VALUES, made[:, 1:], wanted[:, 1:])
    made[0, 0] = wanted[0, 0]
    assert loss(VALUES, made, wanted) < others
    plain = (made - wanted).square().sum() / wanted.square().sum()
    assert plain < others / 1e3
    wanted[0, 1] = 0  # nothing is its own size: the others' counts
    assert torch.isfinite(loss(VALUES, made, wanted))


def test_outputs_that_cannot_be_compared():
    whole = torch.ones(3, dtype=torch.int32)
    with pytest.raises(CalibrationError, match="not one of y is a float output of both models"):
        loss(VALUES, whole, whole)


@pytest.mark.parametrize("kind", [VALUES, LOGITS, PROBABILITIES])
def test_an_output_without_rows_is_as_it_should_be(kind):
    """So does a sample that nothing is found in say nothing, rather than NaN."""
    nothing = torch.zeros(0, 4, requires_grad=True)
    found = loss(kind, nothing, torch.zeros(0, 4), 2)
    found.backward()
    assert found.item() == 0
    made, wanted = pair(3, 4)
    expected = loss(VALUES, made, wanted) / 2
    both = output_loss(
        {"y": VALUES, "z": kind}, {"y": made, "z": nothing}, {"y": wanted, "z": nothing}, 1
    )
    torch.testing.assert_close(both, expected)


@pytest.mark.parametrize("compare", [distillation_loss, lambda *both: loss(VALUES, *both)])
def test_outputs_of_other_shapes_are_told_of(compare):
    made, wanted = pair(3, 4)
    if compare is distillation_loss:
        made, wanted = {"y": made}, {"y": wanted}
        fewer = {"y": wanted["y"][:1]}
    else:
        fewer = wanted[:1]
    text = r"'y' has shape \(1, 4\) in the dense model, \(3, 4\) in the other"
    with pytest.raises(CalibrationError, match=text):
        compare(made, fewer)


def test_kinds_show_in_the_program(tmp_path):
    def build(x, z):
        logits = mb.mul(x=x, y=2.0, name="logits")
        other = mb.linear(
            x=z, weight=mb.const(val=torch.ones(4, 6).numpy(), name="w"), name="other"
        )
        most = mb.softmax(x=logits, axis=1, name="most")
        log = mb.log(x=mb.softmax(x=other, axis=-1), name="log")
        return logits, most, log, mb.log(x=mb.exp(x=other), name="values")

    convert(program(build, (1, 3, 5), (2, 6))).save(str(tmp_path / "m.mlpackage"))
    module = to_module(tmp_path / "m.mlpackage")
    assert kinds_of(module)[None] == {
        "logits": Kind("logits", -2),
        "most": Kind("probabilities", -2),
        "log": LOGITS,
        "values": VALUES,
    }
    assert kinds_of(module, "values, most")[None]["values"] == LOGITS
    assert kinds_of(module, "values, most")[None]["most"] == LOGITS
    with pytest.raises(ConfigError, match=r"logits: there is no output 'value', did you mean"):
        kinds_of(module, "value")


@pytest.mark.parametrize(
    ("name", "kind"),
    [("digits_classifier", PROBABILITIES), ("tiny_lm", VALUES), ("silero_vad", VALUES)],
)
def test_kinds_of_fixtures(name, kind):
    found = kinds_of(to_module(FIXTURES / f"{name}.mlpackage"))[None]
    assert next(iter(found.values())) == kind
