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
            name.
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
            elif made[feature.name].kind != feature.kind:
                raise ConfigError(
                    f"source: {name} takes {feature.name!r} as {expected(feature)}, and those "
                    f"before it make {expected(made[feature.name])}"
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


def _check_same(name: str, feature: Feature, known: Feature) -> None:
    """Raises ConfigError where two models take different things under one name."""
    if (feature.kind, feature.dtype[:2]) != (known.kind, known.dtype[:2]):
        raise ConfigError(
            f"source: {name} takes {feature.name!r} as {expected(feature)}, and one before it as "
            f"{expected(known)}"
        )
