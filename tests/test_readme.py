"""The examples of every README and of CONTRIBUTING are run as they stand, with what they name."""

from __future__ import annotations

import ast
import re
import shlex
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from textwrap import indent
from types import SimpleNamespace
from typing import Any

import coremltools as ct
import numpy as np
import pytest
import torch
from coremltools.converters.mil.mil import Builder as mb
from PIL import Image

import mlpass
import mlpass.plugin
from mlpass import Percentile
from mlpass.cli import main, make_parser
from mlpass.leftovers import discard
from mlpass.registries import METHODS, MODES
from mlpass.runtime.doubts import doubts
from mlpass.runtime.samples import load_samples
from mlpass.sparsity.layout import matrix_layout
from tests import peer
from tests.multifunction import save_lm
from tests.runtime.chains import chunks, talks
from tests.runtime.programs import convert, program
from tests.runtime.sequences import STATEFUL, lm_sequences

pytestmark = pytest.mark.filterwarnings(
    "ignore:Implicitly cleaning up:ResourceWarning",  # coremltools leaves directories behind
    "ignore:Output, .* has been renamed:UserWarning",  # a trace has numbers for names
)

ROOT = Path(__file__).parents[1]
SHAPE = (1, 3, 16, 16)


def blocks(document: str, language: str) -> list[str]:
    text = (ROOT / document).read_text()
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def title(code: str) -> str:
    """Returns a block's first line that does something, for the name of its test."""
    lines = [line for line in code.splitlines() if line and "import " not in line]
    return lines[0].split("(")[0]


def commands(document: str) -> list[str]:
    """Returns the `mlpass` commands of a document's shell examples."""
    found = []
    for line in "\n".join(blocks(document, "sh")).splitlines():
        for part in line.partition("  #")[0].split("&&"):
            words = part.split()
            if words and Path(words[0]).name == "mlpass":
                found.append(" ".join(["mlpass", *words[1:]]))
    return found


# The pages of the rooms; each example stands alone there, but for the imports before it.
PAGES = [str(path.relative_to(ROOT)) for path in sorted((ROOT / "mlpass").glob("*/README.md"))]
PYTHON = [(page, code) for page in PAGES for code in blocks(page, "python")]
COMMANDS = [(page, command) for page in PAGES for command in commands(page)]
# The top page tells one story, but for the first command.
STORY = commands("README.md")[1:]
# Those that take more than a few seconds here.
SLOW = ("mlpass sweep", "mlpass choose", "mlpass finetune")


