"""What exchanging the scheme of single weights does to the outputs of a quantized model, measured one by one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from onnxfq.progress import Progress, Steps
from onnxfq.quantization.job import Job
from onnxfq.quantization.mix_assemble import assemble
from onnxfq.quantization.mix_judge import Judge
from onnxfq.quantization.mix_parts import MixPart, mix_of
from onnxfq.quantization.mix_trial import AS_PLANNED, MixTrial
from onnxfq.quantization.plan import plan_again

Numbers = Mapping[int, int]
"""Numbers of forms by the position of the part."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """Models that differ from a run's in the schemes of some parts.

    Attributes:
        job: of the run, as it was before; its graph may have been changed.
        trial: what was solved along with it.
        parts: that have a choice.
        judge: measures models.
        place: a file to try them with; nothing stays of it.
    """

    job: Job
    trial: MixTrial
    parts: Sequence[MixPart]
    judge: Judge
    place: Path

    def error(self, numbers: Numbers) -> tuple[float, int]:
        """The error of a model with parts in other forms, and the bytes of its files."""
        job = plan_again(replace(self.job, trial=None), mix=mix_of(self.job, self.parts, numbers))
        members = {index: number for part, number in numbers.items() for index in self.parts[part].members}
        files = assemble(job, self.trial, members, self.place)
        try:
            nbytes = sum(file.stat().st_size for file in files)
            return self.judge.error(self.place), nbytes
        finally:
            for file in files:
                file.unlink()

    def errors(self, progress: Progress) -> tuple[float, int, list[dict[int, float]]]:
        """The error of the run's own model and its bytes, and of each part in each form the error with it exchanged."""
        base, nbytes = self.error({})
        count = sum(len(part.schemes) - 1 for part in self.parts)
        steps = Steps(progress, "measuring what single weights do to the outputs", count)
        found = []
        for position, part in enumerate(self.parts):
            errors = {AS_PLANNED: base}
            for number in part.schemes:
                if number != AS_PLANNED:
                    steps()
                    errors[number] = self.error({position: number})[0]
            found.append(errors)
        steps.finish()
        return base, nbytes, found
