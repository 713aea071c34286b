"""Options, declared once: a dataclass field with its range and help, and every form it is given in.

A mode, a method or a storage is a dataclass, registered by name::

    @mode("block", granularity="per_scalar")
    class Block(Mode):
        target_sparsity: float = option(low=0, high=1, help="share of blocks that become zero")
        block_size: int = option(low=2, help="neighbouring channels that make a block")

The command line, YAML keys, plain strings and the command that a report shows are loops over these
fields. An `Option` is what goes by one name there: a field, or several that are written together,
as n and m in "2:4".
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import MISSING, dataclass, field, fields
from functools import cache
from numbers import Integral, Real
from typing import Any

from mlpass.errors import ConfigError, brief

PROCESSORS = ("ane", "cpu", "gpu")  # the Neural Engine, the CPU and the GPU
_LARGEST = 2**63 - 1  # of an int; reports tell them
_KINDS = {"float": "a number", "int": "an int", "bool": "true or false", "str": "a text"}
_COUNTS = {2: "two", 3: "three", 4: "four"}


@dataclass(frozen=True)
class Rule:
    """What a field may be.

    Attributes:
        low: the least value.
        high: the largest one.
        above: a bound that the value must be above.
        choices: the only values; None where there are others.
        must: what it must be, in words, where "must be 'a' or 'b'" does not read well.
        join: the name under which it is written together with the other fields of that name.
        help: what it is, in a few words.
    """

    low: float | None = None
    high: float | None = None
    above: float | None = None
    choices: tuple[Any, ...] | None = None
    must: str = ""
    join: str | None = None
    help: str = ""


def check_count(name: str, value: object, low: int = 1, high: int = 10**9) -> None:
    """Raises ConfigError where a value is not an int from `low` to `high`."""
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise ConfigError(f"{name}: must be an int in [{low}, {high}]. Got {brief(value)}.")


def option(*, default: Any = MISSING, **rule: Any) -> Any:
    """Returns the dataclass field of an option.

    Args:
        default: its value where it is not given; without one it must be.
        **rule: the attributes of a `Rule`.
    """
    return field(default=default, metadata={"option": Rule(**rule)})


@dataclass(frozen=True)
class Part:
    """One field of a dataclass.

    Attributes:
        name: of the field.
        kind: "float", "int", "bool" or "str"; "" for any other type.
        optional: whether it may be None.
        default: where it is not given; `MISSING` where it must be.
        rule: what it may be.
    """

    name: str
    kind: str
    optional: bool
    default: Any
    rule: Rule

    @property
    def label(self) -> str:
        """How messages call it."""
        return f"{self.rule.join}: {self.name}" if self.rule.join else f"{self.name}:"

    @property
    def range(self) -> str:
        """What it must be, in words."""
        rule, what = self.rule, _KINDS.get(self.kind, "")
        if rule.must:
            return rule.must
        if rule.choices is not None:
            return " or ".join(map(repr, rule.choices))
        if rule.above is not None:
            return f"{what} above {rule.above:g}"
        if rule.high is not None:
            return f"{what} in [{rule.low or 0:g}, {rule.high:g}]"
        return what if rule.low is None else f"{what} of {rule.low:g} or more"

    def check(self, value: object) -> None:
        """Raises ConfigError where the field may not have a value."""
        if not (value is None and self.optional) and not self._holds(value):
            raise ConfigError(
                f"{self.label} must be {self.range}. Got {brief(value)}.{self._meant(value)}"
            )
        if isinstance(value, Integral) and abs(int(value)) > _LARGEST:
            raise ConfigError(f"{self.label} must fit 64 bits. Got {brief(value)}.")

    def _meant(self, value: object) -> str:
        """Returns a question where a share was given in percent."""
        share = self.kind == "float" and self.rule.high is not None and self.rule.high <= 1
        if not share or not isinstance(value, int | float) or not 2 <= value <= 100:
            return ""
        return f" Did you mean {value / 100:g}?"

    def parse(self, text: str) -> Any:
        """Returns the value that a plain string stands for; raises ValueError for any other string.

        Whether the value is in range is for `check` to say.
        """
        if self.kind == "bool":
            return {"true": True, "false": False}[text.lower()]
        return {"float": float, "int": int}.get(self.kind, str)(text)

    def _holds(self, value: Any) -> bool:
        rule = self.rule
        if self.kind in ("float", "int"):
            number = isinstance(value, Integral if self.kind == "int" else Real)
            if not number or isinstance(value, bool):
                return False
        elif self.kind and not isinstance(value, bool if self.kind == "bool" else str):
            return False
        if rule.choices is not None:
            return value in rule.choices
        if rule.above is not None and not rule.above < value < float("inf"):
            return False
        low = rule.low is None or value >= rule.low
        return low and (rule.high is None or value <= rule.high)


@dataclass(frozen=True)
class Option:
    """What is given under one name.

    Attributes:
        name: as YAML has it.
        parts: the fields that it sets: one, or those that are written together.
    """

    name: str
    parts: tuple[Part, ...]

    @property
    def required(self) -> bool:
        """Whether it must be given."""
        return any(part.default is MISSING for part in self.parts)

    @property
    def form(self) -> str:
        """How its parts are written together, such as N:M."""
        return ":".join(part.name.upper() for part in self.parts)

    def parse(self, value: Any) -> Any:
        """Returns the value that a plain string stands for; anything else as it is.

        Raises:
            ConfigError: the string stands for nothing.
        """
        if not isinstance(value, str):
            return value
        texts = value.split(":") if len(self.parts) > 1 else [value]
        try:
            found = [part.parse(text) for part, text in zip(self.parts, texts, strict=True)]
        except (ValueError, KeyError):
            what = _KINDS.get(self.parts[0].kind, "")
            if len(self.parts) > 1:
                names = "|".join(part.name for part in self.parts)
                meant = re.sub(rf"\b({names})\b", lambda name: name[0].upper(), self.help)
                what = f"{self.form}, that is {meant}"
            raise ConfigError(f"{self.name}: must be {what}. Got {brief(value)}.") from None
        return found if len(self.parts) > 1 else found[0]

    def values(self, value: Any) -> dict[str, Any]:
        """Returns what a value sets each field to.

        Raises:
            ConfigError: it is one value where several are written together.
        """
        if len(self.parts) == 1:
            return {self.parts[0].name: value}
        count, value = len(self.parts), self.parse(value)
        if not isinstance(value, list | tuple) or len(value) != count:
            number = _COUNTS.get(count, str(count))
            raise ConfigError(
                f"{self.name}: must be {number} {self.parts[0].kind}s ({self.help}), such as "
                f"{[2 * (place + 1) for place in range(count)]}. Got {brief(value)}."
            )
        return {part.name: each for part, each in zip(self.parts, value, strict=True)}

    def given(self, holder: object) -> str | None:
        """Returns its value in an object of its class as text; None where that is the default."""
        values = [getattr(holder, part.name) for part in self.parts]
        if values == [part.default for part in self.parts]:
            return None
        return ":".join(str(value).lower() if value is True else str(value) for value in values)

    @property
    def help(self) -> str:
        """What it is, in a few words."""
        return self.parts[0].rule.help


def options_of(kind: Any, *, declared: bool = False) -> tuple[Option, ...]:
    """Returns the options of a dataclass.

    Args:
        kind: the dataclass.
        declared: whether to leave out fields that were not made by `option`.
    """
    return _options(kind, declared)


@cache
def _options(kind: Any, declared: bool) -> tuple[Option, ...]:
    return gathered(
        part_of(each.name, each.type, each.default, each.metadata.get("option", Rule()))
        for each in fields(kind)
        if each.init and ("option" in each.metadata or not declared)
    )


def part_of(name: str, annotation: object, default: Any, rule: Rule) -> Part:
    """Returns a field's part of an option; its kind is read from the text of its annotation."""
    text = annotation.__name__ if isinstance(annotation, type) else str(annotation)
    found = re.search(r"\b(float|int|bool|str)\b", text)
    kind = found[0] if found else "str" if rule.choices else ""
    return Part(name, kind, "None" in text or "Optional" in text, default, rule)