def network(image: Any) -> Any:
    """image (1, 3, 16, 16) -> logits (1, 10), by every kind of op that README's configs name."""
    rng = np.random.default_rng(0)

    def weight(name: str, *shape: int) -> Any:
        values = rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))
        return mb.const(val=values.astype(np.float32), name=name)

    x = mb.conv(x=image, weight=weight("layer_3_weight", 32, 3, 3, 3), strides=[4, 4], name="conv")
    x = mb.relu(x=x, name="layer_3_relu")
    x = mb.reshape(x=x, shape=[1, -1])
    x = mb.linear(x=x, weight=weight("block_0_ffn_weight", 256, int(x.shape[1])))
    row = mb.gather(x=weight("table_weight", 256, 256), indices=mb.reduce_argmax(x=x, axis=1))
    return mb.linear(x=mb.relu(x=mb.add(x=x, y=row)), weight=weight("head", 10, 256), name="logits")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the model for iOS17 and for iOS18."""
    folder = tmp_path_factory.mktemp("models")
    for opset in (ct.target.iOS17, ct.target.iOS18):
        source = program(network, SHAPE, opset=opset)
        convert(source, minimum_deployment_target=opset).save(
            str(folder / f"{opset.name}.mlpackage")
        )
    return folder


def inputs(count: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(1).standard_normal((count, *SHAPE)).astype(np.float32)


@pytest.fixture(scope="module")
def in_a_row(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Packages of which each takes what the one before makes."""
    return chunks(tmp_path_factory.mktemp("row"))


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A language model with the functions prefill and decode."""
    return save_lm(tmp_path_factory.mktemp("llm"))


@pytest.fixture
def place(
    models: Path,
    in_a_row: Sequence[Path],
    llm: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """The folder that a block of Python runs in."""
    for path in in_a_row:
        shutil.copytree(path, tmp_path / path.name)
    for name in ("in.mlpackage", "model.mlpackage"):
        shutil.copytree(models / "iOS17.mlpackage", tmp_path / name)
    mlpass.prune(models / "iOS17.mlpackage", tmp_path / "small.mlpackage", Percentile(0.5))
    shutil.copytree(STATEFUL, tmp_path / "stateful.mlpackage")
    shutil.copytree(llm, tmp_path / "llm.mlpackage")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def shell(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that a command runs in."""
    shutil.copytree(models / "iOS18.mlpackage", tmp_path / "model.mlpackage")
    mlpass.prune(models / "iOS18.mlpackage", tmp_path / "pruned.mlpackage", Percentile(0.5))
    for name in ("out.mlpackage", "small.mlpackage"):
        shutil.copytree(tmp_path / "pruned.mlpackage", tmp_path / name)
    np.savez(tmp_path / "samples.npz", image=inputs(4))
    np.savez(tmp_path / "x.npz", image=inputs(1)[0])
    for name, count in (("prefill", 64), ("short", 16)):
        np.savez(tmp_path / f"{name}.npz", tokens=np.arange(2 * count).reshape(2, 1, count))
    shutil.copytree(STATEFUL, tmp_path / "stateful.mlpackage")
    (talk,) = lm_sequences(3)
    steps = {name: np.stack([step[name] for step in talk]) for name in talk[0]}
    np.savez(tmp_path / "talk.npz", **steps)
    np.savez(tmp_path / "talks.npz", **{name: array[None] for name, array in steps.items()})
    (tmp_path / "fixtures").symlink_to(ROOT / "fixtures")
    for name in ("model.pte", "pruned.pte"):
        shutil.copy(ROOT / "fixtures/executorch/inline.pte", tmp_path / name)
    shutil.copy(ROOT / "fixtures/executorch/rows.npz", tmp_path)
    (tmp_path / "prune.yaml").write_text(
        "global_config: {mode: percentile, target_sparsity: 0.5}\n"
    )
    (tmp_path / "accuracy.py").write_text("def top1(package):\n    return 0.75\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def pictures(folder: Path) -> list[Path]:
    """Returns the paths of three images, none of the size that a model takes."""
    paths = [folder / f"{number}.png" for number in range(3)]
    rng = np.random.default_rng(5)
    for path in paths:
        pixels = rng.integers(0, 256, (40, 30, 3), np.uint8)
        Image.fromarray(pixels).save(path)
    return paths


@pytest.fixture
def given(place: Path) -> Iterator[dict[str, Any]]:
    """What the examples take as there, by name."""
    del place
    rng = np.random.default_rng(2)
    rows = rng.standard_normal((64, 32)).astype(np.float32)
    images, labels = torch.from_numpy(inputs(4)[:, 0]), torch.arange(4)
    with ThreadPoolExecutor(1) as executor:
        yield {
            "samples": [{"image": array} for array in inputs(4)],
            "array": inputs(1)[0],
            "batches": [(images, labels)] * 2,
            "talk": talks(3)[0],
            "tokens": [np.full((1, 1), token, np.int32) for token in (7, 8, 9)],
            "prompt": np.arange(8, dtype=np.int32)[None],
            "paths": pictures(Path()),
            "texts": [f"{word} I stand. " * 6 for word in ("Here", "There", "Where")],
            "tokenizer": lambda text: {"input_ids": list(text.encode())},
            "weight": rng.standard_normal((16, 32)).astype(np.float32),
            "gram": rows.T @ rows,
            "mlmodel": ct.models.MLModel("in.mlpackage", skip_model_load=True),
            "program": peer.load_programs(Path("in.mlpackage"))[0],
            "dask_client": SimpleNamespace(get_executor=lambda: executor),  # any executor will do
        }


def imported_before(page: str, code: str) -> str:
    """Returns the imports of all blocks of a page before one, as its reader has seen them."""
    shown = blocks(page, "python")
    nodes = [node for text in shown[: shown.index(code)] for node in ast.parse(text).body]
    return "\n".join(
        ast.unparse(node) for node in nodes if isinstance(node, ast.Import | ast.ImportFrom)
    )


def run(code: str, names: dict[str, Any]) -> dict[str, Any]:
    """Returns the names after a block was run, as one that a reader typed."""
    names["__name__"] = "example"
    exec(compile(code, "<example>", "exec", dont_inherit=True), names)
    return names


@pytest.mark.parametrize(
    ("page", "code"),
    [
        pytest.param(
            page,
            code,
            id=f"{Path(page).parent.name}: {title(code)}",
            marks=[pytest.mark.conversion] * ("traced" in code),
        )
        for page, code in PYTHON
    ],
)
def test_python_examples(page, code, given):
    if "traced" in code:
        given["traced"] = torch.jit.trace(torch.nn.Conv2d(3, 8, 3), torch.zeros(1, 3, 224, 224))
    run(imported_before(page, code), given)
    try:
        run(code, given)
    finally:
        mlpass.plugin.uninstall()


SAMPLES = [code for code in blocks("mlpass/runtime/README.md", "python") if "savez" in code]


@pytest.mark.parametrize(
    ("code", "model"),
    zip(SAMPLES, ["efficientnet_lite0", "tiny_lm"], strict=True),
    ids=["images", "tokens"],
)
def test_samples_are_made_as_shown(code, model, given):
    """With what the page shows, a model of that input runs, and nothing is odd about it."""
    run(code, given)
    interpreter = mlpass.Interpreter(ROOT / f"fixtures/{model}.mlpackage")
    samples = load_samples("samples.npz")
    assert len(samples) == 3 and interpreter.predict(samples[0])
    assert not list(doubts(interpreter, samples))


def test_every_command_that_takes_samples_shows_how_they_are_made():
    (choices,) = (each.choices for each in make_parser()._actions if isinstance(each.choices, dict))
    taking = {name for name, each in choices.items() if "--sample-data" in each.format_usage()}
    assert taking == {"prune", "tune", "finetune", "sweep", "choose", "compare", "check"}
    for name in taking:
        for code in SAMPLES:
            assert indent(code.replace("\n\n", "\n"), "  ") in choices[name].format_help()
    assert 'savez("x.npz", image=' in choices["predict"].format_help()


def test_python_examples_are_found_and_can_fail(given):
    assert len(PYTHON) >= 14
    with pytest.raises(NameError, match="nothing_of_the_kind"):
        run("import mlpass\nmlpass.prune(nothing_of_the_kind)", given)


@pytest.mark.parametrize("command", [*STORY, *(command for _, command in COMMANDS)])
def test_commands_parse(command):
    options = make_parser().parse_args(shlex.split(command)[1:])
    assert callable(options.run)


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(command, marks=[pytest.mark.slow] * command.startswith(SLOW))
        for command in [commands("README.md")[0], *(command for _, command in COMMANDS)]
    ],
)
def test_commands_run(command, shell, capsys):
    words = shlex.split(command)[1:]
    output = getattr(make_parser().parse_args(words), "output", None) or []
    places = [output] if isinstance(output, str) else output
    for name in places:
        if (shell / name).exists():
            discard(shell / name)
    assert main(words) == 0, capsys.readouterr().err
    assert all((shell / name).exists() for name in places)


