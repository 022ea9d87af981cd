"""What a model's files consist of: quantized weights, embeddings, and floating-point weights by who reads them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from onnxfq.graph import Body, Graph, Node, StoredTensor, stored_tensors
from onnxfq.quantization.job import Job
from onnxfq.reports.contents import (
    BATCHED,
    EMBEDDINGS,
    EXPERTS,
    QUANTIZED,
    QUANTIZED_EMBEDDINGS,
    REST,
    SMALL,
    WEIGHTS,
    Content,
    together,
)
from onnxfq.reports.report import TargetReport
from onnxfq.rules import QUANTIZED_OPERATORS, RULES, Rule

_SMALL_BYTES = 1024
_MATRIX = 2  # dimensions
_OURS = {(rule.operator, rule.domain): rule for rule in RULES}
_QUANTIZED = QUANTIZED_OPERATORS | {"DequantizeLinear"}
_LOOKED_UP = ("Gather", "GatherND", "GatherElements", "EmbedLayerNormalization")
_COMPUTING = frozenset({"MatMul", "Gemm", "Einsum", "FusedMatMul", "Conv", "ConvTranspose", "LSTM", "GRU", "RNN"})
_READING_CODES = _COMPUTING | _QUANTIZED | set(_LOOKED_UP)
_INDICES = {"EmbedLayerNormalization": (2, 3, 4)}  # of tables among the inputs, where these are not the first
_STACKS = ("MoE",)  # whose weights are those of all experts


def contents(
    graph: Graph, total: int, without: Iterable[tuple[Body, str]] = (), more: Iterable[Content] = ()
) -> tuple[Content, ...]:
    """What the files consist of, the largest part first; the last, all that is no constant, makes the sum `total`.

    Args:
        graph: the model.
        total: bytes of all its files.
        without: constants that are not counted, by scope and name.
        more: what is counted besides.
    """
    found = Counter[tuple[str, str]]()
    for tensor in stored_tensors(graph, without):
        found[_kind(tensor)] += tensor.nbytes
    rows = [Content(what, operator, count) for (what, operator), count in found.items() if count]
    rows += [row for row in more if row.bytes]
    rest = Content(REST, "", max(0, total - sum(row.bytes for row in rows)))
    return together([rows, [rest]])


def expected_contents(job: Job, total: int, targets: Iterable[TargetReport]) -> tuple[Content, ...]:
    """What the output's files will consist of.

    Args:
        job: what was decided.
        total: bytes of all files to come.
        targets: what will become of each planned node.
    """
    kinds = [_quantized(p.rule, experts=p.target.experts > 0) for p in job.planned]
    codes = [Content(kind, target.operator, target.bytes) for kind, target in zip(kinds, targets, strict=True)]
    return contents(job.graph, total, job.replaced, codes)


def _quantized(rule: Rule, *, experts: bool) -> str:
    return QUANTIZED_EMBEDDINGS if rule.kind == "embeddings" and not experts else QUANTIZED


def _kind(tensor: StoredTensor) -> tuple[str, str]:
    """What a constant is, and the operators that read it."""
    ours = [_OURS[key] for node, index in tensor.readers if (key := _key(node)) in _OURS and _holds(key, index)]
    if ours:  # a table that is the output head too counts as the table
        rule = next((rule for rule in ours if rule.kind == "embeddings"), ours[0])
        experts = any(node.integer("quantize_axis", 1) > 1 for node, _ in tensor.readers)
        return _quantized(rule, experts=experts), rule.operator
    if not tensor.codes and any(_key(node) in _OURS for node, _ in tensor.readers):
        return SMALL, ""  # such as the biases of experts
    operators = sorted({node.op_type for node, _ in tensor.readers if node.op_type != "Shape"})
    dimensions = sum(d != 1 for d in tensor.shape)
    coded = tensor.codes and not _READING_CODES.isdisjoint(operators)
    if tensor.nbytes < _SMALL_BYTES or not operators or (dimensions < _MATRIX and not coded):
        return SMALL, ""
    looked_up = any(index in _INDICES.get(node.op_type, (0,)) for node, index in tensor.readers
                    if node.op_type in _LOOKED_UP)  # fmt: skip
    if coded:
        role = QUANTIZED_EMBEDDINGS if looked_up else QUANTIZED
    else:
        role = _role(operators, dimensions, looked_up=looked_up)
    return role, ", ".join(operators)


def _role(operators: Sequence[str], dimensions: int, *, looked_up: bool) -> str:
    if not _QUANTIZED.isdisjoint(operators):
        return QUANTIZED
    if dimensions > _MATRIX and (looked_up or not set(_STACKS).isdisjoint(operators)):
        return EXPERTS
    if looked_up:
        return EMBEDDINGS
    return BATCHED if dimensions > _MATRIX and "MatMul" in operators else WEIGHTS


def _key(node: Node) -> tuple[str, str]:
    return node.op_type, node.domain


def _holds(key: tuple[str, str], index: int) -> bool:
    """Whether an input of an operator of ours is one of its weight's tensors."""
    rule = _OURS[key]
    return any(index in rule.positions(slot).values() for slot in range(rule.slots))
