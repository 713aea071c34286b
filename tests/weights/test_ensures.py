"""What was written is held against the report before it gets its name."""

from __future__ import annotations

import dataclasses
import os
import re

import coremltools as ct
import numpy as np
import pytest
from coremltools.converters.mil.mil import Builder as mb

import mlpass
from mlpass import Config, Percentile
from mlpass.errors import MlpassError
from mlpass.finetune import ConstantSparsity, MagnitudePruner, to_module
from mlpass.program import blobs, encode, rewriter
from mlpass.program.blobs import BlobWriter
from mlpass.program.dtypes import BY_NAME
from mlpass.program.messages import all_operations
from mlpass.program.milproto import MilProto
from tests.runtime.programs import convert, program

CONFIG = Percentile(0.6)


@pytest.fixture
def model(fixtures):
    return fixtures / "tiny_lm.mlpackage"


def samples(fixtures):
    with np.load(fixtures / "tiny_lm.npz") as arrays:
        return [{name[6:]: arrays[name] for name in arrays.files if name.startswith("input:")}]


def edit_message(monkeypatch, edit):
    """Has `edit` change, as the last thing, the message's op that makes the first sparse weight."""
    raise_functions = rewriter.raise_functions

    def wrong(model, part, *others):
        raise_functions(model, part, *others)
        for function in part.message.functions.values():
            block = function.block_specializations[function.opset]
            operations = [operation for _, operation in all_operations(block)]
            made = next(one for one in operations if one.type == "constexpr_sparse_to_dense")
            name = made.outputs[0].name
            edit(
                made,
                next(
                    one
                    for one in operations
                    for argument in one.inputs.values()
                    if any(binding.name == name for binding in argument.arguments)
                ),
            )

    monkeypatch.setattr(rewriter, "raise_functions", wrong)


def another_shape(monkeypatch):
    def edit(made, _reader):
        dimensions = made.outputs[0].type.tensorType.dimensions
        dimensions[0].constant.size += 1

    edit_message(monkeypatch, edit)


def another_dtype(monkeypatch):
    def edit(made, _reader):
        made.outputs[0].type.tensorType.dataType = BY_NAME["fp64"].proto

    edit_message(monkeypatch, edit)


def another_reader(monkeypatch):
    def edit(_made, reader):
        reader.type = "relu"

    edit_message(monkeypatch, edit)


def not_replaced(monkeypatch):
    replace, done = MilProto.replace, []

    def wrong(self, op, *others):
        if done:
            return replace(self, op, *others)
        done.append(op)
        return None

    monkeypatch.setattr(MilProto, "replace", wrong)


def miscounted(monkeypatch):
    count = encode.sparse_nbytes
    monkeypatch.setattr(encode, "sparse_nbytes", lambda *arguments: count(*arguments) - 1)


def misplaced(monkeypatch):
    begin = BlobWriter._begin
    monkeypatch.setattr(BlobWriter, "_begin", lambda *arguments: begin(*arguments) + 64)


def marked_wrong(monkeypatch):
    begin = BlobWriter._begin

    def wrong(self, dtype, count):
        return begin(self, dataclasses.replace(dtype, blob=14), count)

    monkeypatch.setattr(BlobWriter, "_begin", wrong)


def cut_short(monkeypatch):
    close = BlobWriter.close

    def wrong(self):
        close(self)
        os.truncate(self._file.name, self._end - 1)

    monkeypatch.setattr(BlobWriter, "close", wrong)


FAULTS = [
    (another_shape, r"{name}: its shape is \(.*\), the report says \(.*\)"),
    (another_dtype, "{name}: its dtype is fp64, the report says fp(16|32)"),
    (another_reader, "{name}: .* reads no weight as '(weight|x)'"),
    (not_replaced, "{name}: its encoding is dense, the report says sparse"),
    (miscounted, r"{name}: it takes \d+ bytes, the report says \d+"),
    (misplaced, "cannot be read back: .*op '.*blob"),
    (marked_wrong, "cannot be read back: .*op '.*holds elements of code 14"),
    (cut_short, "cannot be read back: .*op '.*is it truncated"),
]


def first_sparse(model, folder):
    report = mlpass.prune(model, folder / "good.mlpackage", CONFIG)
    return next(layer.name for layer in report.layers if layer.encoding == "sparse")


