"""Sample data in every form, and what is wrong with anything else."""

from __future__ import annotations

import numpy as np
import pytest

from mlpass.errors import CalibrationError
from mlpass.runtime.samples import load_samples, steps_of


def test_a_stacked_npz_is_cut_along_its_leading_axis(tmp_path):
    path = tmp_path / "samples.npz"
    np.savez(path, x=np.arange(6).reshape(3, 2), y=np.arange(3))
    samples = load_samples(path)
    assert len(samples) == 3
    assert [sample["x"].tolist() for sample in samples] == [[0, 1], [2, 3], [4, 5]]
    assert samples[-1]["y"] == 2
    assert [int(sample["y"]) for sample in samples[1:]] == [1, 2]
    with pytest.raises(IndexError):
        samples[3]


def test_a_folder_holds_one_sample_a_file_of_any_shape(tmp_path):
    for number, size in enumerate((2, 5)):
        np.savez(tmp_path / f"{number}.npz", x=np.zeros(size))
    assert [sample["x"].size for sample in load_samples(str(tmp_path))] == [2, 5]


def test_a_sub_folder_is_a_sequence_in_the_order_of_its_numbers(tmp_path):
    for name in ("2", "10/step 2", "10/step 10", "10/step 1", ".hidden/1", "1"):
        path = tmp_path / f"{name}.npz"
        path.parent.mkdir(exist_ok=True)
        np.savez(path, x=np.array(name))
    first, second, sequence = load_samples(tmp_path)
    assert [str(sample["x"]) for sample in (first, second)] == ["1", "2"]
    assert [str(step["x"]) for step in sequence] == ["10/step 1", "10/step 2", "10/step 10"]


def test_a_sub_folder_without_steps_is_refused(tmp_path):
    np.savez(tmp_path / "1.npz", x=np.zeros(1))
    (tmp_path / "2").mkdir()
    with pytest.raises(
        CalibrationError, match=r"2: a folder among samples is a sequence, one .npz"
    ):
        load_samples(tmp_path)


def test_sequences_come_as_lists_of_steps():
    given = [{"x": 1}, [{"x": 2}, {"x": 3}], ({"x": 4},)]
    assert [list(steps_of(sample)) for sample in load_samples(iter(given))] == [
        [{"x": 1}],
        [{"x": 2}, {"x": 3}],
        [{"x": 4}],
    ]


def test_iterables_can_be_gone_through_again():
    samples = load_samples({"x": np.array(number)} for number in range(3))
    assert [int(s["x"]) for s in samples] == [int(s["x"]) for s in samples] == [0, 1, 2]
    given = [{"x": 1}]
    assert load_samples(given) is given


@pytest.mark.parametrize(
    ("arrays", "text"),
    [
        ({"x": np.zeros(3), "y": np.zeros(2)}, r"differ in their leading axis: x \(3,\), y \(2,\)"),
        ({"x": np.zeros(())}, "differ in their leading axis"),
        ({"x": np.zeros((0, 2))}, "holds no samples; give at least one"),
        ({"x": np.array([{}], dtype=object)}, "is not an .npz of arrays"),
    ],
)
def test_archives_that_are_no_samples(tmp_path, arrays, text):
    path = tmp_path / "samples.npz"
    np.savez(path, **arrays)
    with pytest.raises(CalibrationError, match=text):
        load_samples(path)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 and nothing more", b"text"])
def test_files_that_are_no_archives(tmp_path, content):
    path = tmp_path / "samples.npz"
    path.write_bytes(content)
    with pytest.raises(CalibrationError, match=r"is not an \.npz of arrays"):
        load_samples(path)


def test_a_single_array_is_no_sample_set(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros(3))
    with pytest.raises(CalibrationError, match="is a single array"):
        load_samples(tmp_path / "x.npy")


@pytest.mark.parametrize(
    ("source", "text"),
    [
        (3, "must be an iterable of .input name: array."),
        ({"x": np.zeros(3)}, "must be an iterable of"),
        ([], "holds no samples; give at least one"),
        ([[]], "a sequence must have a step or more. Got none"),
        ([[{"x": 1}, 3]], "a step of a sequence must map input names to arrays. Got int"),
        (["ab"], "a step of a sequence must map input names to arrays. Got str"),
        ([np.zeros(3)], "a sample must map input names to arrays. Got ndarray"),
    ],
)
def test_sources_that_are_none(source, text):
    with pytest.raises(CalibrationError, match=text):
        load_samples(source)


def test_a_missing_file_is_the_systems_own_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        load_samples(tmp_path / "none.npz")
