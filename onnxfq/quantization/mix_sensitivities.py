"""Which mix to try, from what single exchanges did to the outputs: of several proposals the one that measures best."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from onnxfq.progress import Progress
from onnxfq.quantization.mix_exchange import Exchange
from onnxfq.quantization.mix_knapsack import choose, monotone
from onnxfq.quantization.mix_parts import MixPart
from onnxfq.quantization.mix_trial import AS_PLANNED

_LEAST_BITS = (2, 4)  # of proposals: errors of 2 bits are large, and add up to more or less than they are alone
_TRIES = 4  # of a proposal whose files are larger than they were expected to be, or whose error is
_SIZES = 200  # that are looked at for the smallest whose error holds


@dataclass(frozen=True, slots=True)
class Proposal:
    """A mix, or a single scheme, put together from weights that were solved in another model.

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
            monotone({number: error - base for number, error in found.items()}, part.nbytes)
            for part, found in zip(exchange.parts, errors, strict=True)
        ]
        return cls(exchange, base, nbytes, costs)

    @property
    def parts(self) -> Sequence[MixPart]:
        """What was exchanged."""
        return self.exchange.parts

    def propose(self, numbers: Sequence[int]) -> Proposal:
        """Measure a mix."""
        error, nbytes = self.exchange.error(dict(enumerate(numbers)))
        return Proposal(tuple(numbers), self._predicted(numbers), error, nbytes)

    def within(self, limit: int) -> Proposal | None:
        """The mix with the smallest error in files of so many bytes; None where none is so small."""
        found = [self._fitting(limit, bits) for bits in _LEAST_BITS]
        return min((one for one in found if one is not None), key=lambda one: one.error, default=None)

    def holding(self, error: float) -> Proposal | None:
        """The mix with the smallest files whose error is at most so large; None where none is known to hold."""
        wanted = error
        for _ in range(_TRIES):
            fitting = next((chosen for chosen in self._sizes() if self._predicted(chosen) <= wanted), None)
            if fitting is None:
                return None
            proposal = self.propose(fitting)
            if proposal.error <= error:
                return proposal
            wanted *= error / proposal.error
        return None

    def _fitting(self, limit: int, bits: int) -> Proposal | None:
        excess = 0
        for _ in range(_TRIES):
            chosen = self._chosen(limit - excess, bits)
            if chosen is None:
                return None
            proposal = self.propose(chosen)
            if proposal.nbytes <= limit:
                return proposal
            excess += proposal.nbytes - limit
        return None

    def _sizes(self) -> Iterator[list[int]]:
        """Mixes, each a little larger than the one before."""
        least, most = (sum(pick(part.nbytes.values()) for part in self.parts) for pick in (min, max))
        for step in range(_SIZES + 1):
            chosen = self._chosen(self._rest + least + (most - least) * step // _SIZES, min(_LEAST_BITS))
            if chosen is not None:
                yield chosen

    @property
    def _rest(self) -> int:
        """Bytes of the files that stay what they are."""
        return self.nbytes - sum(part.nbytes[AS_PLANNED] for part in self.parts)

    def _chosen(self, limit: int, bits: int) -> list[int] | None:
        """The form of each part by the knapsack, none of fewer bits, but where a part has no other."""
        sizes = [_of_bits(part, bits) for part in self.parts]
        return choose(self.costs, sizes, limit - self._rest)

    def _predicted(self, chosen: Sequence[int]) -> float:
        return self.base + sum(own[number] for own, number in zip(self.costs, chosen, strict=True))


def _of_bits(part: MixPart, bits: int) -> dict[int, int]:
    """The sizes of a part's forms that have so many bits."""
    found = {number: size for number, size in part.nbytes.items() if part.schemes[number].bits >= bits}
    return found or dict(part.nbytes)
