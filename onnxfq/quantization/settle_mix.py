"""A mix of bits within a budget: chosen by what single weights do to the outputs, and held against a single scheme.

The model is made in the finest schemes that there are, each weight solved in all others besides. Weights are exchanged
one by one, and what that does to the outputs is measured. The mix that follows is solved as a whole, and so is the best
single scheme that fits; the mix is kept where it is clearly better on samples that neither calibrated nor chose.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from onnxfq.calibration.checkpoint import Checkpoint
from onnxfq.progress import Progress, silent
from onnxfq.quantization.data import Data
from onnxfq.quantization.job import Job
from onnxfq.quantization.keep_better import Judgement, compare_errors, take_files
from onnxfq.quantization.mix_error import MixError, finite
from onnxfq.quantization.mix_exchange import Exchange
from onnxfq.quantization.mix_judge import Judge
from onnxfq.quantization.mix_limits import refuse_unreachable, too_large
from onnxfq.quantization.mix_parts import bundled, find_parts, mix_of, uniform_forms
from onnxfq.quantization.mix_sensitivities import Proposal, Sensitivities
from onnxfq.quantization.mix_shares import mixed_text, scheme_of_most, shares
from onnxfq.quantization.mix_trial import MixTrial
from onnxfq.quantization.plan import plan_again
from onnxfq.quantization.validate import judge
from onnxfq.reports.mix import MIXED, UNIFORM, MixReport
from onnxfq.reports.report import Report


class Write(Protocol):
    """Solves, writes and verifies one file."""

    def __call__(
        self, job: Job, place: Path, data: Data, checkpoint: Checkpoint | None, /, *, progress: Progress
    ) -> Report:
        """The report, with nothing compared yet."""


MOST_EXCHANGES = 120  # more would take longer than all the rest; what is bundled does not depend on the machine
_TRIES = 3  # of mixes for an error, each solved anew
_AIM, _USED_UP = 0.97, 0.9  # parts of the error that is allowed
_CLEARLY = 0.97  # of the single scheme's error: where less is gained, other samples may tell otherwise
_SLACK = 384  # bytes by which a mix may be larger than one put together: what its metadata say of its schemes


@dataclass(frozen=True, slots=True)
class Made:
    """A finished file.

    Attributes:
        job: by which it was made.
        report: with nothing compared yet.
        place: the file.
        error: on the samples that a mix is chosen by.
    """

    job: Job
    report: Report
    place: Path
    error: float

    @property
    def nbytes(self) -> int:
        """Of all its files."""
        return self.report.size.output_bytes


class MixSearch:
    """Makes files of one model until the best within a budget is found.

    Args:
        job: the model and what was decided, in the usual scheme.
        data: what it is calibrated with, chosen by and judged on.
        name: of the file.
        folder: takes all that is tried.
        write: solves, writes and verifies a file.
        progress: told about every step.
    """

    def __init__(self, job: Job, data: Data, name: str, folder: Path, write: Write, progress: Progress) -> None:
        assert data.choosing is not None
        self._job, self._data, self._name, self._folder = job, data, name, folder
        self._write, self._progress, self._choosing = write, progress, data.choosing
        self._measure = MixError.of(job.options)
        self._judge = Judge(job.graph, data.choosing, self._measure)

    def find(self) -> Made:
        """The best file, whose report says what it was held against."""
        finest, known = self._make_finest()
        limit = None if self._job.limit is None else self._job.limit - max(0, finest.nbytes - known.nbytes)
        self._progress("putting mixes together", 0, 1)
        single = self._single(known, limit)
        whole = not any(single.numbers) and not self._job.solver.scales_inputs  # a trial scales none
        uniform = finest if whole else self._solve(finest.job, known, single, UNIFORM)
        found = list(self._make_mixes(finest.job, known, single, limit))
        shutil.rmtree(self._folder / "trial")
        mix, proposal = self._best(found)
        judged = None if mix is None else self._judged(mix, uniform)
        kept = mix if mix is not None and self._is_better(mix, uniform, judged) else uniform
        if not self._fits(kept):
            raise too_large(self._job, kept.nbytes)
        about = self._about(uniform, mix, kept, proposal, judged, known)
        return replace(kept, report=replace(kept.report, mixes=(about,)))

    def _make_finest(self) -> tuple[Made, Sensitivities]:
        """The model with the largest form of each part, all others solved besides, and what each of them does in it.

        In a model that is nearly exact, errors of single weights add up; where all are coarse, later weights make up
        for what earlier ones did wrong, and fit no better ones.
        """
        parts, _ = find_parts(self._job)
        job = plan_again(self._job, mix=mix_of(self._job, parts, {i: part.largest for i, part in enumerate(parts)}))
        parts, forms = find_parts(job)
        trial = MixTrial(job.graph, _emptied(self._folder / "trial"), forms)
        made = self._make(replace(job, trial=trial), "finest", "all schemes, in the finest of them")
        place = self._place("exchange")
        _emptied(place.parent)
        self._tell_hopeless(made)
        bundles = bundled(job, parts, MOST_EXCHANGES)
        exchange = Exchange(job, trial, bundles, self._judge, place)
        return made, Sensitivities.measure(exchange, self._progress)

    def _tell_hopeless(self, finest: Made) -> None:
        """Say, long before the end, that hardly any mix keeps the error that is allowed."""
        if self._measure.limits and finest.error > 1:
            times = f"{finest.error:.3g} times" if finite(finest.error) else "more than"
            self._progress(
                f"With all weights in their finest schemes the error is {times} what is allowed: hardly any mix keeps "
                "that. The run goes on to what is nearest; what can be kept is a larger `max_error` or `max_kl`.",
                0,
                0,
            )

    def _single(self, known: Sensitivities, limit: int | None) -> Proposal:
        """The single scheme that a mix is held against.

        That is the largest within the size, with tables of 8 bits if there is one; or the smallest within the error.
        Where none is, it is the nearest to that.
        """
        found = []
        for numbers in uniform_forms(self._job.options, known.parts):
            found.append(known.propose(numbers))
            if limit is not None and found[-1].nbytes <= limit:
                return found[-1]
        if limit is not None:
            return min(found, key=lambda single: single.nbytes)
        return min(found, key=lambda single: (max(1.0, single.error), single.nbytes))

    def _make_mixes(
        self, job: Job, known: Sensitivities, single: Proposal, limit: int | None
    ) -> Iterator[tuple[Made, Proposal]]:
        """Mixes as they are proposed, each solved as a whole; several only where the error is the limit."""
        if limit is not None:
            self._progress("putting mixes together", 0, 1)
            proposal = known.within(limit - _SLACK)
            if proposal is not None and (proposal.error < single.error or single.nbytes > limit):
                yield self._solve(job, known, proposal, "mix"), proposal
            return
        wanted = 1.0  # of the error that is allowed, when put together: solving repairs a part
        for number in range(_TRIES):
            self._progress("putting mixes together", 0, 1)
            proposal = known.holding(wanted)
            if proposal is None:
                return
            made = self._solve(job, known, proposal, f"mix{number}")
            yield made, proposal
            if _USED_UP < made.error <= 1.0:
                return
            wanted *= min(4.0, max(0.25, _AIM / made.error if made.error else 4.0))

    def _solve(self, job: Job, known: Sensitivities, proposal: Proposal, name: str) -> Made:
        """What was put together, solved as a whole."""
        mix = mix_of(job, known.parts, dict(enumerate(proposal.numbers)))
        planned = plan_again(replace(job, trial=None), mix=mix)
        if name == UNIFORM:
            return self._make(planned, name, f"one scheme ({scheme_of_most(planned)})")
        return self._make(replace(planned, scheme=mixed_text(planned)), name, "the mix")

    def _best(self, found: list[tuple[Made, Proposal]]) -> tuple[Made | None, Proposal | None]:
        fitting = [pair for pair in found if self._fits(pair[0])]
        if not fitting:
            return None, None
        return min(fitting, key=lambda pair: self._rank(pair[0]))

    def _rank(self, made: Made) -> tuple[float, float]:
        """Which of several files is wanted: within a size the nearest, within an error the smallest that holds."""
        if self._job.limit is not None:
            return made.error, made.nbytes
        return max(1.0, made.error), made.nbytes

    def _is_better(self, mix: Made, uniform: Made, judged: Judgement | None) -> bool:
        if self._job.limit is None:
            return self._rank(mix) < self._rank(uniform)
        if not self._fits(uniform):
            return True
        clearly = judged is not None and judged.ours < _CLEARLY * judged.other
        return clearly and mix.error < uniform.error

    def _fits(self, made: Made) -> bool:
        return self._job.limit is None or made.nbytes <= self._job.limit

    def _make(self, job: Job, name: str, what: str) -> Made:
        """Solve and write one file."""
        place = self._place(name)
        _emptied(place.parent)
        checkpoint = None
        if self._data.calibration is not None:
            checkpoint = Checkpoint(_emptied(self._folder / "work"), {}, resume=False)

        def told(step: str, done: int, total: int) -> None:
            self._progress(f"{what}: {step}", done, total)

        report = self._write(job, place, self._data, checkpoint, progress=told)
        told("measuring", 0, 1)
        return Made(job, report, place, self._judge.error(place))

    def _place(self, name: str) -> Path:
        return self._folder / name / self._name

    def _judged(self, mix: Made, uniform: Made) -> Judgement | None:
        """Both on samples that neither calibrated nor chose."""
        comparison = self._data.comparison
        if comparison is None:
            return None
        self._progress("comparing the mix with one scheme", 0, 1)
        ours, other = (judge(self._job.graph, made.place, comparison, silent) for made in (mix, uniform))
        if self._measure.limits:
            return Judgement(self._measure.metric, *(self._measure.in_its_metric(found) for found in (ours, other)))
        return compare_errors(ours, other)

    def _about(
        self,
        uniform: Made,
        mix: Made | None,
        kept: Made,
        proposal: Proposal | None,
        judged: Judgement | None,
        known: Sensitivities,
    ) -> MixReport:
        return MixReport(
            budget=str(self._job.options.target_size),
            limit_bytes=self._job.limit,
            kept=UNIFORM if kept is uniform else MIXED,
            shares=() if mix is None else shares(mix.job),
            uniform=scheme_of_most(uniform.job),
            metric=judged.metric if judged is not None else "",
            predicted=None if proposal is None else self._measure.figure(proposal.predicted),
            chosen_error=None if mix is None else self._measure.figure(mix.error),
            mix_error=None if judged is None else finite(judged.ours),
            uniform_error=None if judged is None else finite(judged.other),
            mix_bytes=None if mix is None else mix.nbytes,
            uniform_bytes=uniform.nbytes,
            measured=sum(len(part.schemes) - 1 for part in known.parts),
            samples=len(self._choosing.inputs.feeds),
        )


def _emptied(folder: Path) -> Path:
    """An empty folder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def settle_mix(job: Job, data: Data, staged: Path, write: Write, progress: Progress) -> Made:
    """Make a model within its budget.

    Args:
        job: the model and what was decided, in the usual scheme.
        data: what it is calibrated with, chosen by and judged on.
        staged: where the file goes.
        write: solves, writes and verifies a file.
        progress: told about every step.

    Raises:
        UsageError: not even the smallest mix fits: weights that were to be stored small stay in float.
    """
    refuse_unreachable(job)
    folder = staged.with_name(f"{staged.name}.mix")
    try:
        made = MixSearch(job, data, staged.name, folder, write, progress).find()
        take_files(made.place, staged, job.options.data_suffix)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if data.choosing is not None:
            data.choosing.close()
    return replace(made, report=replace(made.report, output=str(staged)), place=staged)
