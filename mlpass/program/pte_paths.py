"""Paths of ExecuTorch programs, and of the models in them.

A path of a model is that of the `.pte`, where it has one, or goes on with the name of a delegate:
"model.pte/forward/0".
"""

from __future__ import annotations

import os
from pathlib import Path

from mlpass.errors import ModelFormatError

PTE_SUFFIX = ".pte"


def host_of(model: object) -> tuple[Path, str] | None:
    """Returns the `.pte` that a path leads to, or into, and what is left of it; None of others."""
    if not isinstance(model, str | os.PathLike):
        return None
    path = Path(model)
    for each in (path, *path.parents):
        if each.suffix == PTE_SUFFIX and not each.is_dir():
            return each, "/".join(path.parts[len(each.parts) :])
    return None


def output_name(source: str, stem: str) -> str:
    """Returns a name for what is made of a model: one in a `.pte` is written to a `.pte`."""
    return stem + (".mlpackage" if host_of(source) is None else PTE_SUFFIX)


def same_in(written: Path, source: object) -> Path:
    """Returns the path of the model in a file that was written of `source`, the path of one."""
    host = host_of(source)
    return written / host[1] if host is not None and written.suffix == PTE_SUFFIX else written


def check_whole(target: Path) -> None:
    """Checks that a target is not a model in a `.pte`, which is written as a whole.

    Raises:
        ModelFormatError: it is one.
    """
    host = host_of(target)
    if host is not None and host[1]:
        raise ModelFormatError(f"{target}: a .pte is written whole; name the file: {host[0]}")
