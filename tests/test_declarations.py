"""What declares an option, and all that is read of it: flags, help, signatures."""

from __future__ import annotations

import inspect
import sys
from typing import get_args

import pytest

import mlpass
from mlpass import literals
from mlpass.calibrate.calibration import Calibration
from mlpass.cli import main, make_parser
from mlpass.cli.declared import declared, declared_by, read_declared
from mlpass.options import options_of
from mlpass.plan.config import Config
from mlpass.plan.polish import Polish
from mlpass.plan.regions import Regions
from mlpass.registries import METHODS, MODES, STORAGES, taken_names
from mlpass.storage.given import storage_words

COMMANDS = ["prune", "finetune", "sweep", "choose", "compare", "predict", "inspect"]


def flags_of(command: str) -> list[str]:
    (commands,) = (each for each in make_parser()._actions if each.choices)
    return [flag for action in commands.choices[command]._actions for flag in action.option_strings]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_names_every_option_once(command, capsys):
    flags = flags_of(command)
    assert len(flags) == len(set(flags))
    with pytest.raises(SystemExit):
        main([command, "--help"])
    usage = capsys.readouterr().out.split("\n\n")[0].replace("[", " ").replace("]", " ").split()
    long = [flag for flag in flags if flag.startswith("--") and flag not in ("--help", "--output")]
    assert [usage.count(flag) for flag in long] == [1] * len(long)


def test_prune_and_finetune_have_every_option():
    modes = {
        flag_name("mode", each.name) for name in MODES for each in options_of(MODES[name].kind)
    }
    assert modes <= set(flags_of("prune")) and modes <= set(flags_of("finetune"))
    methods = {"--method-block-size", "--iterations", "--finish", "--penalty", "--refit", "--swaps"}
    assert methods <= set(flags_of("prune")) and methods <= set(flags_of("sweep"))
    calibration = {
        "--" + each.name.replace("_", "-") for each in options_of(Calibration, declared=True)
    }
    assert calibration <= set(flags_of("prune"))


def flag_name(what: str, name: str) -> str:
    return "--" + (f"{what}-{name}" if name in taken_names() else name).replace("_", "-")


def test_what_the_commands_use_themselves_is_taken():
    own = {
        flag for command in ("prune", "finetune", "sweep", "choose") for flag in flags_of(command)
    }
    free = {flag.removeprefix("--").replace("-", "_") for flag in own if flag.startswith("--")}
    modes, methods = MODES.options(), METHODS.options()
    calibration = {each.name for each in options_of(Calibration, declared=True)}
    target = {"max_size", "min_snr", "min_accuracy", "up_to", "finetune_steps"}  # of choose, alone
    prefixed = {f"mode_{name}" for name in modes} | {f"method_{name}" for name in methods}
    prefixed |= {f"tune_{each.name}" for each in options_of(Regions, declared=True)}
    storages = {*storage_words()}
    assert free - {*modes, *methods, *storages, *target} - prefixed <= taken_names()
    assert calibration <= taken_names()


@pytest.mark.parametrize("registry", [MODES, METHODS, STORAGES], ids=lambda one: one.what)
def test_what_is_read_is_what_is_declared(registry):
    """Help reads declarations from the text of modules: they must be those that are run."""
    for name, home in registry.homes.items():
        live, read = options_of(registry[name].kind), read_declared(home)[f"{registry.what} {name}"]
        assert read.options == live
        assert read.words == registry[name].words
        assert declared(registry)[name] == (live, registry[name].words)


def _no_source(self, name):
    raise ImportError("source not available through get_data()")


def test_modules_whose_text_cannot_be_read_are_asked_themselves(monkeypatch):
    read = declared(STORAGES)
    monkeypatch.setattr("importlib.machinery.SourceFileLoader.get_source", _no_source)
    monkeypatch.setattr(STORAGES, "loaded", lambda name: None)
    assert declared(STORAGES) == read
    live = options_of(Calibration, declared=True)
    assert declared_by("mlpass.calibrate.calibration", "Calibration") == live


def test_what_is_read_of_other_dataclasses(monkeypatch):
    for module in ("mlpass.plan.config", "mlpass.calibrate.calibration"):
        monkeypatch.delitem(sys.modules, module)
    assert declared_by("mlpass.plan.config", "Config") == options_of(Config, declared=True)
    read = declared_by("mlpass.calibrate.calibration", "Calibration")
    live = options_of(Calibration, declared=True)
    assert [(each.name, each.help) for each in read] == [(each.name, each.help) for each in live]
    known = [each for each in read if each.name != "memory_budget"]  # its default has a name
    assert known == [each for each in live if each.name != "memory_budget"]


@pytest.mark.parametrize("kind", [Polish, Regions])
def test_what_is_inherited_from_another_module_is_read(kind, monkeypatch):
    monkeypatch.delitem(sys.modules, kind.__module__)
    read = declared_by(kind.__module__, kind.__name__)
    live = options_of(kind, declared=True)
    assert [(each.name, each.help) for each in read] == [(each.name, each.help) for each in live]
    assert "seed" in {each.name for each in read}


def test_prune_is_written_with_the_fields_of_a_calibration():
    written = inspect.signature(mlpass.prune).parameters
    fields = inspect.signature(Calibration).parameters
    own = ["source", "output", "config", "storage", "joint_compression"]
    own += ["minimum_deployment_target", "budget", "bits", "tune", "force", "resume"]
    assert [name for name in written if name not in own] == [
        name for name in fields if name not in ("dense_grams", "functions")
    ]
    for each in options_of(Calibration, declared=True):
        assert written[each.name].default == fields[each.name].default
        annotation, choices = written[each.name].annotation, each.parts[0].rule.choices
        if choices is None:
            assert annotation == fields[each.name].annotation
        else:  # a type checker knows its words
            words = getattr(literals, annotation.removesuffix(" | None"))
            assert annotation.endswith("None") == (fields[each.name].default is None)
            assert set(choices) <= {*get_args(words)}
        assert f"        {each.name}: " in mlpass.prune.__doc__
    assert inspect.signature(mlpass.prune_program).parameters.items() >= {
        (name, each) for name, each in written.items() if name in {*fields, "storage"}
    } - {(name, written[name]) for name in ("method", "executor")}


@pytest.mark.parametrize("function", [mlpass.sweep, mlpass.choose, mlpass.sensitivity])
def test_studies_pass_options_on_as_they_are_declared(function):
    written = inspect.signature(function).parameters
    shared = [each for each in options_of(Calibration, declared=True) if each.name in written]
    assert {each.name for each in shared} >= {"backend", "function_name"}
    for each in shared:
        assert written[each.name].default == each.parts[0].default
