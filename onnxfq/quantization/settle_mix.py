"""A mix of bits within a budget: chosen by what single weights do to the outputs, and held against a single scheme.

The model is made with the best single scheme that fits, each weight solved in further schemes besides. Weights are then
exchanged one by one, and what that does to the outputs is measured. The mix that follows is solved anew, as a whole;
of both files the better is kept, judged on samples that neither calibrated nor chose.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path

from onnxfq.calibration.checkpoint import Checkpoint
from onnxfq.progress import Progress, silent
from onnxfq.quantization.assign import Mix
from onnxfq.quantization.data import Data
from onnxfq.quantization.job import Job
from onnxfq.quantization.keep_better import Judgement, compare_errors, take_files
from onnxfq.quantization.mix_error import MixError, finite
from onnxfq.quantization.mix_exchange import Exchange
from onnxfq.quantization.mix_judge import Judge
from onnxfq.quantization.mix_limits import refuse_unreachable, too_large, uniform_mixes
from onnxfq.quantization.mix_parts import bundled, find_parts, mix_of
from onnxfq.quantization.mix_search import Proposal, Sensitivities
from onnxfq.quantization.mix_shares import scheme_of_most, shares
from onnxfq.quantization.mix_trial import Trial
from onnxfq.quantization.plan import plan_again
from onnxfq.quantization.validate import judge
from onnxfq.quantization.write_model import write_model
from onnxfq.reports.mix import MIXED, UNIFORM, MixReport
from onnxfq.reports.report import Report

MOST_EXCHANGES = 120  # more would take longer than all the rest; what is bundled does not depend on the machine
_TRIES = 3  # of mixes for an error, each solved anew
_AIM, _USED_UP = 0.97, 0.9  # parts of the error that is allowed
_SLACK = 256  # bytes by which a file may be larger than one put together: its metadata


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
        source_hash: of the model.
        progress: told about every step.
    """

    def __init__(
        self, job: Job, data: Data, name: str, folder: Path, source_hash: Future[str], progress: Progress
    ) -> None:
        assert data.choosing is not None
        self._job, self._data, self._name, self._folder = job, data, name, folder
        self._source_hash, self._progress, self._choosing = source_hash, progress, data.choosing
        self._measure = MixError.of(job.options)
        wanted = self._measure.wanted(job.graph.signature.outputs)
        self._judge = Judge(job.graph, data.choosing, wanted, silent)

    def find(self) -> Made:
        """The best file, whose report says what it was held against."""
        uniform, exchange = self._make_uniform()
        sensitivities = Sensitivities.measure(exchange, self._progress)
        found = list(self._make_mixes(uniform, sensitivities))
        shutil.rmtree(self._folder / "trial")
        mix, proposal = self._best(found)
        judged = None if mix is None else self._judged(mix, uniform)
        kept = mix if mix is not None and self._is_better(mix, uniform, judged) else uniform
        if not self._fits(kept):
            raise too_large(self._job, kept.nbytes)
        about = self._about(uniform, mix, kept, proposal, judged, exchange)
        return replace(kept, report=replace(kept.report, mixes=(about,)))

    def _make_uniform(self) -> tuple[Made, Exchange]:
        """The best single scheme within the size, and what exchanges parts of it."""
        smaller = [mix for nbytes, mix in uniform_mixes(self._job) if nbytes <= (self._job.limit or nbytes)]
        candidates = smaller if self._job.limit else [self._job.mix]
        for mix in candidates:
            made, exchange = self._try_uniform(mix)
            if self._fits(made) or mix is candidates[-1]:
                return made, exchange
        return self._try_uniform(uniform_mixes(self._job)[-1][1])

    def _try_uniform(self, mix: Mix) -> tuple[Made, Exchange]:
        job = plan_again(self._job, mix=mix)
        parts, forms = find_parts(job)
        parts = bundled(job, parts, MOST_EXCHANGES)
        trial = Trial(job.graph, _made_anew(self._folder / "trial"), forms)
        made = self._make(replace(job, trial=trial), "uniform", f"one scheme for all ({scheme_of_most(job)})")
        place = self._place("exchange")
        _made_anew(place.parent)
        return made, Exchange(job, trial, parts, self._judge, self._measure, place)

    def _make_mixes(self, uniform: Made, known: Sensitivities) -> Iterator[tuple[Made, Proposal]]:
        """Mixes as they are proposed, each solved as a whole; several only where the error is the limit."""
        if self._job.limit:
            proposal = known.within(self._job.limit - max(0, uniform.nbytes - known.nbytes) - _SLACK)
            if proposal is not None:
                yield self._solve(uniform.job, known, proposal), proposal
            return
        wanted = 1.0  # of the error that is allowed, when put together: solving repairs a part
        for number in range(_TRIES):
            proposal = known.holding(wanted)
            if proposal is None:
                return
            made = self._solve(uniform.job, known, proposal, number)
            yield made, proposal
            if _USED_UP < made.error <= 1.0:
                return
            wanted *= min(4.0, max(0.25, _AIM / made.error if made.error else 4.0))

    def _solve(self, job: Job, known: Sensitivities, proposal: Proposal, number: int = 0) -> Made:
        mix = mix_of(job, known.parts, dict(enumerate(proposal.numbers)))
        return self._make(plan_again(replace(job, trial=None), mix=mix), f"mix{number}", "the mix")

    def _best(self, found: list[tuple[Made, Proposal]]) -> tuple[Made | None, Proposal | None]:
        fitting = [pair for pair in found if self._fits(pair[0])]
        if not fitting:
            return None, None
        return min(fitting, key=lambda pair: self._rank(pair[0]))

    def _rank(self, made: Made) -> tuple[float, float]:
        """Which of several files is wanted: within a size the nearest, within an error the smallest that holds."""
        if self._job.limit:
            return made.error, made.nbytes
        return max(1.0, made.error), made.nbytes

    def _is_better(self, mix: Made, uniform: Made, judged: Judgement | None) -> bool:
        if not self._job.limit:
            return self._rank(mix) < self._rank(uniform)
        return not self._fits(uniform) or (judged is not None and judged.ours < judged.other)

    def _fits(self, made: Made) -> bool:
        return not self._job.limit or made.nbytes <= self._job.limit

    def _make(self, job: Job, name: str, what: str) -> Made:
        """Solve and write one file."""
        place = self._place(name)
        _made_anew(place.parent)
        checkpoint = None
        if self._data.calibration is not None:
            checkpoint = Checkpoint(_made_anew(self._folder / "work"), {}, resume=False)

        def told(step: str, done: int, total: int) -> None:
            self._progress(f"{what}: {step}", done, total)

        report = write_model(job, place, self._data, checkpoint, self._source_hash, told)
        return Made(job, report, place, self._measure(self._judge.outputs(place)))

    def _place(self, name: str) -> Path:
        return self._folder / name / self._name

    def _judged(self, mix: Made, uniform: Made) -> Judgement | None:
        """Both on samples that neither calibrated nor chose."""
        comparison = self._data.comparison
        if comparison is None:
            return None
        ours, other = (judge(self._job.graph, made.place, comparison, silent) for made in (mix, uniform))
        return compare_errors(ours, other)

    def _about(
        self,
        uniform: Made,
        mix: Made | None,
        kept: Made,
        proposal: Proposal | None,
        judged: Judgement | None,
        exchange: Exchange,
    ) -> MixReport:
        measured = sum(len(part.schemes) - 1 for part in exchange.parts)
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
            measured=measured,
            samples=len(self._choosing.inputs.feeds),
        )


def _made_anew(folder: Path) -> Path:
    """An empty folder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def settle_mix(job: Job, data: Data, staged: Path, source_hash: Future[str], progress: Progress) -> Made:
    """Make a model within its budget.

    Args:
        job: the model and what was decided, in the usual scheme.
        data: what it is calibrated with, chosen by and judged on.
        staged: where the file goes.
        source_hash: of the model.
        progress: told about every step.

    Raises:
        UsageError: not even the smallest mix fits: weights that were to be stored small stay in float.
    """
    refuse_unreachable(job)
    folder = staged.with_name(f"{staged.name}.mix")
    try:
        made = MixSearch(job, data, staged.name, folder, source_hash, progress).find()
        take_files(made.place, staged, job.options.data_suffix)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if data.choosing is not None:
            data.choosing.close()
    return replace(made, report=replace(made.report, output=str(staged)), place=staged)