def test_all_commands_are_shown():
    shown = {command.split()[1] for command in STORY + [command for _, command in COMMANDS]}
    (choices,) = (each.choices for each in make_parser()._actions if isinstance(each.choices, dict))
    assert shown == set(choices)


@pytest.mark.slow
def test_story_of_the_top_page(tmp_path, monkeypatch, capsys):
    """What it shows as printed is printed; numbers to a tenth, since processors round apart."""
    (tmp_path / "fixtures").symlink_to(ROOT / "fixtures")
    monkeypatch.chdir(tmp_path)
    first, *others = blocks("README.md", "python")
    run(first, {})
    for command in STORY:
        assert main(shlex.split(command)[1:]) == 0, capsys.readouterr().err
    for code in others:
        run(code, {})
    printed = [numbers_apart(line) for line in capsys.readouterr().out.splitlines()]
    shown = [line for block in outputs("README.md") for line in block.splitlines()]
    assert len(shown) > 10
    assert [line for line in shown if not any(same(numbers_apart(line), p) for p in printed)] == []


def outputs(document: str) -> list[str]:
    """Returns what a page shows as printed: its blocks without a language."""
    fences = re.findall(r"^```(\w*)\n(.*?)^```$", (ROOT / document).read_text(), re.M | re.S)
    return [text for language, text in fences if not language]


