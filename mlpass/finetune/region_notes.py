"""What a tuning of regions tells: what each came to, and what was left as it was."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from mlpass.finetune.stored import StoredModule
from mlpass.finetune.training import trained_of
from mlpass.finetune.tuning import Tuned
from mlpass.plan.regions import Regions

_AIMS = {1.0: "the dense model", 0.5: "half way to it", 0.0: "its own dense weights' outputs"}


def region_notes(
    module: StoredModule,
    found: Mapping[int, Tuned | None],
    own: Sequence[Sequence[str]],
    parts: tuple[Sequence[int], Sequence[int]],
    options: Regions,
    readers: Mapping[str, Collection[int]],
) -> tuple[str, ...]:
    """Returns what to tell of a run.

    Args:
        module: that was tuned.
        found: what each window of regions came to; None where it had nothing to train or aim at.
        own: the parameters that each trains.
        parts: the numbers of the samples that were held out, and of those trained on.
        options: of the training.
        readers: the numbers of the regions that read each parameter.
    """
    tuned = {number: one for number, one in found.items() if one is not None}
    better = sum(one.kept > 0 for one in tuned.values())
    aim = "what their dense weights give" if options.target == "own" else "the dense model"
    of = "regions" if options.window == 1 else f"windows of {options.window} regions"
    first = (
        f"tuned {len(tuned)} {of} on {len(parts[1])} samples; {better} came nearer to {aim} "
        f"on {len(parts[0])} samples held out, the others are as they were"
    )
    lines = [first]
    for number, one in tuned.items():
        kept = f"epoch {one.kept}" if one.kept else "as it was"
        if one.kept and options.target == "best":
            kept += f" towards {_AIMS[one.share]}"
        losses = f"loss {one.before:.4g} -> {one.after:.4g}, {kept}"
        lines.append(f"region {number + 1}, from {own[number][0]!r}: {losses}")
    aimless = [name for number in found.keys() - tuned.keys() for name in own[number]]
    names = trained_of(module, weights_only=options.weights_only)
    alone = {name for names in own for name in names}
    left = [name for name in names if readers[name] and name not in alone]
    shared = [name for name in left if len(readers[name]) > 1]
    listed = {
        "in regions that end in no float of the dense model's, so left as they were": aimless,
        "read by several regions, so left as they were": shared,
        "in regions without a weight to train, so left as they were": [
            name for name in left if name not in shared
        ],
        "read by functions that were not run as well, and changed for them, too": [
            name for name in names if name in alone and module.is_elsewhere(name)
        ],
    }
    lines += [f"{told}: {', '.join(some)}" for told, some in listed.items() if some]
    return tuple(lines)
