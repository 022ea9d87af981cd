"""How bits were shared out among a model's weights within a budget, as a part of reports."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from onnxfq.reports.figures import figure_text
from onnxfq.system.terminal import size_text

MIXED, UNIFORM = "mix", "uniform"


@dataclass(frozen=True, slots=True)
class MixShare:
    """Weights of a mix that have one scheme.

    Attributes:
        scheme: in words.
        targets: how many weights.
        weights: how many numbers these are.
    """

    scheme: str
    targets: int
    weights: int

    def share_of(self, shares: Iterable[MixShare]) -> float:
        """The part of all weights."""
        return self.weights / max(1, sum(share.weights for share in shares))


@dataclass(frozen=True, slots=True)
class MixReport:
    """What was chosen for a model, and what it was held against.

    Attributes:
        budget: as it was given.
        limit_bytes: of the model's files; None where the error is the limit.
        kept: "mix" where that was clearly better, else "uniform", one scheme for all weights.
        shares: of the mix, the most weights first.
        uniform: the single scheme that it was held against, in words.
        metric: in words: "mean KL" of logits, else "relative MSE".
        predicted: error of the mix on the samples that it was chosen by, as expected from single exchanges; None where
            no mix was tried.
        chosen_error: of the mix on these samples, as it was written; None likewise.
        mix_error: of the mix on the samples that the output is judged on; None where none was judged.
        uniform_error: of the single scheme on the same samples; None likewise.
        mix_bytes: of its files; None where no mix was written.
        uniform_bytes: of its files.
        measured: how many models were measured to choose it.
        samples: that it was chosen by.
        model: the file it belongs to, where there are several.
    """

    budget: str
    limit_bytes: int | None
    kept: str
    shares: tuple[MixShare, ...]
    uniform: str
    metric: str
    predicted: float | None
    chosen_error: float | None
    mix_error: float | None
    uniform_error: float | None
    mix_bytes: int | None
    uniform_bytes: int
    measured: int
    samples: int
    model: str = ""

    def __str__(self) -> str:
        """For people: what was chosen, what that is worth, and against what it was held."""
        limit = f", {size_text(self.limit_bytes)}" if self.limit_bytes is not None and "%" in self.budget else ""
        within = f"Within {self.budget}{limit}" if self.limit_bytes is not None else "Smallest within the limit"
        head = f"{self.model + ': ' if self.model else ''}{within}"
        single = f"one scheme for all, {self.uniform} ({size_text(self.uniform_bytes)})"
        if self.mix_bytes is None:
            better = "better" if self.limit_bytes is not None else "smaller and kept the limit"
            return f"{head}: {single}; of {self.measured} exchanges of single weights, no mix of them was {better}."
        listed = ", ".join(
            f"{share.share_of(self.shares):.0%} of the weights in {share.scheme}" for share in self.shares
        )
        mixed = f"a mix ({size_text(self.mix_bytes)}): {listed}"
        kept, other = (mixed, single) if self.kept == MIXED else (single, mixed)
        errors = {MIXED: self.mix_error, UNIFORM: self.uniform_error}
        held = UNIFORM if self.kept == MIXED else MIXED
        return f"{head}: {kept}{self._error(errors[self.kept])}. Held against it: {other}{self._error(errors[held])}."

    def _error(self, error: float | None) -> str:
        return "" if error is None else f", {self.metric} {figure_text(error)}"
