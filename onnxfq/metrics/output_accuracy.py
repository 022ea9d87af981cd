"""What is known of one output of a model beside the same of another."""

from __future__ import annotations

from dataclasses import dataclass

from onnxfq.metrics.likeness import ALIKE
from onnxfq.session import NOT_ARRAYS


@dataclass(frozen=True, slots=True)
class OutputAccuracy:
    """One output of the candidate against the reference's, over all feeds. All values are safe to write as JSON.

    None stands for a value that does not apply, or that is not finite; `note` then says why.

    Attributes:
        name: of the output.
        dtype: element type in the reference.
        elements: how many elements of the reference were compared.
        relative_mse: Σ(y−y₀)² / Σ(y₀−mean y₀)², the mean per feature (last axis) over all rows and feeds. Where every
            row is the same, and so this denominator 0, the mean is taken over all elements; where all elements are
            the same, the error is 0 if the candidate's are equal and otherwise infinite (None).
        cosine: mean over rows of the cosine between y and y₀ along the last axis.
        max_abs: largest |y−y₀|.
        kl: of outputs that are logits, mean over rows of KL(reference ‖ candidate) in nats, softmax over the last axis.
        top1: of outputs that are logits, the fraction of rows with the same largest element.
        equal: of outputs that are not floating-point, the fraction of equal elements.
        nonfinite: elements that are NaN or infinite in one model and different in the other.
        shared_nonfinite: elements that are NaN in both, or the same infinity; left out of all other values.
        note: what to know about these values; None where there is nothing.
        samples: how many feeds they come from, without those for which the reference gave no elements; 0: not known.
        variation: of the reference, how much changes from feed to feed: Σ(y₀−mean y₀)² / Σy₀², the mean per element
            over feeds; of outputs that are not floating-point, the fraction of elements that do. None where feeds
            give different shapes, or there is one feed.
        unmatched: feeds for which the two models gave shapes that differ along axes whose lengths follow from values
            (rows that were found, texts that were written), so that nothing can be held against each other.
        reached: whether a quantized weight reaches it; True where that is not known.
    """

    name: str
    dtype: str
    elements: int = 0
    relative_mse: float | None = None
    cosine: float | None = None
    max_abs: float | None = None
    kl: float | None = None
    top1: float | None = None
    equal: float | None = None
    nonfinite: int = 0
    shared_nonfinite: int = 0
    note: str | None = None
    samples: int = 0
    variation: float | None = None
    unmatched: int = 0
    reached: bool = True

    @property
    def is_float(self) -> bool:
        """Whether the elements are floating-point numbers."""
        return self.dtype.startswith(("float", "bfloat"))

    @property
    def is_empty(self) -> bool:
        """Whether there was nothing to compare: the reference gave no elements."""
        return self.elements == 0

    @property
    def is_compared(self) -> bool:
        """Whether there are figures of it that tell of quantized weights: arrays of equal shapes, with numbers in them.

        What is broken (missing, of a wrong shape, NaN in one model) counts too.
        """
        arrays = self.dtype not in NOT_ARRAYS and not self.is_empty and not self.unmatched
        return arrays and self.reached and (self.shared_nonfinite < self.elements or self.nonfinite > 0)

    @property
    def is_alike(self) -> bool:
        """Whether it hardly changes from feed to feed, so that an error says little of what the model is good for."""
        return self.variation is not None and (
            self.variation < ALIKE if self.is_float else self.variation == 0.0 and self.equal == 1.0
        )

    @property
    def is_unchanged(self) -> bool:
        """Whether both models gave the same, bit by bit or nearly so."""
        return self.equal == 1.0 if self.equal is not None else self.relative_mse == 0.0
