"""A pipeline's parts for tables: what makes vectors of features, linear models and trees."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from math import erf, sqrt
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mlpass.errors import InputError, MlpassError
from mlpass.runtime.description import Description, Feature, describe_part
from mlpass.runtime.features import as_array, read_input, write_output
from mlpass.runtime.trees import scores_of_trees

if TYPE_CHECKING:
    from mlpass.program.proto import Message

Floats = NDArray[np.float64]
Kernel = Callable[["Message", Sequence[object]], object]


@dataclass(frozen=True, eq=False)
class Tabular:
    """A part of one of `KERNELS` or `CLASSIFIERS`."""

    description: Description
    kind: str
    model: Message

    @classmethod
    def of(cls, model: Message) -> Tabular:
        """Returns the part that a model message holds."""
        return cls(describe_part(model), str(model.WhichOneof("Type")), model)

    def run(self, given: Mapping[str, object]) -> dict[str, object]:
        """Returns its outputs by name.

        Args:
            given: its inputs by name, as for `Interpreter.predict`; there may be others.

        Raises:
            InputError: they are missing, or do not fit.
        """
        message = getattr(self.model, self.kind)
        try:
            values = [_taken(feature, given) for feature in self.description.inputs]
            made = (
                self._classified(CLASSIFIERS[self.kind](message, values), message)
                if self.kind in CLASSIFIERS
                else {self.description.outputs[0].name: KERNELS[self.kind](message, values)}
            )
            return {each.name: _given_out(each, made) for each in self.description.outputs}
        except (MlpassError, ValueError, TypeError, LookupError, ArithmeticError) as error:
            raise InputError(f"{self.kind}: {error}") from error

    def _classified(self, probabilities: object, message: Message) -> dict[str, object]:
        """Returns the label and the probability of each, by the names of these outputs."""
        labels = list(getattr(message, message.WhichOneof("ClassLabels")).vector)
        sure = np.asarray(probabilities, np.float64)
        described = self.model.description
        return {
            described.predictedFeatureName: labels[int(sure.argmax())],
            described.predictedProbabilitiesName: dict(zip(labels, sure.tolist(), strict=True)),
        }


def _taken(feature: Feature, given: Mapping[str, object]) -> object:
    value = given.get(feature.name)
    if value is None and not feature.optional:
        raise InputError(f"its input {feature.name!r} is made by no part, and not given")
    if feature.kind in ("array", "image"):
        read = read_input(feature, value)
        whole = feature.kind == "array" and value is not None  # what is fp64 stays so
        return as_array(feature, value).reshape(read.shape) if whole else read
    if feature.kind in ("number", "integer"):
        return np.asarray(value, np.float64 if feature.kind == "number" else np.int64).reshape(())
    return value.item() if isinstance(value, np.ndarray) and value.size == 1 else value


def _given_out(feature: Feature, made: Mapping[str, object]) -> object:
    value = made[feature.name]
    if feature.kind == "array":
        array = np.asarray(value)
        value = array.reshape(feature.shape) if array.size == np.prod(feature.shape) else array
    elif feature.kind in ("number", "integer"):
        value = np.asarray(value).reshape(())
    return write_output(feature, value)


def _vector(values: Sequence[object]) -> Floats:
    return np.concatenate([np.asarray(value, np.float64).reshape(-1) for value in values])


def _scores(message: Message, values: Sequence[object]) -> Floats:
    """Returns what a linear model makes of a vector before its transform."""
    weights = np.array([list(row.value) for row in message.weights], np.float64)
    found: Floats = weights @ _vector(values) + np.array(message.offset, np.float64)
    return found


def _logistic(scores: Floats) -> Floats:
    with np.errstate(over="ignore"):
        return 1 / (1 + np.exp(-scores))


def _normal(scores: Floats) -> Floats:
    return np.array([(1 + erf(score / sqrt(2))) / 2 for score in scores])


def _softmax(scores: Floats) -> Floats:
    powers = np.exp(scores - scores.max())
    shares: Floats = powers / powers.sum()
    return shares


def _regressed(message: Message, values: Sequence[object]) -> object:
    return (_same, _logistic, _normal)[message.postEvaluationTransform](_scores(message, values))


def _same(scores: Floats) -> Floats:
    return scores


def _classified(message: Message, values: Sequence[object]) -> object:
    """Source: GLMClassifier.proto of Core ML; of two classes the second one is scored."""
    scores = _scores(message, values)
    if len(scores) == 1:
        sure = (_logistic, _normal)[message.postEvaluationTransform](scores)
        return np.r_[1 - sure, sure]
    if message.postEvaluationTransform:
        raise ValueError("the normal distribution tells two classes apart, and no more")
    if message.classEncoding:
        each = _logistic(scores)
        return each / each.sum()
    return _softmax(np.r_[0, scores])


def _tree_regressed(message: Message, values: Sequence[object]) -> object:
    return _transformed(scores_of_trees(message.treeEnsemble, _vector(values)), message)


def _tree_classified(message: Message, values: Sequence[object]) -> object:
    labels = getattr(message, message.WhichOneof("ClassLabels")).vector
    found = _transformed(scores_of_trees(message.treeEnsemble, _vector(values)), message)
    return np.r_[1 - found, found] if len(found) == 1 and len(labels) == 2 else found


def _transformed(scores: Floats, message: Message) -> Floats:
    """Source: TreeEnsemblePostEvaluationTransform of TreeEnsemble.proto of Core ML."""
    kind = message.postEvaluationTransform
    return (_same, _softmax, _logistic, lambda each: _softmax(np.r_[0, each]))[kind](scores)


def _extracted(message: Message, values: Sequence[object]) -> object:
    return _vector(values)[list(message.extractIndex)]


def _scaled(message: Message, values: Sequence[object]) -> object:
    moved = np.array(message.shiftValue or [0.0]) + _vector(values)
    return moved * np.array(message.scaleValue or [1.0])


def _normalized(message: Message, values: Sequence[object]) -> object:
    vector = _vector(values)
    size = np.linalg.norm(vector, (np.inf, 1, 2)[message.normType])
    return vector / size if size else vector


def _imputed(message: Message, values: Sequence[object]) -> object:
    """Returns the input with what counts as missing replaced: NaN where nothing is told."""
    new = getattr(message, message.WhichOneof("ImputedValue"))
    told = message.WhichOneof("ReplaceValue")
    missing = getattr(message, told) if told else np.nan
    (value,) = values
    if isinstance(value, Mapping):
        return {
            key: new.map.get(key, each) if each == missing else each for key, each in value.items()
        }
    if isinstance(value, str):
        return new if value == missing else value
    array = np.asarray(value)
    gone = np.isnan(array) if missing != missing else array == missing
    fill = new if np.isscalar(new) else np.array(new.vector).reshape(array.shape)
    return np.where(gone, fill, array)


def _one_hot(message: Message, values: Sequence[object]) -> object:
    """Returns ones at the place of a category; a dictionary where the message asks for one."""
    known = list(getattr(message, message.WhichOneof("CategoryType")).vector)
    (value,) = values
    category = value if isinstance(value, str) else int(np.asarray(value))
    if category not in known and not message.handleUnknown:
        raise ValueError(f"{category!r} is not one of its categories")
    if message.outputSparse:
        return {known.index(category): 1.0} if category in known else {}
    return np.array([float(category == one) for one in known])


def _listed(message: Message, values: Sequence[object]) -> object:
    """Returns a dictionary's values at the places of their keys; those of no place do not count."""
    (given,) = values
    return np.array(
        [float(given.get(key, 0)) for key in getattr(message, message.WhichOneof("Map")).vector]
        if isinstance(given, Mapping)
        else []
    )


def _mapped(message: Message, values: Sequence[object]) -> object:
    (value,) = values
    table = getattr(message, message.WhichOneof("MappingType")).map
    key: Hashable = value if isinstance(value, str) else int(np.asarray(value))
    told = message.WhichOneof("ValueOnUnknown")
    if key not in table and told is None:
        raise ValueError(f"{key!r} is not one of its categories")
    return table[key] if key in table else getattr(message, told)


KERNELS: Mapping[str, Kernel] = {
    "arrayFeatureExtractor": _extracted,
    "categoricalMapping": _mapped,
    "dictVectorizer": _listed,
    "featureVectorizer": lambda _, values: _vector(values),
    "glmRegressor": _regressed,
    "identity": lambda _, values: values[0],
    "imputer": _imputed,
    "normalizer": _normalized,
    "oneHotEncoder": _one_hot,
    "scaler": _scaled,
    "treeEnsembleRegressor": _tree_regressed,
}
CLASSIFIERS: Mapping[str, Kernel] = {
    "glmClassifier": _classified,
    "treeEnsembleClassifier": _tree_classified,
}
TABULAR = frozenset({*KERNELS, *CLASSIFIERS})  # what the message calls them
