"""The manifest of an `.mlpackage`: where its model is, and what else it says is there."""

from __future__ import annotations

import json
import os
from pathlib import Path

from mlpass.errors import ModelFormatError, brief
from mlpass.files import naming

_MANIFEST = "Manifest.json"


def find_model(package: Path) -> Path:
    """Returns the path of a package's model message, as its manifest names it."""
    if package.suffix == ".mlmodelc":
        raise ModelFormatError(f"{package}: is compiled; give the .mlpackage it was compiled from")
    if not package.is_dir():
        what = "is a single file" if package.exists() else "is not there"
        raise ModelFormatError(
            f"{package}: {what}; mlpass reads ML Programs, which are .mlpackage directories "
            "(convert with coremltools' convert_to='mlprogram')"
        )
    manifest = package / _MANIFEST
    if not manifest.is_file():
        raise ModelFormatError(
            f"{package}: has no {_MANIFEST}: not a package, or an incomplete copy"
        )
    try:
        with naming(manifest):
            content = json.loads(manifest.read_bytes())
        relative = content["itemInfoEntries"][content["rootModelIdentifier"]]["path"]
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise ModelFormatError(
            f"{manifest}: names no root model ({brief(error)}); copy or convert the model again"
        ) from None
    if not isinstance(relative, str):
        raise ModelFormatError(f"{manifest}: the root model's path is not text: {relative!r}")
    path = inside(package / "Data", relative, package)
    if not path.is_file():
        raise ModelFormatError(f"{manifest}: the root model {relative!r} is missing")
    return path


def check_items(package: Path) -> None:
    """Raises ModelFormatError where something that a package's manifest lists is not there.

    coremltools and Core ML open no package that lacks any of it, even an empty folder.
    """
    manifest = package / _MANIFEST
    entries: object = json.loads(manifest.read_bytes())["itemInfoEntries"]
    if not isinstance(entries, dict):
        raise ModelFormatError(f"{manifest}: its items must have names; got a list")
    for identifier, entry in entries.items():
        relative = entry.get("path") if isinstance(entry, dict) else None
        if not isinstance(relative, str):
            raise ModelFormatError(f"{manifest}: its item {identifier!r} has no path")
        if not inside(package / "Data", relative.rstrip("/"), package).exists():
            raise ModelFormatError(
                f"{manifest}: lists {relative!r}, which is missing: copy the package again, or "
                "make an empty folder there if that is what was lost"
            )


def inside(base: Path, relative: str, package: Path) -> Path:
    """Returns `base / relative` where that is a plain path within the package.

    Raises:
        ModelFormatError: it climbs out, by "..", by being absolute, or through a link.
    """
    parts = relative.split("/")
    plain = not any(part in ("", ".", "..") or "\0" in part for part in parts)
    if not plain or any("\ud800" <= letter <= "\udfff" for letter in relative):
        raise ModelFormatError(f"{package}: {relative!r} is not a plain path within the package")
    path = base.joinpath(*parts)
    if not is_within(path, package):
        raise ModelFormatError(f"{package}: {relative!r} leads out of the package")
    return path


def is_within(path: Path, directory: Path) -> bool:
    """Returns whether `path`, links followed, is `directory` or below it."""
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(directory))
