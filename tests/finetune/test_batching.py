"""Batches: each op, mapped over samples, makes of them what it makes of each."""

import warnings

import pytest
import torch
from array_api_compat import torch as xp

from mlpass.finetune import batching
from mlpass.finetune.batching import PerSample
from mlpass.runtime.backends.base import load_kernels
from tests.finetune.kernel_cases import (
    CASES,
    GRU,
    LSTM,
    POSITIVE,
    ROWS,
    X,
    floats,
    kernel_of,
    placed,
    with_parts,
)

load_kernels("numpy")
load_kernels("torch")


def over_samples(op, opset=18):
    return batching._over_samples(kernel_of(op, opset), batching._RULES.get(op))


def as_tuple(made):
    return made if isinstance(made, tuple) else (made,)


def check(op, arguments, opset, places):
    """Fails where three samples at once are not what each is."""
    kernel, mapped = kernel_of(op, opset), over_samples(op, opset)
    given = {name: placed(value) for name, value in arguments.items()}
    parts = [given[n] if place is None else given[n][place] for n, place in places]
    samples = [[part.float() * share for part in parts] for share in (1.0, 0.9, 0.8)]
    batches = [PerSample(torch.stack(several)) for several in zip(*samples, strict=True)]
    shared = {
        name: value.float() if getattr(value, "dtype", None) == torch.float64 else value
        for name, value in given.items()
    }
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "There is a performance drop", UserWarning)
        made = as_tuple(mapped(xp, **with_parts(shared, places, batches)))
    for number, sample in enumerate(samples):
        wanted = as_tuple(kernel(xp, **with_parts(shared, places, sample)))
        for one, of_all in zip(wanted, made, strict=True):
            torch.testing.assert_close(of_all.samples[number], one, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("op", "arguments", "opset"), CASES)
def test_all_data_may_be_batches(op, arguments, opset):
    check(op, arguments, opset, list(floats(arguments)))


@pytest.mark.parametrize(("op", "arguments", "opset"), CASES)
def test_the_first_may_be_a_batch_alone(op, arguments, opset):
    check(op, arguments, opset, list(floats(arguments))[:1])


@pytest.mark.parametrize(
    ("op", "arguments", "names"),
    [
        ("lstm", LSTM, ["initial_h"]),
        ("lstm", LSTM, ["x", "initial_c"]),
        ("gru", GRU, ["weight_ih"]),
        ("pad", {"x": X, "pad": [1, 0, 0, 2], "constant_val": POSITIVE[0, 0]}, ["x"]),
    ],
)
def test_any_others_may_be_batches(op, arguments, names):
    check(op, arguments, 18, [(name, None) for name in names])


def test_an_embedding_is_looked_up_at_once():
    calls = []

    def gather(xp, **arguments):
        calls.append(arguments)
        return kernel_of("gather", 18)(xp, **arguments)

    mapped = batching._over_samples(gather, batching._RULES["gather"])
    indices = PerSample(torch.tensor([[[0, 1]], [[3, 2]]]))
    table = torch.from_numpy(ROWS["x"])
    assert mapped(xp, x=table, indices=indices, axis=0).samples.shape == (2, 1, 2, 3)
    assert len(calls) == 1


def test_indices_may_be_batches():
    table, indices = torch.from_numpy(ROWS["x"]), torch.tensor([[0, 1], [2, 2]])
    made = over_samples("gather")(xp, x=table, indices=PerSample(indices), axis=1)
    torch.testing.assert_close(made.samples, torch.stack([table[:, some] for some in indices]))


def test_attributes_may_differ_from_sample_to_sample():
    x = torch.arange(12.0).reshape(2, 6)
    begin = PerSample(torch.tensor([[0], [3]], dtype=torch.int32))
    made = over_samples("slice_by_size")(xp, x=x[0], begin=begin, size=torch.tensor([2]))
    assert made.samples.tolist() == [[0, 1], [3, 4]]


def test_results_of_different_shapes_are_refused():
    x = PerSample(torch.tensor([[0.0, 1.0], [1.0, 1.0]]))
    text = r"its results differ from sample to sample \(\(1, 1\), \(2, 1\)\).*batches of one"
    with pytest.raises(ValueError, match=text):
        over_samples("non_zero")(xp, x=x)


def test_results_that_are_no_tensors_are_refused():
    x = PerSample(torch.tensor([[0.0, 1.0], [1.0, 1.0]]))
    with pytest.raises(ValueError, match=r"differ from sample to sample \(str\)"):
        over_samples("classify")(xp, probabilities=x, classes=["a", "b"])


def test_what_is_wrong_with_an_op_is_said():
    with pytest.raises(ValueError, match=r"axis: must be in \[-2, 2\)"):
        over_samples("gather")(
            xp, x=PerSample(torch.ones(2, 3, 3)), indices=torch.tensor([0]), axis=5
        )


def test_a_batch_says_what_it_is_and_decides_nothing():
    batch = PerSample(torch.zeros(8, 1, 3))
    assert repr(batch) == "8 x (1, 3)"
    with pytest.raises(ValueError, match="depends on the sample, so it cannot run on a batch"):
        bool(batch)
