"""What mlpass uses of coremltools beyond its public interface is still there.

A failure here says what moved: mend it in the file that it names.
"""

from __future__ import annotations

import ast
import importlib
import inspect
from pathlib import Path

import coremltools as ct
import pytest
from coremltools.converters.mil.mil import Builder as mb

import mlpass
import mlpass.plugin.passes
from mlpass.program.mlmodel import submodel
from tests.runtime.programs import convert, program

ROOT = Path(mlpass.__file__).parent


def imports():
    """Every (file, module, name) that mlpass imports of coremltools."""
    return sorted(
        {
            (str(path.relative_to(ROOT)), node.module, alias.name)
            for path in ROOT.rglob("*.py")
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("coremltools")
            for alias in node.names
        }
    )


def find(module, name):
    """A part of coremltools by its place, None where it moved."""
    try:
        return getattr(importlib.import_module(module), name, None)
    except ImportError:
        return None


@pytest.mark.parametrize(("file", "module", "name"), imports())
def test_what_is_imported_is_where_it_was(file, module, name):
    assert find(module, name) is not None, f"coremltools moved {module}.{name}, used in {file}"


def test_the_test_of_imports_can_fail():
    assert ("plugin/passes.py", "coremltools", "PassPipeline") in imports()
    assert find("coremltools.converters.mil.converter", "nothing") is None
    assert find("coremltools.nothing", "nothing") is None


MIL = "coremltools.converters.mil.mil"
PASSES = f"{MIL}.passes"
CALLS = [  # file, module, class or function, method, its parameters that mlpass gives
    (
        "program/mlmodel.py",
        "coremltools.converters.mil.debugging_utils",
        "extract_submodel",
        None,
        ["model", "outputs"],
    ),
    ("program/pymil_edit.py", MIL, "Block", "remove_ops", ["ops_to_remove"]),
    (
        "program/pymil_edit.py",
        MIL,
        "Block",
        "replace_uses_of_var_after_op",
        ["anchor_op", "old_var", "new_var", "force_replace"],
    ),
    ("program/pymil_edit.py", MIL, "Operation", "get_flattened_inputs", []),
    ("program/pymil_edit.py", MIL, "Builder", "constexpr_sparse_to_dense", []),
    ("program/pymil_edit.py", MIL, "Builder", "const", []),
    ("program/reload.py", f"{MIL}.program", "Program", "__init__", []),
    (
        "program/reload.py",
        f"{MIL}.passes.defs.cleanup.const_deduplication",
        "const_deduplication",
        "_deduplicate_const_across_functions",
        ["prog"],
    ),
    (
        "program/reload.py",
        "coremltools.converters.mil.frontend.milproto.load",
        "load",
        None,
        ["model_spec", "specification_version", "file_weights_dir"],
    ),
    ("plugin/passes.py", f"{PASSES}.graph_pass", "AbstractGraphPass", "set_options", ["pass_op"]),
    ("plugin/passes.py", f"{PASSES}.graph_pass", "AbstractGraphPass", "apply", ["prog"]),
    (
        "plugin/passes.py",
        f"{PASSES}.pass_pipeline",
        "PassPipeline",
        "set_options_by_another_pipeline",
        ["other_pipeline"],
    ),
    (
        "plugin/passes.py",
        f"{PASSES}.pass_pipeline",
        "PassPipeline",
        "__init__",
        ["pass_names", "pipeline_name"],
    ),
]


@pytest.mark.parametrize(("file", "module", "owner", "method", "parameters"), CALLS)
def test_what_is_called_takes_what_it_took(file, module, owner, method, parameters):
    called = find(module, owner)
    where = f"{module}.{owner}" + (f".{method}" if method else "")
    if method is not None:
        called = getattr(called, method, None)
    assert called is not None, f"coremltools moved {where}, used in {file}"
    taken = inspect.signature(called).parameters
    for parameter in parameters:
        assert any(name.startswith(parameter) for name in taken), (
            f"coremltools' {where} does not take {parameter!r} any more, used in {file}"
        )


@pytest.mark.parametrize(
    ("file", "holder", "attributes"),
    [
        (
            "plugin/passes.py",
            "coremltools.converters.mil.converter.ConverterRegistry",
            {"frontends": dict},
        ),
        ("plugin/passes.py", f"{PASSES}.pass_registry.PASS_REGISTRY", {"passes": dict}),
        (
            "plugin/passes.py",
            f"{PASSES}.pass_pipeline.PassPipeline",
            {"_PIPELINE_NAME_TO_PASSES": dict},
        ),
        ("plugin/passes.py", f"{PASSES}.graph_pass.PassOption", {"option_name": property}),
        ("plugin/passes.py", f"{PASSES}.graph_pass.PassOption", {"option_val": property}),
    ],
)
def test_what_is_read_is_what_it_was(file, holder, attributes):
    found = find(*holder.rsplit(".", 1))
    for name, kind in attributes.items():
        assert isinstance(getattr(found, name, None), kind), (
            f"coremltools' {holder}.{name} is no {kind.__name__} any more, used in {file}"
        )


@pytest.mark.filterwarnings("ignore:Implicitly cleaning up:ResourceWarning")  # of coremltools
def test_a_part_of_a_model_ends_where_it_is_told():
    def build(x):
        return mb.exp(x=mb.relu(x=x, name="middle"), name="y")

    part = submodel(convert(program(build, (2,)), pass_pipeline=ct.PassPipeline.EMPTY), ["middle"])
    assert [output.name for output in part.get_spec().description.output] == ["middle"]


def test_the_passes_by_name_are_there():
    registry = find(f"{PASSES}.pass_registry", "PASS_REGISTRY")
    plugin = mlpass.plugin.passes
    for name in (*plugin._NAMING, plugin._LAST, "common::const_deduplication"):
        assert name in registry, f"coremltools has no pass {name} any more"
    assert ct.PassPipeline.DEFAULT.passes[-1] == plugin._LAST


def test_a_program_has_what_is_read_of_it():
    def build(x):
        return mb.relu(x=x, name="y")

    source = program(build, (1,))
    (op,) = source.functions["main"].operations
    const = program(lambda x: mb.add(x=x, y=[1.0, 2.0]), (2,)).find_ops(op_type="const")[0]
    for holder, names in (
        (source, ("functions", "default_function_name", "export_as_multifunction")),
        (source.functions["main"], ("operations", "inputs", "outputs", "opset_version")),
        (op, ("op_type", "name", "inputs", "outputs", "blocks", "enclosing_block")),
        (op.outputs[0], ("name", "val", "sym_type", "op", "child_ops", "consuming_blocks")),
        (const, ("weight_id",)),
    ):
        for name in names:
            assert hasattr(holder, name), (
                f"coremltools' {type(holder).__name__} has no {name!r} any more, used in "
                "program/pymil.py and program/pymil_edit.py"
            )
