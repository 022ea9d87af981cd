"""Which scheme each target takes and which kernel will run it: the one place where settings become schemes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from onnxfq.errors import SchemeError
from onnxfq.options import Options
from onnxfq.providers import ProviderName
from onnxfq.rules import Kernel, Rule, Skip, Target
from onnxfq.scheme import Scheme


@dataclass(frozen=True, slots=True)
class Planned:
    """A target and all that was decided about it.

    Attributes:
        target: the weight and its node.
        rule: of the operator that will take the node's place.
        scheme: what it is quantized to.
        kernel: what will run it.
    """

    target: Target
    rule: Rule
    scheme: Scheme
    kernel: Kernel

    @property
    def key(self) -> object:
        """Equal for targets that share one stored weight."""
        return self.target.key, self.rule.operator, self.scheme, self.kernel


def assign(
    found: Iterable[tuple[Rule, Target]], options: Options, provider: ProviderName
) -> tuple[list[Planned], list[Skip]]:
    """Choose a scheme and a kernel for every target, before any long work.

    Returns:
        The planned targets, and those left alone: for their kind no quantizing was asked for, or their shape alone
        makes the kernel slower than float.

    Raises:
        SchemeError: a scheme does not exist on the provider, or is slower than not quantizing; all offenders listed.
    """
    planned: list[Planned] = []
    skips: list[Skip] = []
    problems: Counter[str] = Counter()
    for rule, target in found:
        scheme = _scheme_of(rule, target, options)
        if scheme is None:
            skips.append(_skip(target, "embeddings are left in float, as asked for"))
            continue
        try:
            planned.append(Planned(target, rule, scheme, rule.kernel(provider, scheme, target)))
        except SchemeError as error:
            problems[str(error)] += 1
    if problems:
        raise SchemeError(" ".join(f"{text} ({count} targets.)" for text, count in problems.items()))
    if options.allow_slow:
        return planned, skips
    for scheme in dict.fromkeys(p.scheme for p in planned):
        alike = [p for p in planned if p.scheme == scheme]
        if all(p.kernel.speed == "slow" for p in alike):
            raise SchemeError(_slow_message(alike, provider))
    slow = [_slow_skip(p) for p in planned if p.kernel.speed == "slow"]
    return [p for p in planned if p.kernel.speed == "fast"], [*skips, *slow]


def schemes_text(planned: Sequence[Planned], usual: Scheme) -> str:
    """The schemes of a run in words: the usual one, and how many targets have which other."""
    others = Counter(str(p.scheme) for p in planned if p.scheme != usual)
    parts = [f"{count} {'node' if count == 1 else 'nodes'} {text}" for text, count in others.items()]
    return "; ".join([str(usual), *parts])


def _scheme_of(rule: Rule, target: Target, options: Options) -> Scheme | None:
    """What a target is quantized to; None where it stays as it is."""
    scheme = options.scheme if rule.kind == "weights" else options.embedding_scheme
    for pattern, changes in options.schemes_by_name.items():
        if re.search(pattern, target.name):
            scheme = (scheme or options.scheme).changed(changes)
    return scheme


def _skip(target: Target, reason: str) -> Skip:
    return Skip(target.name, target.node.op_type, reason, nbytes=target.float_bytes)


def _slow_skip(planned: Planned) -> Skip:
    kernel = planned.kernel
    return _skip(
        planned.target, f"slower than float on {kernel.provider}: {kernel.note} (`allow_slow=True` quantizes it anyway)"
    )


def _slow_message(slow: Sequence[Planned], provider: ProviderName) -> str:
    first = slow[0]
    nearest = first.rule.nearest_fast(provider, first.scheme, first.target)
    remedy = f"The nearest fast scheme is {nearest}. " if nearest else ""
    return (
        f"This scheme would run slower than the model does now (got {first.scheme}, {first.target.scale_type} on "
        f"{provider}; {len(slow)} targets, such as '{first.target.name}'). {remedy}Use `allow_slow=True` to have it "
        "all the same."
    )
