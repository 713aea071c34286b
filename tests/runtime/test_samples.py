"""Sample data in every form, and what is wrong with anything else."""

from __future__ import annotations

import io
import os
import pickle
import zipfile

import numpy as np
import pytest

from mlpass.errors import CalibrationError
from mlpass.runtime.calls import Call, function_of
from mlpass.runtime.samples import functions_in, listed, load_samples, read_arrays


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


def test_what_would_not_be_read_in_a_sequence_is_refused(tmp_path):
    """Steps in a folder in a folder in a folder, also among samples of a function."""
    for place in ("talk", "function=a/talk"):
        (tmp_path / place / ".hidden").mkdir(parents=True)
        np.savez(tmp_path / place / "1.npz", x=np.zeros(1))
    assert len(load_samples(tmp_path, functions=True)) == 2
    for place in ("function=a/talk/more", "talk/more"):
        (tmp_path / place).mkdir()
        with pytest.raises(CalibrationError, match=f"{place}: is a folder in a sequence, which is"):
            load_samples(tmp_path, functions=True)
        (tmp_path / place).rmdir()


def test_a_folder_without_samples_says_what_it_would_have(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros(1))
    with pytest.raises(CalibrationError, match=f"holds no samples; {tmp_path} has neither .npz"):
        load_samples(tmp_path)


@pytest.mark.parametrize("given", [[({"x": 1}, "a")], [("a",)], [[("a", {"x": 1}), "a"]]])
def test_what_is_not_quite_a_pair_is_told_what_one_is(given):
    with pytest.raises(CalibrationError, match="A pair is the name of a function, then its inputs"):
        load_samples(given, functions=True)


def test_a_function_that_is_named_has_samples(tmp_path):
    (tmp_path / "function=b").mkdir()
    np.savez(tmp_path / "function=a.npz", x=np.zeros(1))
    for given in ({"a": [{"x": 1}], "b": []}, tmp_path):
        with pytest.raises(CalibrationError, match="holds no samples of the function 'b'; give"):
            load_samples(given, functions=True)


def test_sequences_come_as_lists_of_steps():
    given = [{"x": 1}, [{"x": 2}, {"x": 3}], ({"x": 4},)]
    assert [list(listed(sample)) for sample in load_samples(iter(given))] == [
        [{"x": 1}],
        [{"x": 2}, {"x": 3}],
        [{"x": 4}],
    ]


def named(samples):
    """The steps of each sample: the function that it names, and the number that it holds."""
    return [[(function_of(step), int(step["x"])) for step in listed(each)] for each in samples]


def test_samples_name_the_function_that_they_are_for():
    given = {"a": [{"x": 1}, [{"x": 2}, {"x": 3}]], "b": iter([{"x": 4}])}
    samples = load_samples(given, functions=True)
    assert named(samples) == [[("a", 1)], [("a", 2), ("a", 3)], [("b", 4)]]
    assert functions_in(samples) == functions_in(samples[:]) == ("a", "b")
    pairs = [("a", {"x": 1}), [("a", {"x": 2}), ("b", {"x": 3})], {"x": 4}]
    samples = load_samples(pairs, functions=True)
    assert named(samples) == [[("a", 1)], [("a", 2), ("b", 3)], [(None, 4)]]
    assert functions_in(samples) == ("a", "b", None)
    call = pickle.loads(pickle.dumps(Call("a", {"x": 1})))
    assert (call, call.function) == ({"x": 1}, "a")


def test_a_folder_names_functions_by_its_files_and_folders(tmp_path):
    for number, name in enumerate(
        (
            "1",
            "2-function=a",
            "3/0-function=a",
            "3/1 function=b.c",
            "function=b/7",
            "function=b/8/1",
            "function=b/8/2_function=a",
        )
    ):
        path = tmp_path / f"{name}.npz"
        path.parent.mkdir(exist_ok=True, parents=True)
        np.savez(path, x=np.array(number))
    samples = load_samples(tmp_path, functions=True)
    steps = [[(None, 0)], [("a", 1)], [("a", 2), ("b.c", 3)], [("b", 4)], [("b", 5), ("a", 6)]]
    assert named(samples) == steps
    assert functions_in(samples) == (None, "a", "b.c", "b")
    assert named(load_samples({"z": tmp_path}, functions=True)[:2]) == [[("z", 0)], [("a", 1)]]


