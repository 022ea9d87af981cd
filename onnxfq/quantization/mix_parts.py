"""What a mix of bits chooses between: the weights that take one scheme together, and the schemes that each may have."""

from __future__ import annotations

import math
import re
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from onnxfq.errors import SchemeError
from onnxfq.options import Options
from onnxfq.quantization.assign import Mix, Planned, assign, changes_for
from onnxfq.quantization.job import Job
from onnxfq.quantization.mix_trial import AS_PLANNED
from onnxfq.rules import PRODUCT_RULES, Rule
from onnxfq.scheme import Scheme
from onnxfq.weight_formats import USUAL_FORMAT

WEIGHT_FORMS = ((8, 128), (4, 32), (4, 128), (2, 32), (2, 128))  # bits and block sizes
TABLE_FORMS = ((4, 32), (4, 128))  # besides the usual one of 8 bits


@dataclass(frozen=True, slots=True)
class MixPart:
    """Weights that take one scheme together: those of one node, and nodes that share a weight.

    Attributes:
        members: positions of the targets.
        schemes: that they may have, by the number of the form; `AS_PLANNED` is the one they have.
        nbytes: what they take in each form.
        tables: whether a table of embeddings is among them.
    """

    members: tuple[int, ...]
    schemes: Mapping[int, Scheme]
    nbytes: Mapping[int, int]
    tables: bool

    @property
    def largest(self) -> int:
        """The number of the form that takes the most bytes."""
        return max(self.nbytes, key=lambda number: self.nbytes[number])

    @property
    def smallest(self) -> int:
        """The number of the form that takes the fewest bytes."""
        return min(self.nbytes, key=lambda number: self.nbytes[number])


def find_parts(job: Job) -> tuple[list[MixPart], list[dict[int, Planned]]]:
    """All parts of a model that have a choice, and each further form as its targets are planned in it.

    What the user gave a scheme of its own has none.
    """
    forms = further_forms(job.options)
    planned: list[dict[int, Planned]] = [{} for _ in forms]
    parts = []
    for members in _together(job.planned):
        if any(_is_fixed(job.planned[index], job.options) for index in members):
            continue
        own = [job.planned[index] for index in members]
        tables = any(p.rule.kind == "embeddings" for p in own)
        schemes, sizes = {AS_PLANNED: own[0].scheme}, {AS_PLANNED: _nbytes(own)}
        for number, (of_tables, scheme) in enumerate(forms, start=AS_PLANNED + 1):
            found = _in_form(own, scheme, job) if of_tables == tables else None
            if found is not None and found[0].scheme not in schemes.values():
                planned[number - AS_PLANNED - 1] |= dict(zip(members, found, strict=True))
                schemes[number], sizes[number] = found[0].scheme, _nbytes(found)
        if len(schemes) > 1:
            parts.append(MixPart(tuple(members), schemes, sizes, tables))
    return parts, planned


