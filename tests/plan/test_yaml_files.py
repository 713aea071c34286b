"""YAML that is hostile: one short line, whatever it holds."""

from __future__ import annotations

import os

import pytest
import yaml

from mlpass.cli import main
from mlpass.errors import ConfigError
from mlpass.plan.config import as_config
from mlpass.plan.yaml_files import read_yaml
from mlpass.study.grid import make_candidates

SCALARS = [
    "2020-99-99",
    "2020-01-01 99:99:99",
    "!!int x",
    "!!float x",
    "!!bool x",
    "!!timestamp x",
    "!!binary '%'",
    "!!python/object/apply:os.system ['true']",
    "!what x",
    "9" * 5000,
    "0x" + "f" * 5000,
    "1:99" * 2000,
    "[1, 2",
    "{a: b: c}",
    "*nobody",
    "\t",
    "'\x01'",
]


def nested(levels, width=9):
    """Anchors within anchors: a few hundred bytes that stand for width ** levels values."""
    lines = ["a0: &a0 [" + ", ".join(["lol"] * width) + "]"]
    for level in range(1, levels):
        inner = ", ".join([f"*a{level - 1}"] * width)
        lines.append(f"a{level}: &a{level} [{inner}]")
    return "\n".join(lines) + "\n"


def written(tmp_path, text):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("scalar", SCALARS, ids=lambda text: text[:20].strip())
@pytest.mark.parametrize("where", ["global_config: {target_sparsity: %s}", "%s", "weight: %s"])
def test_bad_scalars_are_told_in_one_line(scalar, where, tmp_path):
    path = written(tmp_path, where % scalar)
    with pytest.raises(ConfigError) as raised:
        as_config(path)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 1000


@pytest.mark.parametrize(
    "entry",
    [
        "global_config: *a{0}",
        "global_config: {{target_sparsity: *a{0}}}",
        "global_config: {{mode: *a{0}}}",
        "global_config: {{n_m_ratio: *a{0}}}",
        "global_config: {{granularity: *a{0}, target_sparsity: 0.5}}",
        "global_config: {{config_type: *a{0}}}",
        "op_type_configs: *a{0}",
        "op_name_configs: {{x: *a{0}}}",
        "weight_threshold: *a{0}",
    ],
)
@pytest.mark.parametrize("levels", [3, 4, 30])
def test_nested_anchors_make_no_long_line(entry, levels, tmp_path):
    text = nested(levels) + entry.format(levels - 1) + "\n"
    # What the anchors stand in must be a section to get as far as the entry.
    text = "op_name_configs:\n" + "".join(f"  {line}\n" for line in text.splitlines()[:-1])
    text = text if "op_name" in entry or levels == 30 else nested(levels)
    path = written(tmp_path, text + entry.format(levels - 1) + "\n")
    with pytest.raises(ConfigError) as raised:
        as_config(path)
    assert len(str(raised.value)) < 1000


@pytest.mark.parametrize("levels", [2, 4])
@pytest.mark.parametrize(
    "option",
    [
        "target_sparsity",
        "n_m_ratio",
        "mode",
        "method",
        "iterations",
        "quantize",
        "allocate",
        "name",
    ],
)
def test_a_value_is_cut_in_the_message(option, levels, tmp_path):
    anchors = ", ".join(
        f"&a{level} [{', '.join([f'*a{level - 1}' if level else 'lol'] * 9)}]"
        for level in range(levels)
    )
    path = written(tmp_path, f"- [{anchors}]\n- {{{option}: *a{levels - 1}, target_sparsity: 0.5}}")
    if option == "target_sparsity":
        path = written(tmp_path, f"- [{anchors}]\n- {{{option}: *a{levels - 1}}}")
    entries = yaml.safe_load(path.read_text())[1:]
    assert len(repr(entries)) > 9**levels
    with pytest.raises(ConfigError) as raised:
        make_candidates(entries)
    assert len(str(raised.value)) < 1000


def test_what_holds_itself_or_far_too_much_is_refused(tmp_path):
    for text in ("a: &a [*a]", "&a {b: *a}", nested(12), "a: &a\n  <<: *a\n"):
        with pytest.raises(
            ConfigError, match=r"its anchors \(&, \*\) repeat values too often|YAML"
        ):
            read_yaml(written(tmp_path, text))


def test_anchors_that_spare_writing_are_read(tmp_path):
    text = "base: &base {x: [1, 2]}\nmore: {<<: *base, y: *base}\n"
    assert read_yaml(written(tmp_path, text)) == yaml.safe_load(text)


@pytest.mark.parametrize("kind", ["pipe", "folder", "device"])
def test_what_is_no_regular_file_is_not_opened(kind, tmp_path, capsys):
    path = tmp_path / "config.yaml"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero")
    with pytest.raises(ConfigError, match="is not a regular file"):
        read_yaml(path)
    assert main(["prune", "m", "-o", "o.mlpackage", "--config", str(path)]) == 1
    assert "is not a regular file" in capsys.readouterr().err


def test_deep_yaml_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="is not YAML: it nests too deeply"):
        read_yaml(written(tmp_path, "[" * 5000))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: 1\nb: 2\na: 3\n", "'a' is there twice, in lines 1 and 3; keep one"),
        ("- x:\n    {y: 1,\n    'y': 2}\n", "'y' is there twice, in lines 2 and 3"),
        ("? {z: 1, z: 1}\n: 1\n", "'z' is there twice, in lines 1 and 1"),
        ("k" * 900 + ": 1\n" + "k" * 900 + ": 2\n", "'kkk.*...kkk' is there twice"),
    ],
)
def test_what_is_said_twice_is_refused(text, told, tmp_path):
    with pytest.raises(ConfigError, match=told) as raised:
        read_yaml(written(tmp_path, text))
    assert len(str(raised.value)) < 1000


def test_a_merged_mapping_may_be_overridden(tmp_path):
    text = "base: &base {x: 1, y: 1}\nmore: {<<: *base, y: 2}\nlast: {<<: *base, x: 3}\n"
    assert read_yaml(written(tmp_path, text)) == yaml.safe_load(text)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_the_encodings_of_yaml_are_read(encoding, tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("café: [1, 2]\n", encoding=encoding)
    assert read_yaml(path) == {"café": [1, 2]}


def test_an_encoding_that_is_none_of_yaml_is_told(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_bytes("café: 1\n".encode("latin-1"))
    with pytest.raises(ConfigError, match="is not YAML: .*invalid continuation byte"):
        read_yaml(path)