def test_samples_of_several_functions_are_refused_where_they_are_not_for_one():
    with pytest.raises(CalibrationError, match=r"names functions \(a, b\), and samples for sev"):
        load_samples({"a": [{"x": 1}], "b": [{"x": 1}]})
    with pytest.raises(CalibrationError, match="holds no samples"):
        load_samples({}, functions=True)
    with pytest.raises(CalibrationError, match="Got dict"):
        load_samples({"x": np.zeros(3)}, functions=True)
    with pytest.raises(CalibrationError, match="a sample must map input names"):
        load_samples({"a": [1]}, functions=True)


def test_iterables_can_be_gone_through_again():
    samples = load_samples({"x": np.array(number)} for number in range(3))
    assert [int(s["x"]) for s in samples] == [int(s["x"]) for s in samples] == [0, 1, 2]
    given = [{"x": 1}]
    assert load_samples(given) is given


@pytest.mark.parametrize(
    ("arrays", "text"),
    [
        (
            {"x": np.zeros(3), "y": np.zeros(2)},
            r"differ in their leading axis, which counts samples: x \(3,\), y \(2,\)",
        ),
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
        ("", "the path is empty"),
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


def zipped(path, *members, **options):
    with zipfile.ZipFile(path, "w", **options) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return path


def twice(path, member):
    with pytest.warns(UserWarning, match="Duplicate name"):
        return zipped(path, member, member)


def stored(array):
    file = io.BytesIO()
    np.lib.format.write_array(file, array, allow_pickle=True)
    return file.getvalue()


def headed(text):
    """Returns a stored array with any header."""
    header = text.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + b"\0" * 64


def patched(path, *places):
    """Writes other bytes at (signature, offset behind it) of a zip file, wherever that occurs."""
    data = bytearray(path.read_bytes())
    for signature, offset, new in places:
        start = data.find(signature)
        while start >= 0:
            data[start + offset : start + offset + len(new)] = new
            start = data.find(signature, start + 1)
    path.write_bytes(data)
    return path


HEADER, ENTRY = b"PK\x03\x04", b"PK\x01\x02"
X = ("x.npy", stored(np.arange(12.0).reshape(3, 4)))
EXOTIC = (99).to_bytes(2, "little")  # a way of compressing that Python does not know
BAD_FILES = {
    "nothing": (lambda p: p.write_bytes(b""), "is not an .npz of arrays"),
    "text": (lambda p: p.write_text("x = 1"), "is not an .npz of arrays"),
    "a pickle": (lambda p: p.write_bytes(pickle.dumps([1])), "is not an .npz of arrays"),
    "half of one": (
        lambda p: zipped(p, X).write_bytes(zipped(p, X).read_bytes()[:100]),
        "is not an .npz of arrays",
    ),
    "one array": (lambda p: p.write_bytes(X[1]), "is a single array"),
    "a text in it": (
        lambda p: zipped(p, X, ("readme.txt", "hello")),
        "'readme.txt' in it is not",
    ),
    "an empty member": (lambda p: zipped(p, X, ("y.npy", b"")), "'y.npy' in it is not an array"),
    "objects": (
        lambda p: zipped(p, ("x.npy", stored(np.array([{}], object)))),
        "'x.npy' in it holds Python objects, not numbers",
    ),
    "an odd compression": (
        lambda p: patched(zipped(p, X), (HEADER, 8, EXOTIC), (ENTRY, 10, EXOTIC)),
        "'x.npy' in it cannot be read: That compression method is not supported",
    ),
    "encryption": (
        lambda p: patched(zipped(p, X), (HEADER, 6, b"\x01"), (ENTRY, 8, b"\x01")),
        "'x.npy' in it cannot be read: .* is encrypted",
    ),
    "a header of no dict": (lambda p: zipped(p, ("x.npy", headed("[1, 2"))), "cannot be read"),
    "a header of no array": (
        lambda p: zipped(p, ("x.npy", headed("{'descr': 'what', 'fortran_order': 1}"))),
        "cannot be read",
    ),
    "a header of a negative shape": (
        lambda p: zipped(
            p, ("x.npy", headed("{'descr': '<f4', 'fortran_order': False, 'shape': (-1, 4)}"))
        ),
        "cannot be read",
    ),
    "a header of more than there is": (
        lambda p: zipped(
            p, ("x.npy", headed("{'descr': '<f4', 'fortran_order': False, 'shape': (1000, 4)}"))
        ),
        "cannot be read",
    ),
    "a header of more than fits": (
        lambda p: zipped(
            p, ("x.npy", headed("{'descr': '<f4', 'fortran_order': False, 'shape': (2**60,)}"))
        ),
        "cannot be read",
    ),
    "a header of a huge shape": (
        lambda p: zipped(
            p,
            ("x.npy", headed(f"{{'descr': '<f4', 'fortran_order': 0, 'shape': ({1 << 60},)}}")),
        ),
        "cannot be read",
    ),
    "a header of nothing, very often": (
        lambda p: zipped(
            p, ("x.npy", headed(f"{{'descr': '<f4', 'fortran_order': 0, 'shape': ({1 << 50}, 0)}}"))
        ),
        "cannot be read|has the shape",
    ),
    "a header of elements that take no bytes": (
        lambda p: zipped(
            p, ("x.npy", headed(f"{{'descr': '|V0', 'fortran_order': 0, 'shape': ({10**11},)}}"))
        ),
        "cannot be read|has the shape",
    ),
    "a header far too long": (
        lambda p: zipped(p, ("x.npy", b"\x93NUMPY\x02\x00\x40\x0d\x03\x00" + b"{" * 200_000)),
        "'x.npy' in it cannot be read: Header info length",
    ),
    "two of one name": (lambda p: twice(p, X), "holds 2 arrays of the name 'x'; write it again"),
    "two of one name, one without its ending": (
        lambda p: zipped(p, X, ("x", X[1])),
        "holds 2 arrays of the name 'x'; write it again",
    ),
    "a header of long texts": (
        lambda p: zipped(
            p, ("x.npy", headed("{'descr': '<U999999999', 'fortran_order': False, 'shape': (9,)}"))
        ),
        "cannot be read",
    ),
}
for _name, _kind in {"deflate": 8, "bzip2": 12, "lzma": 14}.items():
    BAD_FILES[f"broken {_name}"] = (
        lambda p, kind=_kind: patched(
            zipped(p, X, compression=kind), (HEADER, 40, b"\xff\x00\xff\x00\xff\x00\xff\x00")
        ),
        "'x.npy' in it cannot be read: ",
    )


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_file_that_is_no_npz_is_told_in_one_line(case, tmp_path):
    make, message = BAD_FILES[case]
    path = tmp_path / "samples.npz"
    make(path)
    for data in (path, tmp_path):  # alone, and one of a folder
        with pytest.raises(CalibrationError, match=message) as raised:
            load_samples(data)[0]
        assert str(path) in str(raised.value)
        assert "\n" not in str(raised.value)
        assert "allow_pickle" not in str(raised.value)


def test_what_numpy_writes_is_read_in_every_compression(tmp_path):
    for kind in (0, 8, 12, 14):
        path = zipped(tmp_path / f"{kind}.npz", X, ("y.npy", X[1]), compression=kind)
        with np.load(path) as wanted:
            found = load_samples(path)
            for number in range(3):
                assert found[number].keys() == {"x", "y"}
                np.testing.assert_array_equal(found[number]["x"], wanted["x"][number])


@pytest.mark.parametrize("kind", ["pipe", "folder", "device"])
def test_what_is_no_regular_file_is_not_opened(kind, tmp_path):
    path = tmp_path / "samples.npz"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero")
    with pytest.raises(CalibrationError, match="is not a regular file"):
        read_arrays(path)
    # A folder among samples is a sequence, and this one holds no steps.
    message = "this one holds none" if kind == "folder" else "is not a regular file"
    with pytest.raises(CalibrationError, match=message):
        load_samples(tmp_path)[0]
