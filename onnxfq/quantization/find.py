"""Which nodes are targets, and why the others are not."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from onnxfq.errors import ModelError, UsageError
from onnxfq.graph import Graph
from onnxfq.reports.contents import Content, largest
from onnxfq.rules import RULES, Rule, Skip, Target, match


def find(graph: Graph, include: Sequence[str], exclude: Sequence[str]) -> tuple[list[tuple[Rule, Target]], list[Skip]]:
    """Ask the rules about every node of every scope.

    Args:
        graph: the model.
        include: regular expressions; with any, only nodes whose name one of them matches are targets.
        exclude: regular expressions; nodes whose name one of them matches are left alone.

    Raises:
        UsageError: an expression that does not compile.
    """
    wanted, unwanted = _compile("include", include), _compile("exclude", exclude)
    targets: list[tuple[Rule, Target]] = []
    skips: list[Skip] = []
    for node in graph.nodes():
        found = match(graph, node)
        if isinstance(found, Skip):
            skips.append(found)
        elif found is not None:
            rule, weights = found
            reason = _excluded(node.name, wanted, unwanted)
            if reason:
                skips += [Skip(node.name, node.op_type, reason, nbytes=weight.float_bytes) for weight in weights]
            else:
                targets += [(rule, weight) for weight in weights]
    return targets, skips


def _compile(setting: str, expressions: Sequence[str]) -> list[re.Pattern[str]]:
    try:
        return [re.compile(e) for e in expressions]
    except re.error as error:
        raise UsageError(f"`{setting}` takes regular expressions (got {error.pattern!r}: {error}).") from error


def _excluded(name: str, wanted: list[re.Pattern[str]], unwanted: list[re.Pattern[str]]) -> str:
    """Why the user does not want a node quantized; "" where nothing speaks against it."""
    for pattern in unwanted:
        if pattern.search(name):
            return f"excluded by the user (`exclude={pattern.pattern}`)"
    if wanted and not any(pattern.search(name) for pattern in wanted):
        return "excluded by the user (not matched by `include`)"
    return ""


def refuse_unmatched(source: Path, expressions: Mapping[str, Iterable[str]], names: Sequence[str]) -> None:
    """Refuse expressions that match no node of a model, or of any model of a folder.

    Args:
        source: the model or folder.
        expressions: by the setting that they were given for.
        names: of all nodes.

    Raises:
        UsageError: an expression that matches none of `names`; with what names look like.
    """
    idle = [f"`{setting}={e}`" for setting, given in expressions.items() for e in given if not _matches(e, names)]
    if idle:
        raise UsageError(
            f"No {operators('or')} in '{source}' matches {', '.join(idle)}. Names look like "
            f"{', '.join(map(repr, names[:3])) or 'nothing: there are none'}; `onnxfq inspect` lists them all."
        )


def _matches(expression: str, names: Sequence[str]) -> bool:
    return any(re.search(expression, name) for name in names)


def is_quantized(skips: Sequence[Skip], contents: Sequence[Content]) -> bool:
    """Whether a model has quantized weights, of nodes that are left alone or of any others, such as convolutions."""
    return any(skip.quantized for skip in skips) or any(content.is_quantized for content in contents)


def refuse_nothing(graph: Graph, skips: Sequence[Skip], contents: Sequence[Content]) -> None:
    """Refuse a model without a target, unless the reason is that it is quantized already.

    Raises:
        ModelError: nothing to quantize, with the reasons, and with what the model's bytes are instead.
    """
    if is_quantized(skips, contents):
        return
    reasons = Counter(skip.reason for skip in skips)
    listed = "; ".join(f"{count}x {reason}" for reason, count in reasons.most_common(5))
    parts = largest(contents, graph.source_bytes)
    told = [listed or f"it has no {operators('or')} with a constant weight", *([parts] if parts else [])]
    raise ModelError(f"Nothing to quantize in '{graph.path}': {('; ' if listed else ': ').join(told)}.")


def operators(conjunction: str) -> str:
    """The operators that are replaced, in words: "MatMul, Gemm, Einsum, Gather, MoE or LSTM"."""
    *names, last = (name for rule in RULES for name in rule.replaces)
    return f"{', '.join(names)} {conjunction} {last}"
