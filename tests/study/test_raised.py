"""Studies of a model that is raised first: newer forms are tried, and the commands raise it too."""

from __future__ import annotations

import json
import shlex

import pytest

import mlpass
from mlpass import ConfigError, Palette
from mlpass.cli import main
from tests import peer


@pytest.mark.slow
def test_a_sweep_raises_the_model_and_its_commands_do(model, tmp_path, monkeypatch):
    report = mlpass.sweep(model, None, [Palette(4)], minimum_deployment_target="iOS18", jobs=1)
    (trial,) = report.trials
    assert trial.failed is None
    words = shlex.split(trial.command or "")
    assert words[words.index("--minimum-deployment-target") + 1] == "iOS18"
    monkeypatch.chdir(tmp_path)
    assert main(words[1:]) == 0
    made = tmp_path / "pruned.mlpackage"
    assert mlpass.inspect(made).bytes_before == trial.nbytes
    ops = [op.op_type for op in peer.all_ops(peer.load_programs(made))]
    assert "constexpr_lut_to_dense" in ops


@pytest.mark.slow
def test_choose_tries_newer_forms_where_the_model_is_raised(model, samples, tmp_path):
    out = tmp_path / "out.mlpackage"
    choice = mlpass.choose(
        model,
        out,
        sample_data=samples,
        max_size="0.5x",
        up_to="storages",
        minimum_deployment_target="iOS18",
    )
    tried = {attempt.trial.name for attempt in choice.attempts}
    assert any("int4" in name for name in tried)
    assert not any("they need iOS18" in note for note in choice.notes)
    assert {one.opset for one in mlpass.inspect(out).functions} == {18}


def test_no_model_is_lowered(model):
    with pytest.raises(ConfigError, match="cannot be lowered to iOS16"):
        mlpass.sweep(model, minimum_deployment_target="iOS16")


def test_the_flag_of_a_sweep(model, tmp_path, capsys):
    grid = tmp_path / "grid.yaml"
    grid.write_text("- {quantize: int4}\n")
    command = ["sweep", str(model), "--configs", str(grid), "--json"]
    assert main(command) == 1  # nothing could be tried
    (old,) = json.loads(capsys.readouterr().out)["trials"]
    assert "iOS18" in old["failed"]
    assert main([*command, "--minimum-deployment-target", "iOS18"]) == 0
    (new,) = json.loads(capsys.readouterr().out)["trials"]
    assert new["failed"] is None
