"""Of two files made from one model, the one that is nearer to it on data that neither has seen."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from onnxfq.metrics.output_accuracy import OutputAccuracy
from onnxfq.metrics.worst_outputs import worst_metrics
from onnxfq.reports.report import Report
from onnxfq.solvers import BEST_WITHOUT_DATA


@dataclass(frozen=True, slots=True)
class Judgement:
    """How far the two files are from the original.

    Attributes:
        metric: in words: "mean KL" of logits, else "relative MSE".
        ours: of the calibrated file, or of the mix; infinite where it has no finite error.
        other: of the file that it is held against.
    """

    metric: str
    ours: float
    other: float

    @property
    def calibration_helped(self) -> bool:
        """Whether the calibrated file is the nearer one."""
        return self.ours <= self.other

    def note(self, report: Report, *, kept: bool) -> str:
        """What to tell of a calibrated file and the one without data.

        Args:
            report: of the calibrated file.
            kept: whether the other one was kept.
        """
        samples = f"{max(output.samples for output in report.outputs)} {report.measured_on} samples"
        if self.calibration_helped:
            return (
                f"Without data the {self.metric} would be {_figure(self.other)} (kept: {_figure(self.ours)}, "
                f"calibrated), on {samples}."
            )
        found = (
            f"On {samples} the {self.metric} is {_figure(self.ours)} when calibrated and {_figure(self.other)} without "
            "data"
        )
        rest = (
            ", which was kept" if kept else f". With `algorithm=auto`, or `{BEST_WITHOUT_DATA}`, the better is written"
        )
        return f"CALIBRATION DID NOT HELP: {found}{rest}. More data of the kind that the model will meet would help."


def _figure(error: float) -> str:
    return f"{error:.3g}" if math.isfinite(error) else "infinite"


def compare_errors(with_data: Sequence[OutputAccuracy], without: Sequence[OutputAccuracy]) -> Judgement | None:
    """Hold the errors of two files against each other; None where neither has an error to compare."""
    unmatched = {output.name for output in (*with_data, *without) if output.unmatched}  # the others still tell
    kept = ([output for output in outputs if output.name not in unmatched] for outputs in (with_data, without))
    ours, other = ({m.name: m.value for m in worst_metrics(outputs)} for outputs in kept)
    has_kl = any(found.get("kl") is not None for found in (ours, other))  # one that is broken has nothing but names
    name, words = ("kl", "mean KL") if has_kl else ("relative_mse", "relative MSE")
    first, second = (math.inf if (value := found.get(name)) is None else value for found in (ours, other))
    return None if math.isinf(first) and math.isinf(second) else Judgement(words, first, second)


def take_files(other: Path, staged: Path, data_suffix: str = ".data") -> None:
    """Put a model's file, and its data file where it has one, in the place of another's of the same name.

    Args:
        other: the model that is taken.
        staged: the one whose place it takes.
        data_suffix: of data files, behind the names of models.
    """
    for kept, place in zip(_files(other, data_suffix), _files(staged, data_suffix), strict=True):
        place.unlink(missing_ok=True)
        if kept.exists():
            kept.rename(place)


def _files(model: Path, data_suffix: str) -> tuple[Path, Path]:
    return model, model.with_name(model.name + data_suffix)
