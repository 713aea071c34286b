"""The rooms: which may import which, and what importing costs."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import mlpass
from mlpass.registries import METHODS, MODES, STORAGES

ROOT = Path(mlpass.__file__).parent

# Room: the rooms it may import. A room may always import itself.
GROUND = {
    "arrays",
    "errors",
    "blas",
    "buffers",
    "collector",
    "files",
    "halves",
    "leftovers",
    "ledger",
    "options",
    "literals",
    "parallel",
    "registries",
    "renaming",
    "version",
}
ARROWS = {
    "errors": set(),
    "version": set(),
    "buffers": set(),
    "collector": set(),
    "leftovers": set(),
    "literals": set(),
    "renaming": {"leftovers"},
    "files": {"errors", "leftovers", "renaming"},
    "ledger": {"errors", "files", "leftovers", "version"},
    "options": {"errors"},
    # It names the modules of mlpass' own, which are imported when they are first asked for.
    "registries": {"errors", "options", "sparsity", "solvers", "storage"},
    "blas": set(),
    "parallel": {"blas", "errors"},
    "halves": {"parallel"},
    "arrays": {"halves"},
    "report": {"errors", "files"},
    "sparsity": GROUND,
    "storage": {*GROUND, "sparsity"},
    "solvers": {*GROUND, "sparsity", "storage"},
    "program": GROUND,
    "runtime": {*GROUND, "program"},
    "weights": {*GROUND, "sparsity", "solvers", "storage", "program", "runtime", "report"},
    "plan": {*GROUND, "sparsity", "storage", "weights"},
    "examine": {*GROUND, "program", "runtime", "report", "storage", "weights", "plan"},
    "finetune": {
        *GROUND,
        "sparsity",
        "storage",
        "program",
        "runtime",
        "report",
        "weights",
        "plan",
        "examine",
    },
    "calibrate": {
        *GROUND,
        "sparsity",
        "solvers",
        "storage",
        "program",
        "runtime",
        "report",
        "weights",
        "plan",
    },
    "pruning": {
        *GROUND,
        "solvers",
        "storage",
        "program",
        "runtime",
        "report",
        "weights",
        "plan",
        "examine",
        "finetune",
        "calibrate",
    },
    "plugin": {
        *GROUND,
        "program",
        "runtime",
        "solvers",
        "storage",
        "report",
        "plan",
        "calibrate",
        "pruning",
    },
    "study": {
        *GROUND,
        "sparsity",
        "solvers",
        "storage",
        "program",
        "runtime",
        "report",
        "weights",
        "plan",
        "examine",
        "finetune",
        "calibrate",
        "pruning",
    },
    "cli": {
        *GROUND,
        "storage",
        "report",
        "runtime",
        "calibrate",
        "plan",
        "examine",
        "finetune",
        "pruning",
        "study",
        "__init__",
    },
    "__main__": {"cli"},
    "__init__": {
        *GROUND,
        "sparsity",
        "solvers",
        "storage",
        "runtime",
        "report",
        "plan",
        "examine",
        "pruning",
        "plugin",
        "study",
    },
}
FILES = sorted(ROOT.rglob("*.py"))


def room_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported_modules(path: Path, *, by_name: bool = True) -> set[str]:
    """Returns what a file imports by its full name, a name from a module included.

    Args:
        path: of the file.
        by_name: whether modules that it names in a text, for `import_module`, are among them.
    """
    modules = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            modules |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif by_name and re.fullmatch(r"mlpass(\.\w+)+", str(getattr(node, "value", ""))):
            modules.add(node.value)  # type: ignore[attr-defined]
    return modules


def imported_room(module: str) -> str:
    """Returns the room of mlpass that an import of `module` enters.

    Raises:
        LookupError: there is no such thing in mlpass.
    """
    _, first, *_ = [*module.split("."), "__init__"]
    if (ROOT / first).is_dir() or (ROOT / f"{first}.py").is_file():
        return first
    if module.count(".") == 1 and first in {*mlpass.__all__, "__version__"}:
        return "__init__"
    raise LookupError(f"there is no {module}")


def check_imports(path: Path, room: str) -> None:
    for module in imported_modules(path):
        if module.split(".")[0] == "mlpass":
            target = imported_room(module)
            allowed = target == room or target in ARROWS[room]
            assert allowed, f"{path}: {room} may not import {module}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_follow_the_arrows(path):
    check_imports(path, room_of(path))


@pytest.mark.parametrize(
    "text",
    [
        "from mlpass.pruning import prune",
        "from mlpass.pruning.prune import prune",
        "from mlpass import pruning",
        "from mlpass import prune",
        "from mlpass import __version__",
        "import mlpass",
        "import mlpass.cli",
        "import numpy, mlpass.cli as commands",
        "def later():\n    from mlpass.cli import main",
        "import importlib\nimportlib.import_module('mlpass.cli')",
    ],
)
def test_the_test_of_the_arrows_can_fail(tmp_path, text):
    wrong = tmp_path / "wrong.py"
    wrong.write_text(f"from mlpass.errors import MlpassError\n{text}\n")
    with pytest.raises(AssertionError, match="sparsity may not import mlpass"):
        check_imports(wrong, "sparsity")
    wrong.write_text("from mlpass.errors import MlpassError\n")
    check_imports(wrong, "sparsity")


@pytest.mark.parametrize("room", ["__init__", "cli", "sparsity"])
@pytest.mark.parametrize(
    "text", ["from mlpass.nothing import x", "import mlpass.nothing", "from mlpass import nothing"]
)
def test_an_import_of_nothing_is_an_error(tmp_path, room, text):
    wrong = tmp_path / "wrong.py"
    wrong.write_text(text)
    with pytest.raises(LookupError, match=r"there is no mlpass\.nothing"):
        check_imports(wrong, room)


def test_a_relative_import_is_an_error(tmp_path):
    wrong = tmp_path / "wrong.py"
    wrong.write_text("from . import prune")
    with pytest.raises(AssertionError, match="relative import"):
        check_imports(wrong, "cli")


def imports_of(path: Path) -> set[str]:
    """mlpass' modules that a file imports, wherever in it."""
    names = {name_of(file) for file in FILES}
    found = imported_modules(path, by_name=False)
    return {name if name in names else name.rpartition(".")[0] for name in found} & names


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__")


