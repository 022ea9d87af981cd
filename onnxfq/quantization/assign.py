"""Which scheme each target takes and which kernel will run it: the one place where settings become schemes."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from onnxfq.errors import SchemeError
from onnxfq.machines import AUTO, Machine, find_machine
from onnxfq.options import FLOAT, Options
from onnxfq.providers import ProviderName
from onnxfq.quantization.choose_format import AutoFormat
from onnxfq.rules import PRODUCT_RULES, Kernel, Rule, Skip, Target
from onnxfq.scheme import BLOCK_SIZES, Scheme
from onnxfq.weight_formats import USUAL_FORMAT

Mix = Mapping[tuple[str, int], Scheme]
"""Schemes of single weights, by the node's name and the weight's slot."""
SHARED_BITS = 8  # from which codes are good for table and product alike, whatever chose them; fewer are fitted to both


@dataclass(frozen=True, slots=True)
class Planned:
    """A target and all that was decided about it.

    Attributes:
        target: the weight and its node.
        rule: of the operator that will take the node's place.
        scheme: what it is quantized to.
        kernel: what will run it.
        storage: the rule that the weight is stored by; another one where one copy serves nodes of several rules.
        copy: which of several copies of one weight, where nodes get copies of their own.
    """

    target: Target
    rule: Rule
    scheme: Scheme
    kernel: Kernel
    storage: Rule
    copy: int = 0

    @property
    def key(self) -> Hashable:
        """Equal for targets that share one stored weight."""
        return self.target.key, self.storage.operator, self.scheme, self.kernel, self.copy

    @property
    def scheme_text(self) -> str:
        """The scheme in words."""
        text = str(self.scheme)
        return text.replace("activations float", "float once loaded") if self.is_stored else text

    @property
    def is_stored(self) -> bool:
        """Whether the weight is small in the file alone, and a float again when the model is loaded."""
        return self.rule.kind == "others"


def assign(
    found: Sequence[tuple[Rule, Target]],
    options: Options,
    provider: ProviderName,
    *,
    auto: AutoFormat | None = None,
    mix: Mix | None = None,
) -> tuple[list[Planned], list[Skip]]:
    """Choose a scheme and a kernel for every target, before any long work.

    Args:
        found: the targets.
        options: what was asked for.
        provider: where they run here; `options.target` says what they are made for.
        auto: chooses formats, where that is wanted.
        mix: schemes that were chosen for single weights.

    Returns:
        The planned targets, and those left alone: for their kind no quantizing was asked for, or their shape alone
        makes the kernel slower than float.

    Raises:
        SchemeError: a scheme does not exist on the provider, or is known to be slower than not quantizing; all
            offenders listed.
    """
    machine = find_machine(options.target, provider)
    provider = machine.provider
    planned: list[Planned] = []
    skips: list[Skip] = []
    problems: Counter[str] = Counter()
    shared = {} if options.unshare else _shared(found, options, provider, mix)
    for rule, target in found:
        if target.key in shared:
            planned.append(replace(shared[target.key], target=target, rule=rule))
            continue
        scheme = _scheme_of(rule, target, options, mix)
        if scheme is None:
            skips.append(_skip(target, 'embeddings stay in float (`embeddings="float"`)'))
            continue
        if rule.kind == "embeddings" and not machine.table_bits:
            skips.append(_skip(target, f"embeddings stay in float: {machine.why} (`target={machine.name}`)"))
            continue
        if auto is not None and _has_formats(rule, target) and not changes_for(target, options):
            choice = auto.choose(target, scheme)
            if choice.scheme is None:
                skips.append(_skip(target, choice.reason))
                continue
            scheme = choice.scheme
        if _has_formats(rule, target):
            rule = PRODUCT_RULES[scheme.format]
        try:
            _refuse_unfit(rule, scheme, machine)
            planned.append(Planned(target, rule, scheme, rule.kernel(provider, scheme, target), rule))
        except SchemeError as error:
            if changes_for(target, options) or not target.scheme:
                problems[str(error)] += 1
            else:
                skips.append(_skip(target, str(error)))
    if problems:
        raise SchemeError(" ".join(f"{text} ({count} {_targets(count)}.)" for text, count in problems.items()))
    planned, vast = _without_vast(_copied(planned, unshare=options.unshare))
    skips += vast
    if options.allow_slow:
        return planned, skips
    for kind in dict.fromkeys((p.rule, p.scheme) for p in planned):
        alike = [p for p in planned if (p.rule, p.scheme) == kind]
        if all(p.kernel.speed == "slow" for p in alike):
            raise SchemeError(_slow_message(alike, provider))
    slow = [_slow_skip(p) for p in planned if p.kernel.speed == "slow"]
    return [p for p in planned if p.kernel.speed != "slow"], [*skips, *slow]


def _refuse_unfit(rule: Rule, scheme: Scheme, machine: Machine) -> None:
    """Refuse what cannot run where the file is to be used.

    Raises:
        SchemeError: with what can.
    """
    if rule.kind == "embeddings" and scheme.bits not in machine.table_bits:
        wanted = " or ".join(f"`embeddings={bits}`" for bits in machine.table_bits)
        raise SchemeError(
            f"{machine.title} has no embeddings of {scheme.bits} bits (got {scheme} and target={machine.name}): "
            f"{machine.why}. Use {wanted}."
        )
    if rule.kind == "weights" and scheme.format not in machine.formats:
        wanted = " or ".join(f'`format="{name}"`' for name in machine.formats)
        raise SchemeError(
            f"{machine.title} does not run the format {scheme.format} (got {scheme} and target={machine.name}): "
            f"{machine.why}. Use {wanted}, or leave `target` at {AUTO}."
        )


def _copied(planned: Sequence[Planned], *, unshare: bool) -> list[Planned]:
    """Give products copies of their weight.

    Where that is wanted, each product of a scope gets one; tables keep one, and so do two branches of an If. Where no
    other node can read what is stored, all nodes get their own.
    """
    counts: Counter[Hashable] = Counter()
    copied = []
    for p in planned:
        reader = (p.target.key, p.target.node.body) if p.rule.shares else (p.target.key, p.rule.operator)
        own = (unshare and p.rule.kind == "weights") or not p.rule.shares
        copied.append(replace(p, copy=counts[reader]) if own else p)
        counts[reader] += 1
    return copied


def _without_vast(planned: Sequence[Planned]) -> tuple[list[Planned], list[Skip]]:
    """Leave weights alone whose copies, one for each node that reads them, would be larger than they are in float."""
    copies = Counter(p.target.key for p in planned if not p.rule.shares)
    vast = [
        p
        for p in planned
        if copies[p.target.key] > 1
        and copies[p.target.key] * p.storage.nbytes(p.target.n, p.target.k, p.kernel) > p.target.float_bytes
    ]
    skips = [
        _skip(
            p.target,
            f"as {p.rule.operator}, {copies[p.target.key]} nodes would need a copy each of its weight, together larger "
            'than it is now (`format="matmulnbits"` stores it once)',
        )
        for p in vast
    ]
    left = {id(p) for p in vast}
    return [p for p in planned if id(p) not in left], skips


def _shared(
    found: Sequence[tuple[Rule, Target]], options: Options, provider: ProviderName, mix: Mix | None
) -> dict[Hashable, Planned]:
    """Embeddings that are weights of products too, and how one copy of them is stored, by `Target.key`.

    They take the embeddings' scheme, as other tools keep a tied head (8 bits or 6) finer than the rest: that is smaller
    than two copies, and closer. A scheme by name for any of the nodes is one for the copy, but for a product
    that is to have fewer bits than the table.
    """
    groups: defaultdict[Hashable, list[tuple[Rule, Target]]] = defaultdict(list)
    for rule, target in found:
        groups[target.key].append((rule, target))
    shared = {}
    for key, members in groups.items():
        weights = [(rule, target) for rule, target in members if rule.kind == "weights"]
        tables = [(rule, target) for rule, target in members if rule.kind == "embeddings"]
        scheme = _scheme_of(*tables[0], options, mix) if tables and weights else None
        if scheme is None or any(_format_of(*product, options) != USUAL_FORMAT for product in weights):
            continue
        changes = [change for _, target in weights for change in changes_for(target, options)]
        if any(int(change.get("bits", scheme.bits)) < scheme.bits for change in changes):
            continue
        for change in changes:
            scheme = scheme.changed(change)
        planned = _one_copy(members, weights[0], scheme, options, provider)
        if planned is not None:
            shared[key] = planned
    return shared


def _one_copy(
    members: Sequence[tuple[Rule, Target]],
    product: tuple[Rule, Target],
    scheme: Scheme,
    options: Options,
    provider: ProviderName,
) -> Planned | None:
    """How a weight is stored for a product so that all can read it; None where that cannot be, or is slow."""
    rule, target = product
    sizes = [size for size in BLOCK_SIZES if target.k % size == 0 and size <= scheme.columns_per_block(target.k)]
    if not sizes:
        return None
    scheme = replace(scheme, block_size=max(sizes))
    try:
        kernel = rule.kernel(provider, scheme, target)
    except SchemeError:
        return None
    readable = all(other.reads(rule, kernel, target.k) for other, _ in members)
    fast = kernel.speed != "slow" or options.allow_slow
    products = [other for member, other in members if member.kind == "weights"]
    alike = all(other.scale_type == target.scale_type for other in products)  # what tables give can be cast
    return Planned(target, rule, scheme, kernel, rule) if readable and fast and alike else None


def schemes_text(planned: Sequence[Planned], usual: Scheme) -> str:
    """The schemes of a run in words: the usual one, and how many targets have which other."""
    others = Counter(p.scheme_text for p in planned if p.scheme != usual)
    parts = [f"{count} {'node' if count == 1 else 'nodes'} in {text}" for text, count in others.items()]
    unused = bool(planned) and all(p.scheme != usual for p in planned)
    return "; ".join(parts if unused else [str(usual), *parts])


def _scheme_of(rule: Rule, target: Target, options: Options, mix: Mix | None = None) -> Scheme | None:
    """What a target is quantized to; None where it stays as it is."""
    if mix and (target.name, target.slot) in mix:
        return mix[target.name, target.slot]
    changes = changes_for(target, options)
    if rule.kind == "weights":
        has_formats = _has_formats(rule, target)
        scheme: Scheme | None = options.scheme if has_formats else replace(options.scheme, format=USUAL_FORMAT)
    else:
        scheme = _table_scheme(options)
    if target.scheme:
        scheme = replace(target.scheme, activations=options.scheme.activations)
    for change in changes:
        own = change if _has_formats(rule, target) else {n: value for n, value in change.items() if n != "format"}
        scheme = (scheme or Scheme()).changed(own) if own else scheme
    return scheme


def _has_formats(rule: Rule, target: Target) -> bool:
    """Whether a target is a product, which takes the rule of its scheme's format."""
    return rule is PRODUCT_RULES[USUAL_FORMAT] and not target.stacked


