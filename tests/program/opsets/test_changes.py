"""The tables of what changed, held against coremltools' own registry of ops."""

from __future__ import annotations

from itertools import pairwise

from coremltools.converters.mil._deployment_compatibility import AvailableTarget
from coremltools.converters.mil.mil.ops.registry import SSAOpRegistry

from mlpass.program.opsets.changes import COMPATIBLE, REFUSALS, RULES
from mlpass.program.opsets.targets import TARGETS

# A rewrite where nothing is defined anew: it has no place among the weights of iOS18.
BEYOND = {("constexpr_affine_dequantize", 18)}


def changes(core_ops):
    """Returns (op, opset) of everything that is not what it was in the opset before, and ops gone.

    From iOS15 on, where ML Programs begin.
    """
    targets = sorted(set(AvailableTarget), key=int)
    steps = [target for target in targets if TARGETS[target.name] >= 15]
    changed, gone = set(), set()
    for op_type, versions in core_ops.items():
        for old, new in pairwise(steps):
            here = versions.get(old), versions.get(new)
            if here[0] is not None and here[1] is None and any(new in o for o in core_ops.values()):
                gone.add((op_type, TARGETS[new.name]))
            if None not in here and here[0] is not here[1]:
                changed.add((op_type, TARGETS[new.name]))
    return changed, gone


def test_whatever_changed_has_a_rule_or_a_reason():
    changed, gone = changes(SSAOpRegistry.core_ops)
    assert len(changed) > 50
    assert changed == RULES.keys() - BEYOND | COMPATIBLE.keys()
    assert not gone
    assert not RULES.keys() & COMPATIBLE.keys()
    assert {op_type for op_type, _ in (*RULES, *COMPATIBLE, *REFUSALS)} <= {*SSAOpRegistry.core_ops}


def test_what_changes_later_is_found():
    class Other: ...

    steps = dict.fromkeys([*AvailableTarget], Other)
    changed, gone = changes({"relu": {**steps, AvailableTarget.iOS18: object}})
    assert changed == {("relu", 18), ("relu", 26)}
    without = {target: Other for target in steps if target != AvailableTarget.iOS26}
    assert changes({"relu": steps, "elu": without}) == (set(), {("elu", 26)})
    assert not gone


def same_parameters(old, new):
    """Returns the parameters that either definition lacks, or the new one is stricter about."""

    def domain(op, spec):
        known = getattr(spec, "type_domain_id", None)
        return set(op.type_domains.get(known, ())) or set(getattr(spec, "type_domain", None) or ())

    before, after = old.input_spec.input_types, new.input_spec.input_types
    found = set(before) ^ set(after)
    for name in set(before) & set(after):
        stricter = before[name].optional > after[name].optional
        stricter |= bool(after[name].const) > bool(before[name].const)
        if stricter or not domain(old, before[name]) <= domain(new, after[name]):
            found.add(name)
    return found


def test_what_is_compatible_takes_all_that_it_took_before():
    further = {"upsample_bilinear": {"half_pixel_centers"}, "gru": {"reset_after", "input_bias"}}
    for op_type, opset in COMPATIBLE:
        versions = SSAOpRegistry.core_ops[op_type]
        targets = sorted((t for t in versions if TARGETS[t.name] <= opset), key=int)
        found = same_parameters(versions[targets[-2]], versions[targets[-1]])
        expected = further.get(op_type, set()) if (op_type, opset) != ("gru", 17) else set()
        assert found == expected, op_type


def test_stricter_parameters_are_found():
    ops = SSAOpRegistry.core_ops
    old, new = (ops["crop_resize"][t] for t in (AvailableTarget.iOS16, AvailableTarget.iOS17))
    assert same_parameters(old, new) == {"roi", "boxes", "box_indices"}
    conv_old, conv_new = (ops["conv"][t] for t in (AvailableTarget.iOS16, AvailableTarget.iOS17))
    assert not same_parameters(conv_old, conv_new)
    assert same_parameters(conv_new, conv_old) == {"bias"}  # a constant alone, before
