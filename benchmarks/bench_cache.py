"""Where the whole-model benchmarks find their data, and keep what took long to make.

The folder is named by the environment variable MLPASS_BENCH, `~/.cache/mlpass-bench` by default.
Nothing is downloaded: data that is missing is an error with the command that fetches it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path


def folder() -> Path:
    """Returns the folder, made where it is not there."""
    path = Path(os.environ.get("MLPASS_BENCH", "~/.cache/mlpass-bench")).expanduser()
    path.mkdir(parents=True, exist_ok=True)
    return path


def needed(name: str, command: str) -> Path:
    """Returns where a file or folder of data is.

    Args:
        name: its path in the folder.
        command: fetches it, run in the folder.

    Raises:
        SystemExit: it is not there.
    """
    path = folder() / name
    if not path.exists():
        raise SystemExit(f"{path} is missing. Fetch it: (cd {folder()} && {command})")
    return path


def versioned(name: str, ios: int) -> str:
    """Returns the name of a model's package for an iOS version; that of iOS17 is the plain one."""
    return f"{name}.mlpackage" if ios == 17 else f"{name}-ios{ios}.mlpackage"


def made(name: str, make: Callable[[Path], None]) -> Path:
    """Returns where a file or package is, made where it is not there.

    Args:
        name: its path in the folder.
        make: writes it to the path that it is given; a run that dies leaves nothing behind.
    """
    path = folder() / name
    if not path.exists():
        partial = path.with_name(f"partial-{os.getpid()}-{path.name}")
        try:
            make(partial)
            partial.rename(path)
        finally:
            if partial.is_dir():
                shutil.rmtree(partial)
            else:
                partial.unlink(missing_ok=True)
    return path


def weight_bytes(package: Path) -> int:
    """Returns the size of a package's weight files."""
    return sum(file.stat().st_size for file in package.rglob("*.bin"))
