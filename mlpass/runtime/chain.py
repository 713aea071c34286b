"""Models that run one after another, described as one."""

from __future__ import annotations

from collections.abc import Sequence

from mlpass.errors import ConfigError
from mlpass.runtime.description import Description, Feature
from mlpass.runtime.features import expected


def in_a_row(models: Sequence[tuple[str, Description]]) -> Description:
    """Returns what models take and give together, each given what those before it make.

    It takes what none before makes, and gives what none after takes.

    Raises:
        ConfigError: one takes nothing that the one before it makes, or something else under its
            name: of another kind, integers for floats, of shapes that it never has.
    """
    inputs: dict[str, Feature] = {}
    made: dict[str, Feature] = {}
    states = tuple(state for _, one in models for state in one.states)
    for number, (name, one) in enumerate(models):
        if number:
            _check_follows(name, one, *models[number - 1])
        for feature in one.inputs:
            if feature.name not in made:
                _check_same(name, feature, inputs.setdefault(feature.name, feature))
            elif not _can_be(made[feature.name], feature):
                raise ConfigError(
                    f"source: {name} takes {feature.name!r} as {expected(feature)}, and those "
                    f"before it make {expected(made[feature.name])}; convert them so that they meet"
                )
        made.update({feature.name: feature for feature in one.outputs})
    last = models[-1][1].outputs
    taken = {feature.name for _, one in models for feature in one.inputs}
    outputs = {name: each for name, each in made.items() if name not in taken}
    outputs |= {each.name: each for each in last}
    return Description(tuple(inputs.values()), tuple(outputs.values()), states)


def _check_follows(name: str, one: Description, before: str, other: Description) -> None:
    """Raises ConfigError where a model takes nothing of what the one before it makes."""
    takes, makes = ([each.name for each in some] for some in (one.inputs, other.outputs))
    if not {*takes} & {*makes}:
        raise ConfigError(
            f"source: {name} takes nothing that {before} makes: it "
            f"takes {', '.join(map(repr, takes))}, and that makes {', '.join(map(repr, makes))}. "
            "Give the packages in the order in which they run; where a name differs, "
            "coremltools.utils.rename_feature(spec, old, new) mends it"
        )


def _can_be(made: Feature, taken: Feature) -> bool:
    """Returns whether what one model makes can be what another takes, as far as they tell.

    Floats are rounded to other floats, integers become floats; floats do not become integers.
    """
    if made.kind != taken.kind:
        return False
    if made.dtype.startswith("fp") and not taken.dtype.startswith("fp"):
        return False
    shapes = made.shapes.listed or taken.shapes.listed
    if shapes:
        other = taken.shapes if made.shapes.listed else made.shapes
        return any(other.allow(shape) for shape in shapes)
    first, second = made.shapes.ranges, taken.shapes.ranges
    if not (first and second):  # of any shape
        return True
    return len(first) == len(second) and all(
        (high is None or low <= high) and (other_high is None or other <= other_high)
        for (other, high), (low, other_high) in zip(first, second, strict=True)
    )


def _check_same(name: str, feature: Feature, known: Feature) -> None:
    """Raises ConfigError where two models take different things under one name."""
    if (feature.kind, feature.dtype[:2]) != (known.kind, known.dtype[:2]):
        raise ConfigError(
            f"source: {name} takes {feature.name!r} as {expected(feature)}, and one before it as "
            f"{expected(known)}"
        )
