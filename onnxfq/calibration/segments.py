"""Which steps run between two stages, and what has to be kept from one to the next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from onnxfq.graph import Flow, Step


@dataclass(frozen=True, slots=True, eq=False)
class Segment:
    """What runs to reach one stage.

    Attributes:
        steps: in order, those that are run anew wherever they are wanted included.
        reads: values kept from earlier segments, or inputs of the model.
        keeps: values computed here that are wanted afterwards.
        frees: values that nobody wants after this segment.
    """

    steps: tuple[Step, ...]
    reads: tuple[str, ...]
    keeps: tuple[str, ...]
    frees: tuple[str, ...]


def cut(flow: Flow, wanted: Sequence[Sequence[str]]) -> list[Segment]:
    """Cut a model by its data flow alone: every step runs in the first segment that needs it, and in no other.

    Args:
        flow: the model's steps.
        wanted: for each segment the values that must be there after it.
    """
    done: set[int] = set()
    parts: list[list[Step]] = []
    for names in wanted:
        steps = [s for s in flow.ancestors(names) if id(s) not in done and not flow.static.issuperset(s.writes)]
        done.update(map(id, steps))
        parts.append(steps)
    last = _last_use(flow, parts, wanted)
    segments = []
    present: set[str] = set()
    for index, own in enumerate(parts):
        computed = {name for step in own for name in step.writes}
        static = _static(flow, own, wanted[index])
        kept = [name for step in own for name in step.writes if last.get(name, -1) > index or name in wanted[index]]
        reads = [name for name in _read(flow, [*static, *own]) if name not in computed]
        present |= {*kept, *reads}
        frees = [name for name in sorted(present) if last.get(name, -1) <= index]
        present.difference_update(frees)
        segments.append(Segment(flow.ordered([*static, *own]), tuple(reads), tuple(dict.fromkeys(kept)), tuple(frees)))
    return segments


def _static(flow: Flow, steps: Sequence[Step], wanted: Sequence[str]) -> list[Step]:
    """The steps that are run again, wherever they are wanted, that these need."""
    names = [name for step in steps for name in step.reads] + list(wanted)
    return [step for step in flow.ancestors([n for n in names if n in flow.static]) if _is_static(flow, step)]


def _is_static(flow: Flow, step: Step) -> bool:
    return bool(step.writes) and flow.static.issuperset(step.writes)


def _read(flow: Flow, steps: Sequence[Step]) -> list[str]:
    """Values that steps read: no constants, and nothing that is computed again."""
    names = dict.fromkeys(name for step in steps for name in step.reads)
    return [name for name in names if name not in flow.constants and name not in flow.static]


def _last_use(flow: Flow, parts: Sequence[Sequence[Step]], wanted: Sequence[Sequence[str]]) -> dict[str, int]:
    """The last segment that reads each value."""
    last: dict[str, int] = {}
    for index, own in enumerate(parts):
        for name in [*_read(flow, [*_static(flow, own, wanted[index]), *own]), *wanted[index]]:
            last[name] = index
    return last
