"""How large a model may become, and what of it must be known before any long work."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from onnxfq.errors import UsageError
from onnxfq.quantization.job import Job
from onnxfq.quantization.mix_parts import MixPart, find_parts, mix_of, uniform_forms
from onnxfq.quantization.mix_trial import AS_PLANNED
from onnxfq.quantization.plan import plan_again
from onnxfq.quantization.summary import predicted_bytes
from onnxfq.system.terminal import size_text


def with_limits(jobs: Sequence[Job]) -> list[Job]:
    """Each model with the bytes that it may have: bytes for all together are shared out as those of the sources are.

    Raises:
        UsageError: not even the smallest mix is so small.
    """
    total = sum(job.graph.source_bytes for job in jobs)
    return [_with_limit(job, total) for job in jobs]


def _with_limit(job: Job, total: int) -> Job:
    wanted = job.options.size_target
    limit = None if wanted is None else wanted.limit(job.graph.source_bytes, total)
    limited = replace(job, limit=limit)
    refuse_unreachable(limited)
    return limited


def refuse_unreachable(job: Job) -> None:
    """Refuse a limit that not even the smallest mix keeps.

    Raises:
        UsageError: with what it has.
    """
    if job.limit is None or not job.planned:
        return
    parts, _ = find_parts(job)
    least = _resized(job, {i: part.smallest for i, part in enumerate(parts)}, parts)
    if least > job.limit:
        raise too_large(job, least)


def too_large(job: Job, least: int) -> UsageError:
    """That a model cannot be made as small as was asked for.

    Args:
        job: with its limit.
        least: bytes of the smallest file.
    """
    source = job.graph.source_bytes
    return UsageError(
        f"'{job.graph.path}' cannot be made as small as that (got `target_size={job.options.target_size}`, "
        f"{size_text(job.limit or 0)} of {size_text(source)}): the smallest file has about {size_text(least)}, "
        f"{math.ceil(1000 * least / source) / 10}% of the source. Give that or more."
    )


def within_limit(job: Job) -> Job:
    """The same in the largest single scheme that is expected to fit: what can be said without measuring a mix."""
    if job.limit is None or not job.planned:
        return job
    parts, _ = find_parts(job)
    known = [dict(enumerate(numbers)) for numbers in uniform_forms(job.options, parts)]
    fitting = next((numbers for numbers in known if _resized(job, numbers, parts) <= job.limit), known[-1])
    return plan_again(job, mix=mix_of(job, parts, fitting))


def bytes_tried(job: Job) -> int:
    """Bytes of all files that a mix is chosen from, at most; 0 where none is chosen.

    Each weight in every scheme; the finest model, and one in which weights are exchanged; the single scheme and the
    mix, which are no larger than the limit, or than the finest.
    """
    if job.options.target_size is None:
        return 0
    parts, _ = find_parts(job)
    finest = _resized(job, {i: part.largest for i, part in enumerate(parts)}, parts)
    largest = finest if job.limit is None else min(finest, job.limit)
    return sum(sum(part.nbytes.values()) for part in parts) + 2 * finest + 2 * largest


def _resized(job: Job, numbers: dict[int, int], parts: Sequence[MixPart]) -> int:
    """The bytes of the model's files with parts in these forms."""
    return predicted_bytes(job) + sum(parts[i].nbytes[n] - parts[i].nbytes[AS_PLANNED] for i, n in numbers.items())