def bundled(job: Job, parts: Sequence[MixPart], most: int) -> list[MixPart]:
    """Fewer parts, where exchanging each for each of its forms would be more than `most` exchanges.

    Weights of one kind in neighbouring layers are taken together: kinds differ more than layers do.
    """
    count = sum(len(part.schemes) - 1 for part in parts)
    kinds: dict[Hashable, list[MixPart]] = {}
    for part in parts:
        first = job.planned[part.members[0]].target
        kind = (re.sub(r"\d+", "#", first.name), first.n, first.k, tuple(part.schemes))
        kinds.setdefault(kind, []).append(part)
    width = -(-count // most)
    bundles = [own[start : start + width] for own in kinds.values() for start in range(0, len(own), width)]
    return sorted((_joined(bundle) for bundle in bundles), key=lambda part: part.members)


def _joined(bundle: Sequence[MixPart]) -> MixPart:
    first = bundle[0]
    nbytes = {number: sum(part.nbytes[number] for part in bundle) for number in first.nbytes}
    return MixPart(tuple(index for part in bundle for index in part.members), first.schemes, nbytes, first.tables)


def nearest_form(part: MixPart, scheme: Scheme) -> int:
    """The number of the form that differs least from a scheme: in bits, then in size."""

    def distance(number: int) -> tuple[float, float]:
        own = part.schemes[number]
        return abs(math.log2(own.bits / scheme.bits)), abs(_block(own) - _block(scheme))

    return min(part.schemes, key=distance)


def _block(scheme: Scheme) -> float:
    return math.log2(scheme.columns_per_block(1 << 16))


def further_forms(options: Options) -> list[tuple[bool, Scheme]]:
    """Schemes that are tried, and whether each is one of tables."""
    usual = options.scheme
    weights = [(False, replace(usual, bits=bits, block_size=size)) for bits, size in WEIGHT_FORMS]
    if options.embeddings != 8:  # the user chose
        return weights
    tables = [Scheme(bits, size, usual.symmetric, usual.activations) for bits, size in TABLE_FORMS]
    return [*weights, *((True, scheme) for scheme in (Scheme(8, 128, True, usual.activations), *tables))]


def uniform_schemes(options: Options, parts: Sequence[MixPart]) -> list[tuple[Scheme, Scheme]]:
    """One scheme for all weights and one for all tables: what can be had without a mix."""
    forms = further_forms(options)
    usual = Scheme(8, 128, True, options.scheme.activations)
    tables = [scheme for of_tables, scheme in forms if of_tables] if any(part.tables for part in parts) else [usual]
    return [(weights, table) for of_tables, weights in forms if not of_tables for table in tables or [usual]]


def uniform_forms(options: Options, parts: Sequence[MixPart]) -> list[list[int]]:
    """The same as numbers of the forms of all parts, the largest first.

    Where tables have a choice too, they keep 8 bits in all that come before those in which they have fewer.
    """
    found = {}
    for weights, tables in uniform_schemes(options, parts):
        numbers = [nearest_form(part, tables if part.tables else weights) for part in parts]
        nbytes = sum(part.nbytes[number] for part, number in zip(parts, numbers, strict=True))
        found[tuple(numbers)] = (-tables.bits, -nbytes)
    return [list(numbers) for numbers in sorted(found, key=lambda numbers: found[numbers])]


def mix_of(job: Job, parts: Sequence[MixPart], numbers: Mapping[int, int]) -> Mix:
    """The schemes of single weights.

    Args:
        job: in which the parts were found.
        parts: all of them.
        numbers: of the forms that they have, by their position; others are as they were.
    """
    mix = dict(job.mix)
    for position, number in numbers.items():
        for index in parts[position].members:
            target = job.planned[index].target
            mix[target.name, target.slot] = parts[position].schemes[number]
    return mix


def _is_fixed(p: Planned, options: Options) -> bool:
    return p.is_stored or p.target.scheme is not None or bool(changes_for(p.target, options))


def _together(planned: Sequence[Planned]) -> Iterator[list[int]]:
    """Positions of targets that cannot differ: weights of one node, readers of one weight."""
    groups: dict[Hashable, list[int]] = {}
    for index, p in enumerate(planned):
        keys = [("node", id(p.target.node.proto)), ("weight", p.target.key)]
        known = {id(groups[key]): groups[key] for key in keys if key in groups}
        merged = [i for group in known.values() for i in group] + [index]
        for i in merged:
            q = planned[i].target
            groups["node", id(q.node.proto)] = groups["weight", q.key] = merged
    found = {id(group): sorted(group) for group in groups.values()}
    yield from sorted(found.values())


def _in_form(own: Sequence[Planned], scheme: Scheme, job: Job) -> list[Planned] | None:
    """The same targets in another scheme; None where one of them has no kernel of it, or a slow one."""
    mix = {(p.target.name, p.target.slot): scheme for p in own}
    try:
        found, _ = assign([(_finding(p.rule), p.target) for p in own], job.options, job.provider, mix=mix)
    except SchemeError:
        return None
    return found if len(found) == len(own) else None


def _finding(rule: Rule) -> Rule:
    """The rule that finds a target, whose weight may be written by that of another format."""
    return PRODUCT_RULES[USUAL_FORMAT] if rule in PRODUCT_RULES.values() else rule


def _nbytes(planned: Sequence[Planned]) -> int:
    """Of weights, each counted once."""
    stored = {p.key: p for p in planned}
    return sum(p.storage.nbytes(p.target.n, p.target.k, p.kernel) for p in stored.values())
