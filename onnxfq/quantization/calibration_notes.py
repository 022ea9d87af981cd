"""What the report says of samples that were left out, and of weights that few or none of them reached."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

from onnxfq.calibration.routes import MOST_ROUTES
from onnxfq.quantization.assign import Planned
from onnxfq.quantization.job import Job
from onnxfq.quantization.passage import PRIOR_TOKENS
from onnxfq.quantization.summary import predicted_bytes
from onnxfq.reports.report import TargetReport
from onnxfq.system.terminal import size_text

_LISTED = 5
WORTH_COPYING = 0.5  # of the source's size, at most, is the file with copies


def data_notes(
    dropped: Mapping[int, str],
    left: int,
    samples: int,
    reached: Sequence[TargetReport],
    unreached: Sequence[TargetReport],
) -> list[str]:
    """What to tell of the data.

    Args:
        dropped: samples that gave NaN or infinity, with the value in which they did.
        left: how many samples took none of the routes that were calibrated.
        samples: how many there were.
        reached: weights that calibration can reach.
        unreached: other products.
    """
    notes = []
    if dropped:
        listed = ", ".join(f"{sample + 1} (in '{name}')" for sample, name in sorted(dropped.items())[:_LISTED])
        notes.append(
            f"{len(dropped)} of {samples} samples gave NaN or infinity and were left out of calibration: {listed}."
        )
    if left:
        notes.append(
            f"{left} of {samples} samples were left out of calibration: more than {MOST_ROUTES} different ways lead "
            "through the model's branches. Give samples that take fewer."
        )
    free = [report for report in unreached if not report.tokens]  # others share a weight that data reached
    if free:
        notes.append(
            f"{_nodes(free)} quantized without data, out of calibration's reach: inside loops, local functions or "
            "branches that are undecided or name values as others do, behind an Einsum that sums over axes which are "
            f"not the last, inside MoE or LSTM, or with an input that no sample changes ({_listed(free)})."
        )
    own = [report for report in reached if not report.shares]
    missed = [report for report in own if not report.tokens]
    if missed:
        notes.append(f"{_nodes(missed)} quantized without data: no sample got that far ({_listed(missed)}).")
    few = [report for report in own if 0 < report.tokens <= PRIOR_TOKENS]
    if few and max(report.tokens for report in own) > PRIOR_TOKENS:
        notes.append(
            f"{_nodes(few)} calibrated with {PRIOR_TOKENS} tokens or fewer, such as experts that are seldom chosen; "
            f"the solver trusts them less ({_listed(few)}). More data would help these."
        )
    return notes


def sharing_note(job: Job, readers: Mapping[Hashable, Sequence[Planned]]) -> str | None:
    """That copies would bring the error down, and what they take; None where they would not be worth their bytes.

    Args:
        job: the model and what was decided.
        readers: of each weight that several stages of one route read.
    """
    sizes = {
        key: own[0].storage.nbytes(own[0].target.n, own[0].target.k, own[0].kernel) for key, own in readers.items()
    }
    copies = sum((len(own) - 1) * sizes[key] for key, own in readers.items())
    if not readers or predicted_bytes(job) + copies > job.graph.source_bytes * WORTH_COPYING:
        return None
    count = sum(map(len, readers.values()))
    what = "1 weight is" if len(readers) == 1 else f"{len(readers)} weights are"
    return (
        f"{what} read by {count} nodes, and fitted to all of them at once. A copy for each, {size_text(copies)} more, "
        "has a smaller error: `unshare=True`."
    )


def _nodes(reports: Sequence[TargetReport]) -> str:
    return "1 node was" if len(reports) == 1 else f"{len(reports)} nodes were"


def _listed(reports: Sequence[TargetReport]) -> str:
    more = len(reports) - _LISTED
    names = [f"'{report.name}'" + (f": {report.tokens}" if report.tokens else "") for report in reports[:_LISTED]]
    return ", ".join(names) + (f" and {more} more" if more > 0 else "")
