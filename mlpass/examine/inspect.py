"""What is in a model: its functions and ops, and what each weight is and costs."""

from __future__ import annotations

from mlpass.collector import paused_collector
from mlpass.program.hosted import models_of
from mlpass.program.mlmodel import ModelLike, open_package
from mlpass.report.joined import joined
from mlpass.report.records import Report
from mlpass.weights.record import function_records, untouched_record
from mlpass.weights.sites import find_sites
from mlpass.weights.ways import quantize_way


@paused_collector()
def inspect(source: ModelLike) -> Report:
    """Returns a report of a model as it is: nothing is changed or written.

    Args:
        source: path of an `.mlpackage`; of an ExecuTorch `.pte`, or of a model in it; or an
            `MLModel`.

    Raises:
        ModelFormatError: it is not a package with an ML Program, or is broken.
        OSError: it cannot be read.
    """
    if len(models := models_of(source)) > 1:
        reports = {name: inspect(path) for name, path in models.items()}
        nbytes = next(iter(reports.values())).bytes_before
        return joined(str(source), None, reports, (nbytes, nbytes))
    with open_package(source) as package:
        nbytes = package.nbytes
        layers = tuple(untouched_record(site) for site in find_sites(package.programs))
        functions = function_records(package.programs)
        sparse = [layer for layer in layers if layer.encoding == "sparse"]
        opset = min((function.opset for function in functions), default=0)
        names = [each.name for each in package.chunks]
        notes = quantize_way(layers, sparse, names, opset)
        return Report(package.name, None, nbytes, nbytes, functions, layers, notes)