def gathered(parts: Iterable[Part]) -> tuple[Option, ...]:
    """Returns the options that parts make: those that are written together are one."""
    names: dict[str, list[Part]] = {}
    for part in parts:
        names.setdefault(part.rule.join or part.name, []).append(part)
    return tuple(Option(name, tuple(several)) for name, several in names.items())


def check_options(holder: Any) -> None:
    """Raises ConfigError where a field of a dataclass is out of its range."""
    for each in options_of(type(holder), declared=True):
        for part in each.parts:
            part.check(getattr(holder, part.name))


def text_of(holder: Any, first: str = "") -> str:
    """Returns an object as reports show it: one value, and by name those that are not the default.

    Args:
        holder: of a dataclass.
        first: the field whose value comes first, whatever it is.
    """
    lead = [str(getattr(holder, first))] if first else []
    others = [f"{name}={value}" for name, value in _not_default(holder) if name != first]
    return f"{type(holder).__name__}({', '.join([*lead, *others])})"


def phrase_of(holder: Any, said: str = "", *told: str) -> str:
    """Returns an object as people say it, "int4 in blocks of 32, outliers 0.01".

    Args:
        holder: of a dataclass.
        said: what comes first; the name of its class, in words, where there is nothing better.
        told: the fields that are in it; others follow by name where they are not the default.
    """
    said = said or re.sub(r"(?<=[a-z])(?=[A-Z])", " ", type(holder).__name__).lower()
    others = [(name, value) for name, value in _not_default(holder) if name not in told]
    return ", ".join([said, *(f"{name.replace('_', ' ')} {value}" for name, value in others)])


def _not_default(holder: Any) -> list[tuple[str, object]]:
    """Returns the names and values of the fields of a dataclass that are not the default."""
    given = [(each, getattr(holder, each.name)) for each in fields(holder)]
    return [(each.name, value) for each, value in given if value != each.default]


def percent(share: float) -> str:
    """Returns a share as people say it: "12.5%"."""
    return f"{100 * share:.4g}%"


def flag_of(what: str, name: str, taken: Collection[str] = ()) -> str:
    """Returns an option's flag: `what` it belongs to comes first where its name alone is taken."""
    return "--" + (f"{what}_{name}" if name in taken else name).replace("_", "-")
