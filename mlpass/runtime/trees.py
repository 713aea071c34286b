"""What an ensemble of trees scores a vector of features with."""

from __future__ import annotations

import operator
from collections import defaultdict
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from mlpass.program.proto import Message

_BRANCHES = (operator.le, operator.lt, operator.ge, operator.gt, operator.eq, operator.ne)
_LEAF = len(_BRANCHES)  # as the message numbers what a node does


def scores_of_trees(message: Message, vector: NDArray[np.floating]) -> NDArray[np.float64]:
    """Returns the sum of what the leaves say that a vector comes to, and of the base.

    Source: TreeEnsemble.proto of Core ML.

    Raises:
        ValueError: a tree has no root, no leaf on the way, or more nodes than one on a way.
        LookupError: a node names another, a feature or a score that is not there.
    """
    base = list(message.basePredictionValue) or [0.0]
    scores = np.zeros(message.numPredictionDimensions, np.float64)
    scores += base
    trees: dict[int, dict[int, Message]] = defaultdict(dict)
    for node in message.nodes:
        trees[node.treeId][node.nodeId] = node
    for number, nodes in trees.items():
        branches = [node for node in nodes.values() if node.nodeBehavior != _LEAF]
        children = {b for a in branches for b in (a.trueChildNodeId, a.falseChildNodeId)}
        roots = [name for name in nodes if name not in children]
        if len(roots) != 1:
            raise ValueError(f"tree {number} must have one root. Got {len(roots)}.")
        for told in _leaf_of(nodes, roots[0], vector).evaluationInfo:
            scores[told.evaluationIndex] += told.evaluationValue
    return scores


def _leaf_of(nodes: dict[int, Message], root: int, vector: NDArray[np.floating]) -> Message:
    """Returns the leaf that a vector comes to."""
    node = nodes[root]
    for _ in nodes:
        if node.nodeBehavior == _LEAF:
            return node
        value = vector[node.branchFeatureIndex]
        if np.isnan(value):
            holds = bool(node.missingValueTracksTrueChild)
        else:
            holds = _BRANCHES[node.nodeBehavior](value, node.branchFeatureValue)
        node = nodes[node.trueChildNodeId if holds else node.falseChildNodeId]
    raise ValueError("a tree goes in circles")
