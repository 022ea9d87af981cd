"""Which mix to try, from what single exchanges did to the outputs: of several proposals the one that measures best."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from onnxfq.progress import Progress
from onnxfq.quantization.mix_choice import choose, monotone
from onnxfq.quantization.mix_exchange import Exchange
from onnxfq.quantization.mix_parts import Part
from onnxfq.quantization.mix_trial import AS_PLANNED

# Losses add up to more than what single exchanges cost: proposals differ in how much more is reckoned with.
CAUTION = (1.0, 2.0, 4.0)
_TRIES = 4  # of proposals whose files are larger than they were expected to be, or whose error is


@dataclass(frozen=True, slots=True)
class Proposal:
    """A mix that was measured, put together from weights that were solved in another model.

    Attributes:
        numbers: of the form of each part.
        predicted: its error, by the sum of single exchanges.
        error: as measured.
        nbytes: of its files.
    """

    numbers: tuple[int, ...]
    predicted: float
    error: float
    nbytes: int


@dataclass(frozen=True, slots=True)
class Sensitivities:
    """What single exchanges do.

    Attributes:
        exchange: measures them.
        base: the error of the model in which they were made.
        nbytes: of its files.
        costs: by part and number of the form, how much larger the error is with it.
    """

    exchange: Exchange
    base: float
    nbytes: int
    costs: Sequence[Mapping[int, float]]

    @classmethod
    def measure(cls, exchange: Exchange, progress: Progress) -> Sensitivities:
        """Exchange every part for each of its forms."""
        base, nbytes, errors = exchange.errors(progress)
        costs = [
            monotone({number: error - base for number, error in found.items()}, part.nbytes, AS_PLANNED)
            for part, found in zip(exchange.parts, errors, strict=True)
        ]
        return cls(exchange, base, nbytes, costs)

    @property
    def parts(self) -> Sequence[Part]:
        """What was exchanged."""
        return self.exchange.parts

    def within(self, limit: int) -> Proposal | None:
        """The mix with the smallest error in files of so many bytes; None where none is better than the model is."""
        found = [self._fitting(limit, caution) for caution in CAUTION]
        known = [proposal for proposal in found if proposal is not None]
        best = min(known, key=lambda proposal: proposal.error, default=None)
        return best if best is not None and (best.error < self.base or self.nbytes > limit) else None

    def _fitting(self, limit: int, caution: float) -> Proposal | None:
        excess = 0
        for _ in range(_TRIES):
            chosen = self._chosen(limit - excess, caution)
            if chosen is None:
                return None
            proposal = self._measured(chosen)
            if proposal.nbytes <= limit:
                return proposal
            excess += proposal.nbytes - limit
        return None

    def holding(self, error: float) -> Proposal | None:
        """The mix with the smallest files whose error is at most so large; None where none is known to hold."""
        wanted = error
        for _ in range(_TRIES):
            sizes = self._sizes()
            fitting = next((chosen for chosen in sizes if self._predicted(chosen) <= wanted), None)
            if fitting is None:
                return None
            proposal = self._measured(fitting)
            if proposal.error <= error:
                return proposal
            wanted *= error / proposal.error
        return None

    def _sizes(self) -> Iterator[list[int]]:
        """Mixes, each a little larger than the one before."""
        least, most = (sum(pick(part.nbytes.values()) for part in self.parts) for pick in (min, max))
        rest = self.nbytes - sum(part.nbytes[AS_PLANNED] for part in self.parts)
        for step in range(201):
            chosen = self._chosen(rest + least + (most - least) * step // 200, 1.0)
            if chosen is not None:
                yield chosen

    def _chosen(self, limit: int, caution: float) -> list[int] | None:
        """The form of each part by the knapsack: losses count more than gains by the factor of caution."""
        rest = self.nbytes - sum(part.nbytes[AS_PLANNED] for part in self.parts)
        costs = [{n: cost * (caution if cost > 0 else 1.0) for n, cost in own.items()} for own in self.costs]
        return choose(costs, [part.nbytes for part in self.parts], limit - rest)

    def _predicted(self, chosen: Sequence[int]) -> float:
        return self.base + sum(own[number] for own, number in zip(self.costs, chosen, strict=True))

    def _measured(self, chosen: Sequence[int]) -> Proposal:
        error, nbytes = self.exchange.error(dict(enumerate(chosen)))
        return Proposal(tuple(chosen), self._predicted(chosen), error, nbytes)
