"""Deployment targets by coremltools' names, and what a package says of each."""

from __future__ import annotations

from mlpass.errors import ConfigError, close_matches

# Opset by the name of each system that has it. Source: coremltools' AvailableTarget.
_SYSTEMS = {
    13: ("iOS13", "macOS10_15", "watchOS6", "tvOS13"),
    14: ("iOS14", "macOS10_16", "macOS11", "watchOS7", "tvOS14"),
    15: ("iOS15", "macOS12", "watchOS8", "tvOS15"),
    16: ("iOS16", "macOS13", "watchOS9", "tvOS16"),
    17: ("iOS17", "macOS14", "watchOS10", "tvOS17"),
    18: ("iOS18", "macOS15", "watchOS11", "tvOS18"),
    26: ("iOS26", "macOS26", "watchOS26", "tvOS26"),
}
TARGETS = {name: opset for opset, names in _SYSTEMS.items() for name in names}
OPSETS = tuple(_SYSTEMS)


def opset_of(target: object) -> int:
    """Returns the opset of a deployment target, e.g. 18.

    Args:
        target: "iOS18", "macOS15", "coremltools.target.iOS18"; or that of coremltools itself.

    Raises:
        ConfigError: there is no such target.
    """
    name = str(getattr(target, "name", target)).rpartition(".")[2]
    if name not in TARGETS:
        raise ConfigError(
            f"minimum_deployment_target: must be one of coremltools' targets, such as 'iOS18'. "
            f"Got {target!r}{close_matches(name, TARGETS) or '.'}"
        )
    return TARGETS[name]


def opset_name(opset: int) -> str:
    """Returns the name by which a program states an opset, e.g. "CoreML8" for 18."""
    return f"CoreML{3 + OPSETS.index(opset)}"


def specification_version(opset: int) -> int:
    """Returns the version that a model's message states for an opset, e.g. 9 for 18."""
    return 4 + OPSETS.index(opset)