def circles(arrows: dict[str, set[str]]) -> set[str]:
    """Modules that import each other, by a removal of those that do not import any of the rest."""
    left = {name: ends - {name} for name, ends in arrows.items()}
    while leaves := {name for name, ends in left.items() if not ends & left.keys()}:
        left = {name: ends for name, ends in left.items() if name not in leaves}
    return set(left)


def test_no_module_imports_what_imports_it():
    assert not circles({name_of(path): imports_of(path) for path in FILES})
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": set()}) == {"a", "b", "c"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_coremltools_internals_are_imported_in_their_place(path):
    relative = str(path.relative_to(ROOT))
    for module in imported_modules(path):
        if module.startswith("coremltools"):
            at_home = room_of(path) in ("program", "plugin")
            run_by_it = relative == "runtime/backends/coreml.py"
            assert at_home or (run_by_it and ".converters" not in module), f"{path}: {module}"


def test_files_stay_short():
    long = {str(path): n for path in FILES if (n := len(path.read_text().splitlines())) > 400}
    assert not long


def test_few_annotations_say_any():
    said = sum(len(re.findall(r"\bAny\b", path.read_text())) for path in FILES)
    assert said <= 327  # fewer are welcome


def classes_asked_for(text: str) -> set[str]:
    """Returns the names of classes that a text holds objects against, in whatever way."""
    found: list[ast.expr] = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("isinstance", "issubclass"):
            found.append(node.args[1])
        elif isinstance(node, ast.MatchClass):
            found.append(node.cls)
        elif isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            if any(ast.unparse(side).startswith("type(") for side in sides):
                found += sides
    names = [name for each in found for name in ast.walk(each)]
    texts = {str(each.value) for each in names if isinstance(each, ast.Constant)}
    attributes = {each.attr for each in names if isinstance(each, ast.Attribute)}
    return texts | attributes | {each.id for each in names if isinstance(each, ast.Name)}


