"""A folder as one piece of data, as ExecuTorch's Core ML backend keeps a model in a `.pte`.

The files follow one another. At the end is a JSON text, written backwards, so that it begins at the
last byte. It lists all files, each with where its data is, and folders, after what is in them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import IO, TypeAlias

from mlpass.errors import ModelFormatError, brief
from mlpass.program.file_parts import FilePart

# What a file holds: a part of what was read, a file of its own, or bytes.
Content: TypeAlias = "FilePart | Path | bytes"

_MOST_TEXT = 1 << 20  # bytes of the JSON text: thousands of files
_LONGEST_PATH = 1000
_FILE, _FOLDER = 0, 1
_PIECE = 1 << 22


@dataclass(frozen=True)
class Image:
    """A folder.

    Attributes:
        name: of the folder.
        items: what is in it, by path: of each file what it holds, None for a folder.
    """

    name: str
    items: Mapping[str, Content | None]

    @classmethod
    def read(cls, data: FilePart | bytes) -> Image:
        """Returns the folder that `data` holds.

        Raises:
            ModelFormatError: it does not hold one.
        """
        nodes = _nodes_at_end(data)
        paths, room = _paths(nodes), len(data)
        items: dict[str, Content | None] = {}
        for path, node in zip(paths, nodes, strict=True):
            if node.kind == _FOLDER:
                items[path] = None
                continue
            room -= node.size
            if room < 0 or node.offset + node.size > len(data):
                raise ModelFormatError(f"the data of {brief(path)} is not within the folder's")
            items[path] = data[node.offset : node.offset + node.size]
        del items[""]
        return cls(nodes[-1].name, items)

    def below(self, folder: str) -> dict[str, Content | None]:
        """Returns what is in a folder in it, by its path there."""
        lead = f"{folder}/"
        return {
            path.removeprefix(lead): content
            for path, content in self.items.items()
            if path.startswith(lead)
        }

    def unpack(self, folder: Path) -> None:
        """Writes what is in it to an empty folder."""
        for path, content in self.items.items():
            target = folder / path
            if content is None:
                target.mkdir(parents=True, exist_ok=True)
            else:
                target.parent.mkdir(parents=True, exist_ok=True)
                with target.open("wb") as file:
                    copy_content(content, file)

    @property
    def nbytes(self) -> int:
        """How much data `write` writes."""
        return sum(map(_size, self.items.values())) + len(self._text)

    def write(self, file: IO[bytes]) -> None:
        """Writes the folder as one piece of data."""
        for path in self._order():
            content = self.items.get(path)
            if content is not None:
                copy_content(content, file)
        file.write(self._text)

    @property
    def _text(self) -> bytes:
        nodes, offset = [], 0
        children: dict[str, dict[str, int]] = {"": {}}
        for number, path in enumerate(self._order()):
            size = _size(self.items.get(path))
            parent, _, name = path.rpartition("/")
            if path:
                children.setdefault(parent, {})[name] = number
            is_file = self.items.get(path) is not None
            nodes.append(
                {
                    "children": children.get(path, {}),
                    "dataRegion": {"offset": offset if is_file else 0, "size": size},
                    "kind": _FILE if is_file else _FOLDER,
                    "name": name or self.name,
                }
            )
            offset += size
        text = json.dumps(
            {"nodes": nodes}, ensure_ascii=False, sort_keys=True, separators=(",", ":")
        )
        return text.encode()[::-1]

    def _order(self) -> Iterator[str]:
        """Yields all paths, what is in a folder before the folder; last that of the whole, ""."""
        inside: dict[str, list[str]] = {}
        for path in self.items:
            inside.setdefault(path.rpartition("/")[0], []).append(path)
        wanted, order = [""], []
        while wanted:
            order.append(path := wanted.pop())
            wanted += inside.get(path, ())
        yield from reversed(order)


def digest(items: Mapping[str, Content | None]) -> bytes:
    """Returns a digest of the names and contents of files and folders, in whatever order."""
    whole = sha256()
    for path, content in sorted(items.items()):
        whole.update(f"{path}\0{_size(content)}\0".encode())
        for piece in _pieces(content):
            whole.update(piece)
    return whole.digest()


@dataclass(frozen=True)
class _Node:
    name: str
    kind: int
    offset: int
    size: int
    children: Mapping[str, int]


def _nodes_at_end(data: FilePart | bytes) -> list[_Node]:
    """Returns the files and folders that the text at the end of `data` tells of."""
    text = bytes(data[-_MOST_TEXT:])[::-1].decode(errors="replace")
    try:
        told, _ = json.JSONDecoder().raw_decode(text)
        nodes = [_node(node) for node in told["nodes"]]
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ModelFormatError(
            f"its Core ML model is not a folder as ExecuTorch packs it ({type(error).__name__})"
        ) from None
    if not nodes or nodes[-1].kind != _FOLDER:
        raise ModelFormatError("its Core ML model is an empty folder, or none")
    return nodes


def _node(told: Mapping[str, object]) -> _Node:
    region, name, children = told["dataRegion"], told["name"], told["children"]
    if not (isinstance(region, dict) and isinstance(children, dict) and isinstance(name, str)):
        raise TypeError(told)
    numbers = {child: _count(number) for child, number in children.items()}
    return _Node(
        name, _count(told["kind"]), _count(region["offset"]), _count(region["size"]), numbers
    )


def _count(value: object) -> int:
    if type(value) is not int or value < 0:
        raise TypeError(value)
    return value


def _paths(nodes: list[_Node]) -> list[str]:
    """Returns the path of each file and folder; of the last, which all are in, ""."""
    paths: list[str | None] = [None] * len(nodes)
    paths[-1] = ""
    for number in reversed(range(len(nodes))):
        lead = paths[number]
        if lead is None:
            raise ModelFormatError(f"{brief(nodes[number].name)} is in no folder of it")
        for name, child in nodes[number].children.items():
            if name in ("", ".", "..") or "/" in name or not name.isprintable():
                raise ModelFormatError(f"{brief(name)} is not a plain name of a file")
            if child >= number or paths[child] is not None or nodes[child].name != name:
                raise ModelFormatError(f"{brief(name)} is not in one folder")
            paths[child] = path = f"{lead}/{name}".removeprefix("/")
            if len(path) > _LONGEST_PATH:
                raise ModelFormatError(f"{brief(path)} is too long a path")
    return [path for path in paths if path is not None]


def _size(content: Content | None) -> int:
    if isinstance(content, Path):
        return content.stat().st_size
    return 0 if content is None else len(content)


def copy_content(content: Content, file: IO[bytes]) -> None:
    """Writes what a file holds to another, a piece at a time."""
    for piece in _pieces(content):
        file.write(piece)


def _pieces(content: Content | None) -> Iterator[bytes]:
    if isinstance(content, Path):
        with content.open("rb") as source:
            while piece := source.read(_PIECE):
                yield piece
    elif content is not None:
        for start in range(0, len(content), _PIECE):
            yield bytes(content[start : start + _PIECE])
