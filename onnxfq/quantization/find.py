"""Which nodes are quantized, by which kernel, and why the others are not: decided for all before any work."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from onnxfq.errors import ModelError, SchemeError, UsageError
from onnxfq.graph import Graph
from onnxfq.kernels import Kernel, choose, nearest_fast
from onnxfq.kernels import Provider as Provider
from onnxfq.rules import Skip, Target, match
from onnxfq.scheme import Scheme


@dataclass(frozen=True, slots=True)
class Planned:
    """A target and the kernel that will run it."""

    target: Target
    kernel: Kernel


def find(graph: Graph, include: Sequence[str], exclude: Sequence[str]) -> tuple[list[Target], list[Skip]]:
    """Ask the rules about every node of every scope.

    Args:
        graph: the model.
        include: regular expressions; with any, only nodes whose name one of them matches are targets.
        exclude: regular expressions; nodes whose name one of them matches are left alone.

    Raises:
        UsageError: an expression that does not compile.
    """
    wanted, unwanted = _compile("--include", include), _compile("--exclude", exclude)
    targets: list[Target] = []
    skips: list[Skip] = []
    for node in graph.nodes():
        found = match(graph, node)
        if found is None:
            continue
        if isinstance(found, Target):
            found = _chosen(found, wanted, unwanted)
        if isinstance(found, Target):
            targets.append(found)
        else:
            skips.append(found)
    return targets, skips


def _compile(option: str, expressions: Sequence[str]) -> list[re.Pattern[str]]:
    try:
        return [re.compile(e) for e in expressions]
    except re.error as error:
        raise UsageError(f"{option} takes regular expressions (got {error.pattern!r}: {error}).") from error


def _chosen(target: Target, wanted: list[re.Pattern[str]], unwanted: list[re.Pattern[str]]) -> Target | Skip:
    def skip(reason: str) -> Skip:
        return Skip(target.name, target.node.op_type, reason, nbytes=target.float_bytes)

    for pattern in unwanted:
        if pattern.search(target.name):
            return skip(f"excluded by the user (--exclude {pattern.pattern})")
    if wanted and not any(pattern.search(target.name) for pattern in wanted):
        return skip("excluded by the user (not matched by --include)")
    return target


def refuse_unmatched(source: Path, expressions: Sequence[str], names: Sequence[str]) -> None:
    """Refuse expressions of --include and --exclude that match no node of a model, or of any model of a folder.

    Raises:
        UsageError: an expression that matches none of `names`; with what names look like.
    """
    idle = [e for e in expressions if not any(re.search(e, name) for name in names)]
    if idle:
        raise UsageError(
            f"No MatMul or Gemm in '{source}' matches {', '.join(map(repr, idle))}. Names look like "
            f"{', '.join(map(repr, names[:3])) or 'nothing: there are none'}; `onnxfq inspect` lists them all."
        )


def plan(
    targets: Sequence[Target], scheme: Scheme, provider: Provider, *, allow_slow: bool
) -> tuple[list[Planned], list[Skip]]:
    """Choose a kernel for every target, before any long work.

    Returns:
        The planned targets, and those left alone because their shape alone makes the kernel slower than float.

    Raises:
        SchemeError: the scheme does not exist on the provider, or is slower than not quantizing; all offenders listed.
    """
    planned: list[Planned] = []
    problems: Counter[str] = Counter()
    for target in targets:
        try:
            planned.append(Planned(target, choose(provider, scheme, target.scale_type, target.n, target.k)))
        except SchemeError as error:
            problems[str(error)] += 1
    if problems:
        raise SchemeError(" ".join(f"{text} ({count} targets.)" for text, count in problems.items()))
    slow = [p for p in planned if p.kernel.speed == "slow"]
    if allow_slow or not slow:
        return planned, []
    if len(slow) == len(planned):
        raise SchemeError(_slow_message(slow, scheme, provider))
    return [p for p in planned if p.kernel.speed == "fast"], [_slow_skip(p) for p in slow]


def _slow_skip(planned: Planned) -> Skip:
    target = planned.target
    reason = f"slower than float on {planned.kernel.provider}: {planned.kernel.note} (--allow-slow quantizes it anyway)"
    return Skip(target.name, target.node.op_type, reason, nbytes=target.float_bytes)


def _slow_message(slow: list[Planned], scheme: Scheme, provider: Provider) -> str:
    target = slow[0].target
    nearest = nearest_fast(provider, scheme, target.scale_type, target.n, target.k)
    remedy = f"The nearest fast scheme is {nearest[0]}. " if nearest else ""
    return (
        f"This scheme would run slower than the model does now (got {scheme}, {target.scale_type} on {provider}; "
        f"{len(slow)} targets, such as '{target.name}'). {remedy}Use --allow-slow to have it all the same."
    )


def refuse_nothing(graph: Graph, skips: Sequence[Skip]) -> None:
    """Refuse a model without a target, unless the reason is that it is quantized already.

    Raises:
        ModelError: nothing to quantize, with the reasons.
    """
    if any(skip.quantized for skip in skips):
        return
    reasons = Counter(skip.reason for skip in skips)
    listed = "; ".join(f"{count}x {reason}" for reason, count in reasons.most_common(5)) or "it has no MatMul or Gemm"
    raise ModelError(f"Nothing to quantize in '{graph.path}': {listed}.")
