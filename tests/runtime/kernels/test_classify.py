"""The outputs of a classifier."""

import array_api_strict
import numpy as np
import pytest
import torch
from array_api_compat import torch as torch_namespace

from mlpass.runtime.kernels.classify import classify


@pytest.mark.parametrize(
    "classes", [["cat", "dog", "eel"], np.asarray(["cat", "dog", "eel"], object)]
)
def test_words(classes):
    probabilities = np.asarray([[0.25, 0.5, 0.25]], np.float32)
    label, named = classify(np, probabilities=probabilities, classes=classes)
    assert label == "dog"
    assert named == {"cat": 0.25, "dog": 0.5, "eel": 0.25}


@pytest.mark.parametrize("classes", [[3, 1, 2], np.asarray([3, 1, 2], np.int64)])
def test_numbers(classes):
    probabilities = torch.asarray([0.125, 0.125, 0.75], requires_grad=True)
    label, named = classify(torch_namespace, probabilities=probabilities, classes=classes)
    assert (label, named) == (2, {3: 0.125, 1: 0.125, 2: 0.75})
    assert [type(item) for item in (label, *named, *named.values())] == [int] * 4 + [float] * 3


def test_any_namespace():
    probabilities = array_api_strict.asarray([0.25, 0.75])
    named = classify(array_api_strict, probabilities=probabilities, classes=["a", "b"])
    assert named == ("b", {"a": 0.25, "b": 0.75})


def test_the_first_of_equals_is_the_label():
    assert classify(np, probabilities=np.ones(3, np.float32), classes=["a", "b", "c"])[0] == "a"


def test_another_number_of_classes():
    with pytest.raises(ValueError, match=r"classes: must be 4, one for each probability. Got 3."):
        classify(np, probabilities=np.ones((2, 2), np.float32), classes=["a", "b", "c"])