def numbers_apart(line: str) -> tuple[str, list[float]]:
    """Returns a line with its numbers taken out and its spaces evened, and the numbers."""
    number = r"\d+(?:\.\d+)?"
    text = " ".join(re.sub(number, "#", line).split())
    return text, [float(one) for one in re.findall(number, line)]


def same(shown: tuple[str, list[float]], printed: tuple[str, list[float]]) -> bool:
    return shown[0] == printed[0] and np.allclose(shown[1], printed[1], rtol=0.1, atol=0.02)


def test_numbers_that_differ_are_told_apart():
    shown = numbers_apart("logits    10.23       0.3892")
    assert same(shown, numbers_apart("logits  10.3   0.39"))
    assert not same(shown, numbers_apart("logits  12.46  0.3892"))
    assert not same(shown, numbers_apart("values  10.23  0.3892"))


def test_the_top_page_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 170


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "benchmarks/RESULTS.md", *PAGES])
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\((?!https?:)([^)]+)\)", (ROOT / page).read_text()):
        path, _, anchor = link.partition("#")
        target = (ROOT / page).parent / path if path else ROOT / page
        assert target.exists(), link
        if anchor:
            headings = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE)
            assert anchor in [
                re.sub(r"[^\w -]", "", one).lower().replace(" ", "-") for one in headings
            ]


@pytest.mark.parametrize("page", ["README.md", *PAGES])
def test_examples_are_of_a_kind_that_is_run(page):
    text = (ROOT / page).read_text()
    assert set(re.findall(r"^```(\w+)$", text, re.MULTILINE)) <= {"sh", "python"}
    assert not re.search(r"pip install '?mlpass", text)


def example(beginning: str) -> str:
    """Returns CONTRIBUTING's block with that in it."""
    (code,) = (code for code in blocks("CONTRIBUTING.md", "python") if beginning in code)
    return code


def test_contributing_mode():
    names = run(example("class Row(Mode)"), {})
    MODES.remove("row")
    score = np.random.default_rng(3).random((8, 6), np.float32)
    keep = names["Row"](0.5).keep(score, matrix_layout(8, 6))
    ranked = np.argsort(np.linalg.norm(score, axis=1))
    assert not keep[ranked[:4]].any() and keep[ranked[4:]].all()


def test_contributing_method():
    names = run(example("class Squares(Method)"), {})
    METHODS.remove("squares")
    rng = np.random.default_rng(4)
    weight, rows = rng.standard_normal((8, 16)), rng.standard_normal((64, 16))
    weight, gram = weight.astype(np.float32), (rows.T @ rows).astype(np.float32)
    solution = mlpass.solve(weight, gram, Percentile(0.5), method=names["Squares"]())
    score = np.abs(weight) * np.sqrt(np.diagonal(gram))
    assert np.array_equal(solution.keep, score > np.sort(score, axis=None)[63])
