"""All models of an ExecuTorch program pruned, each by itself, and written as one."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from mlpass.errors import ConfigError, brief, close_matches
from mlpass.files import check_file, temporary_folder
from mlpass.plan.config import Config, op_config_of
from mlpass.plan.lookup import unmatched
from mlpass.plan.steps import names_of
from mlpass.program.hosted import write_hosts
from mlpass.program.mlmodel import open_package
from mlpass.program.pte import Pte
from mlpass.program.pte_paths import PTE_SUFFIX, check_whole
from mlpass.report.joined import joined
from mlpass.report.records import Report
from mlpass.weights.sites import find_sites

_EACH = "scope=global ranked the weights of each model by themselves, not those of all together"


def prune_hosts(
    source: str | os.PathLike[str],
    models: Mapping[str, str],
    output: str | os.PathLike[str],
    config: Config,
    prune: Callable[[str, Path, Config], Report],
    *,
    force: bool,
    data_free: bool,
) -> Report:
    """Prunes all models of a program, and returns what was done.

    Args:
        source: path of the `.pte`.
        models: the paths of its models, by name.
        output: path of the `.pte` to write.
        config: which mode each weight gets. A name in it is that of weights of one model or of
            several, or goes on from a model's, as names do in the report: "forward/0/weight".
        prune: given the path of a model, that of a package to write and a config, does so.
        force: whether to replace an `output` that exists.
        data_free: whether there are neither samples nor a budget, which are for one model.

    Raises:
        ConfigError: it is not data-free; or `output` is not a `.pte`; or no model has what the
            config names.
        ModelFormatError: `output` is a model in a `.pte`.
        MlpassError: as `prune`.
        OSError: a file cannot be read or written.
    """
    target = Path(output).absolute()
    check_whole(target)
    if not data_free or target.suffix != PTE_SUFFIX:
        what = "samples and budgets are" if not data_free else f"{target.name} is"
        raise ConfigError(
            f"source: it holds {len(models)} models, and {what} for one: name it, as "
            f"{', '.join(models.values())}"
        )
    check_file(target, force=force)
    configs = _divided(config, models)
    pte, reports = Pte(Path(source)), {}
    with temporary_folder() as folder:
        packages = {blob: folder / f"{n}.mlpackage" for n, blob in enumerate(pte.models)}
        for (name, path), package in zip(models.items(), packages.values(), strict=True):
            reports[name] = prune(path, package, configs[name])
        write_hosts(pte, packages, target, force=force)
    nbytes = len(pte.data), target.stat().st_size
    report = joined(os.fspath(source), os.fspath(output), reports, nbytes)
    found = [op_config_of(entry) for entry in config.entries]
    together = any(each and each.mode and each.mode.ranks_together for each in found)
    return replace(report, notes=(*report.notes, _EACH)) if together else report


def _divided(config: Config, models: Mapping[str, str]) -> dict[str, Config]:
    """Returns the config of each model, with those entries by name that are for it."""
    if not config.op_name_configs:
        return dict.fromkeys(models, config)
    every, divided, unused = set[str](), {}, dict.fromkeys(config.op_name_configs)
    for model, path in models.items():
        with open_package(path) as package:
            own = names_of(find_sites(package.programs))
        every |= own | {f"{model}/{name}" for name in own}
        entries = {}
        # What begins with the name of the model comes last, and holds.
        for pattern in sorted(
            config.op_name_configs, key=lambda each: each.startswith(f"{model}/")
        ):
            name = pattern.removeprefix(f"{model}/")
            if unmatched(Config(op_name_configs={name: None}), own, set()) is None:
                entries[name] = config.op_name_configs[pattern]
                unused.pop(pattern, None)
        divided[model] = replace(config, op_name_configs=entries)
    for pattern in unused:
        raise ConfigError(
            f"op_name_configs: no weight or op of any model is named {brief(pattern)}"
            f"{close_matches(pattern, every)}"
        )
    return divided
