"""All models of an ExecuTorch program pruned, each by itself, and written as one."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from mlpass.errors import ConfigError
from mlpass.files import check_file, temporary_folder
from mlpass.program.hosted import PTE_SUFFIX, write_hosts
from mlpass.program.pte import Pte
from mlpass.report.joined import joined
from mlpass.report.records import Report


def prune_hosts(
    source: str | os.PathLike[str],
    models: Mapping[str, str],
    output: str | os.PathLike[str],
    prune: Callable[[str, Path], Report],
    *,
    force: bool,
    data_free: bool,
) -> Report:
    """Prunes all models of a program, and returns what was done.

    Args:
        source: path of the `.pte`.
        models: the paths of its models, by name.
        output: path of the `.pte` to write.
        prune: given the path of a model and that of a package to write, does so.
        force: whether to replace an `output` that exists.
        data_free: whether there are neither samples nor a budget, which are for one model.

    Raises:
        ConfigError: it is not data-free.
        MlpassError: as `prune`; or `output` is not a `.pte`.
        OSError: a file cannot be read or written.
    """
    target = Path(output).absolute()
    if not data_free or target.suffix != PTE_SUFFIX:
        what = "samples and budgets are" if not data_free else f"{target.name} is"
        raise ConfigError(
            f"source: it holds {len(models)} models, and {what} for one: name it, as "
            f"{', '.join(models.values())}"
        )
    check_file(target, force=force)
    pte, reports = Pte(Path(source)), {}
    with temporary_folder() as folder:
        packages = {blob: folder / f"{n}.mlpackage" for n, blob in enumerate(pte.models)}
        for (name, path), package in zip(models.items(), packages.values(), strict=True):
            reports[name] = prune(path, package)
        write_hosts(pte, packages, target, force=force)
    nbytes = len(pte.data), target.stat().st_size
    return joined(os.fspath(source), os.fspath(output), reports, nbytes)
