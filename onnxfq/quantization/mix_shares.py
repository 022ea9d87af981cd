"""A mix in words and figures: how many weights have which scheme."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable

from onnxfq.quantization.job import Job
from onnxfq.reports.mix import MixShare


def shares(job: Job) -> tuple[MixShare, ...]:
    """The schemes of a model's quantized weights, the one with the most weights first."""
    sizes: defaultdict[str, dict[Hashable, int]] = defaultdict(dict)
    for p in job.planned:
        sizes[p.scheme_text][p.key] = p.target.n * p.target.k
    found = [MixShare(scheme, len(own), sum(own.values())) for scheme, own in sizes.items()]
    return tuple(sorted(found, key=lambda share: -share.weights))


def mixed_text(job: Job) -> str:
    """The scheme of a mix in words: how many weights have which, the one with the most of the model first."""
    listed = (
        f"{share.targets} {'weight' if share.targets == 1 else 'weights'} in {share.scheme}" for share in shares(job)
    )
    return f"mixed: {'; '.join(listed)}"


def scheme_of_most(job: Job) -> str:
    """The scheme of most products, for one that has a single scheme; of most weights where there are no products."""
    products = [p.scheme_text for p in job.planned if p.rule.kind == "weights"]
    (most, _), *_ = Counter(products or [p.scheme_text for p in job.planned]).most_common(1)
    return most
