"""ONNX's own domain has two spellings, "" and "ai.onnx"; from here on there is one, and one version of it."""

from __future__ import annotations

from onnx import FunctionProto, GraphProto, ModelProto

from onnxfq.graph.bodies import scopes

_ALIAS = "ai.onnx"


def spell_domain(model: ModelProto) -> None:
    """Write "" for "ai.onnx" everywhere, and import each domain once, in the version that ONNX Runtime goes by.

    Programs differ about the second spelling and about domains that are imported twice: ONNX's checker refuses what
    ONNX Runtime runs.
    """
    graphs: list[GraphProto | FunctionProto] = [model.graph, *model.functions]
    graphs += [graph for training in model.training_info for graph in (training.initialization, training.algorithm)]
    for body in (body for graph in graphs for body in scopes(graph)):
        for node in body.proto.node:
            if node.domain == _ALIAS:
                node.domain = ""
    for holder in (model, *model.functions):
        _import_once(holder)


def _import_once(holder: ModelProto | FunctionProto) -> None:
    """Of several imports of a domain the last counts, as in ONNX Runtime."""
    versions: dict[str, int] = {}
    for known in holder.opset_import:
        versions["" if known.domain == _ALIAS else known.domain] = known.version
    if len(versions) == len(holder.opset_import) and _ALIAS not in {known.domain for known in holder.opset_import}:
        return
    del holder.opset_import[:]
    for domain, version in versions.items():
        holder.opset_import.add(domain=domain, version=version)