def contents(folder):
    return {
        path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


@pytest.mark.slow_but_every(2)
@pytest.mark.parametrize(
    ("plant", "text"), FAULTS, ids=lambda value: getattr(value, "__name__", "")
)
def test_a_fault_of_the_writer_is_caught(model, tmp_path, monkeypatch, plant, text):
    name = first_sparse(model, tmp_path)
    new, old = tmp_path / "new.mlpackage", tmp_path / "old.mlpackage"
    mlpass.prune(model, old, Percentile(0.3))
    before = contents(tmp_path)
    wanted = (
        r"mlpackage: was not written, since the new package differs from its report\. "
        f"{text.format(name=re.escape(name))}"
    )
    for target, options in ((new, {}), (old, {"force": True})):
        with monkeypatch.context() as planted:
            plant(planted)
            with pytest.raises(MlpassError, match=wanted) as caught:
                mlpass.prune(model, target, CONFIG, **options)
        assert str(target) in str(caught.value) and ".partial" not in str(caught.value)
        assert contents(tmp_path) == before
        assert {path.name for path in tmp_path.iterdir()} == {"good.mlpackage", "old.mlpackage"}


def test_what_was_left_may_take_less(tmp_path):
    """A slice of a constant that is cast to fp16 is stored in fp16 once another slice is pruned."""
    whole = np.random.default_rng(0).standard_normal((64, 128)).astype(np.float16)

    def build(x):
        cast = mb.cast(x=mb.const(val=whole.astype(np.float32), name="whole"), dtype="fp16")
        parts = [
            mb.slice_by_size(x=cast, begin=[0, at], size=[64, 64], name=name)
            for name, at in (("left", 0), ("pruned", 64))
        ]
        x = mb.cast(x=x, dtype="fp16")
        first, second = (mb.matmul(x=x, y=part) for part in parts)
        return mb.cast(x=mb.add(x=first, y=second), dtype="fp32")

    source, target = tmp_path / "in.mlpackage", tmp_path / "out.mlpackage"
    convert(program(build, (1, 64)), pass_pipeline=ct.PassPipeline.EMPTY).save(str(source))
    report = mlpass.prune(source, target, Config(CONFIG, op_name_configs={"left": None}))
    left, pruned = report.layers
    assert (left.encoding, pruned.encoding) == ("dense", "sparse")
    after = {layer.name: layer.bytes_after for layer in mlpass.inspect(target).layers}
    assert after["left"] == 64 * 64 * 2 < left.bytes_after
    assert after["pruned"] == pruned.bytes_after


def test_a_fault_is_caught_of_a_calibrated_run(model, fixtures, tmp_path, monkeypatch):
    not_replaced(monkeypatch)
    target = tmp_path / "out.mlpackage"
    with pytest.raises(MlpassError, match="its encoding is dense, the report says sparse"):
        mlpass.prune(model, target, CONFIG, sample_data=samples(fixtures))
    assert not target.exists()


def test_a_fault_is_caught_of_a_trained_model(fixtures, tmp_path, monkeypatch):
    module = to_module(fixtures / "digits_ios15.mlpackage")
    pruner = MagnitudePruner(module, Percentile(0.75), ConstantSparsity(1))
    pruner.prepare()
    pruner.step()
    miscounted(monkeypatch)
    target = tmp_path / "out.mlpackage"
    with pytest.raises(MlpassError, match=r": it takes \d+ bytes, the report says \d+"):
        pruner.finalize(target)
    assert not target.exists()


def test_no_element_of_a_weight_is_read(model, tmp_path, monkeypatch):
    read: list[int] = []
    folders = []
    kind = rewriter.Rewriter
    finish, load = kind._finish, blobs.BlobFile.read

    def finished(self):
        finish(self)
        folders.append(self._root)

    def counted(self, offset, dtype, count, start=0, stop=None):
        if folders and self.path.is_relative_to(folders[0]):
            read.append(count)
        return load(self, offset, dtype, count, start, stop)

    monkeypatch.setattr(kind, "_finish", finished)
    monkeypatch.setattr(blobs.BlobFile, "read", counted)
    mlpass.prune(model, tmp_path / "out.mlpackage", CONFIG)
    assert folders and not read