# Modes are at home in one room, methods in another, storages in a third. Elsewhere they are asked
# what they do, by methods and attributes, or built by name from their registry; so a new one is
# known to all of the code. What a user gave may be held against `Mode`, `Method` and `Storage`
# themselves, which all of them are.
HOMES = {"sparsity": MODES, "solvers": METHODS, "storage": STORAGES}
CONCRETE = {
    home: {registry[name].kind.__name__ for name in registry} for home, registry in HOMES.items()
}
CONCRETE["solvers"].add("Uncorrelated")


def strangers_asked_for(path: Path) -> set[str]:
    """Returns the modes, methods and storages that a file asks for their class, but for its own."""
    known = [names for home, names in CONCRETE.items() if home != room_of(path)]
    return classes_asked_for(path.read_text()) & set().union(*known)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_mode_method_or_storage_is_asked_for_its_class(path):
    assert not strangers_asked_for(path)


def test_a_room_may_ask_for_its_own_alone(tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    asking = "isinstance(x, (NM, ADMM, Palette))"
    own = {"sparsity": "NM", "solvers": "ADMM", "storage": "Palette"}
    for room in (*own, "plan"):
        (tmp_path / room).mkdir()
        path = tmp_path / room / "asking.py"
        path.write_text(asking)
        assert strangers_asked_for(path) == {*own.values()} - {own.get(room)}


@pytest.mark.parametrize(
    "text",
    [
        "isinstance(mode, Percentile)",
        "isinstance(x, (Mode, modes.Percentile))",
        "isinstance(x, Mode | Percentile | None)",
        "issubclass(type(x), Percentile)",
        "type(x) is Percentile",
        "Percentile == type(x)",
        "type(x).__name__ == 'Percentile'",
        "type(x) in (Percentile, NM)",
        "match x:\n    case Percentile(): pass",
    ],
)
def test_the_test_of_classes_can_fail(text):
    modes = CONCRETE["sparsity"]
    assert "Percentile" in classes_asked_for(text) & modes
    assert not classes_asked_for("isinstance(x, Mode)\nPercentile(0.5) == x") & modes


def loaded_by(code: str) -> set[str]:
    script = f"{code}\nimport sys; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


def test_importing_mlpass_loads_neither_coremltools_nor_torch():
    loaded = loaded_by("import mlpass; mlpass.Percentile(0.5); mlpass.prune")
    assert not loaded & {"coremltools", "torch", "sklearn"}


def test_help_loads_not_even_numpy():
    loaded = loaded_by(
        "import sys, contextlib, io\nfrom mlpass.cli import main\n"
        "with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):\n"
        "    main(['prune', '--help'])"
    )
    assert "mlpass.cli" in loaded
    assert not loaded & {"numpy", "coremltools", "torch", "yaml", "google.protobuf"}


def test_all_names_are_there_and_no_others():
    assert sorted(mlpass.__all__) == sorted(mlpass._HOMES)
    for name in mlpass.__all__:
        assert getattr(mlpass, name).__name__ == name
    assert set(mlpass.__all__) <= set(dir(mlpass))
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        mlpass.nothing  # noqa: B018


def test_messages_are_coremltools_own_classes():
    from coremltools.proto import MIL_pb2, Model_pb2

    from mlpass.program.proto import MIL, Model

    assert MIL.Program is MIL_pb2.Program
    assert Model is Model_pb2.Model
