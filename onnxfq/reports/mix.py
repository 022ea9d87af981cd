"""How bits were shared out among a model's weights within a budget, as a part of reports."""

from __future__ import annotations

from dataclasses import dataclass

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


@dataclass(frozen=True, slots=True)
class MixReport:
    """What was chosen for a model, and what it was held against.

    Attributes:
        budget: as it was given.
        limit_bytes: of the model's files; None where the error is the limit.
        kept: "mix", or "uniform" where one scheme for all weights was not worse.
        shares: of the mix, the most weights first.
        uniform: the best single scheme within the same bytes, in words.
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
