"""The options of registered classes, read without running their modules, which would load numpy.

`mlpass prune --help` lists what modes and methods declare. What is imported already is asked
itself; of any other module the text is read: its class statements, their decorators, their fields.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Mapping
from dataclasses import MISSING
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NamedTuple

from mlpass.options import Option, Part, Rule, gathered, options_of, part_of
from mlpass.registries import Registry

# A default that is worked out by the module: help does not show it.
UNREAD = object()


class Declared(NamedTuple):
    """What a class declares.

    Attributes:
        options: its own, and those that it inherits.
        words: what its decorator says besides its name.
    """

    options: tuple[Option, ...]
    words: Mapping[str, Any]


def declared(registry: Registry) -> dict[str, Declared]:
    """Returns what each class of a registry declares, by name."""
    return {name: _of_registry(registry, name) for name in registry}


def declared_by(module: str, kind: str) -> tuple[Option, ...]:
    """Returns the options that a dataclass of mlpass declares, without its other fields."""
    if module in sys.modules or _source(module) is None:
        return options_of(getattr(import_module(module), kind), declared=True)
    return read_declared(module)[kind].options


def _of_registry(registry: Registry, name: str) -> Declared:
    entry = registry.loaded(name)
    if entry is None and _source(registry.homes[name]) is not None:
        return read_declared(registry.homes[name])[f"{registry.what} {name}"]
    entry = registry[name]
    return Declared(options_of(entry.kind), entry.words)


def _source(module: str) -> str | None:
    """Returns the text of a module; None where there is only bytecode, or it cannot be read."""
    loader: Any = getattr(find_spec(module), "loader", None)
    try:
        text: str | None = loader.get_source(module)
    except ImportError:
        return None
    return text


@cache
def read_declared(module: str) -> dict[str, Declared]:
    """Returns what the classes of a module declare, by "mode block" where registered, or name."""
    found: dict[str, Declared] = {}
    homes: dict[str, str] = {}  # where what the module imports is defined
    for node in ast.parse(_source(module) or "").body:
        if isinstance(node, ast.ImportFrom):
            homes |= {each.name: str(node.module) for each in node.names}
        if not isinstance(node, ast.ClassDef):
            continue
        name, words, every = node.name, {}, False
        for decorator in node.decorator_list:
            if isinstance(decorator, ast.Call) and decorator.args:
                name = f"{ast.unparse(decorator.func)} {ast.literal_eval(decorator.args[0])}"
                words, every = _keywords(decorator), True
        fields = [each for each in node.body if isinstance(each, ast.AnnAssign)]
        parts: dict[str, Part] = {}
        for base in map(ast.unparse, node.bases):
            home = homes.get(base, "")
            known = read_declared(home) if home.startswith("mlpass.") else found
            inherited = known[base].options if base in known else ()
            parts |= {part.name: part for option in inherited for part in option.parts}
        read = (_part(each, every) for each in fields)
        parts |= {part.name: part for part in read if part is not None}
        found[name] = found[node.name] = Declared(gathered([*parts.values()]), words)
    return found


def _part(node: ast.AnnAssign, every: bool) -> Any:
    """Returns a field's part of an option; None where it declares none."""
    annotation, value = ast.unparse(node.annotation), node.value
    is_option = isinstance(value, ast.Call) and ast.unparse(value.func) == "option"
    if annotation.startswith("ClassVar") or not (every or is_option):
        return None
    rule = _keywords(value) if is_option and isinstance(value, ast.Call) else {}
    default = MISSING if value is None else UNREAD
    default = rule.pop("default", MISSING) if is_option else default
    return part_of(ast.unparse(node.target), annotation, default, Rule(**rule))


def _keywords(call: ast.Call) -> dict[str, Any]:
    """Returns the arguments of a call by name."""
    found: dict[str, Any] = {}
    for keyword in call.keywords:
        try:
            found[str(keyword.arg)] = ast.literal_eval(keyword.value)
        except ValueError:
            if keyword.arg != "default":
                raise
            found["default"] = UNREAD
    return found