def _format_of(rule: Rule, target: Target, options: Options) -> str:
    scheme = _scheme_of(rule, target, options)
    return USUAL_FORMAT if scheme is None else scheme.format


def _table_scheme(options: Options) -> Scheme | None:
    """What tables of embeddings are quantized to; None leaves them in float."""
    usual = options.scheme
    if options.embeddings == FLOAT:
        return None
    if options.embeddings == 8:  # blocks matter little, and zero points less
        return Scheme(8, 128, symmetric=True, activations=usual.activations)
    block_size = usual.block_size if isinstance(usual.block_size, int) else Scheme().block_size
    return Scheme(int(options.embeddings), block_size, usual.symmetric, usual.activations)


def changes_for(target: Target, options: Options) -> list[dict[str, Any]]:
    """What the user wants otherwise for a target, the strongest last."""
    return [changes for pattern, changes in options.schemes_by_name.items() if re.search(pattern, target.node.name)]


def _targets(count: int) -> str:
    return "target" if count == 1 else "targets"


def _skip(target: Target, reason: str) -> Skip:
    return Skip(target.node.name, target.node.op_type, reason, nbytes=target.float_bytes)


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
        f"{provider}; {len(slow)} {_targets(len(slow))}, such as '{first.target.name}'): {first.kernel.note}. {remedy}"
        "`onnxfq doctor` says what was measured on such a processor. Use `allow_slow=True` "
        "to have it all the same."
    )
