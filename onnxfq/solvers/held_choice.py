"""What regularises the target of a stage's weights, chosen by the error on tokens that no moment is of."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from onnxfq.arrays import Float32Array, Float64Array
from onnxfq.solvers.curvature import factorize, factorized, forget_factor
from onnxfq.solvers.triangular import times_inverse
from onnxfq.statistics import Statistics
from onnxfq.system.threads import products_alone, spread

_DAMPINGS = (0.03, 0.1, 0.3)  # beyond these codes become worse than the target becomes better
_FIRST = 1  # of these is tried first
_SURE = 3.0  # standard errors by which a choice must be better than the usual one: tokens of a text are alike
_SHARES = np.linspace(0, 1, 21)
_PIECE = 32  # rows whose outputs one thread moves at once


@dataclass(frozen=True, slots=True)
class TargetChoice:
    """How a weight is moved to its real-valued target, `W + (α·W(G − H) + a·E[(r − r̃)x̃ᵀ])(H + λI)⁻¹`.

    Attributes:
        alpha: α, 0 to 1.
        residual: a, 0 to 1.
        damping: λ, in parts of the mean of the diagonal of `H`.
        loss: what it leaves on the held-back tokens, relative to what there is without it.
    """

    alpha: float
    residual: float
    damping: float
    loss: float


USUAL = TargetChoice(alpha=0.5, residual=0.5, damping=0.1, loss=1.0)  # where nothing tells surely what is better


def choose_target(
    rows: Float32Array,
    statistics: Statistics,
    *,
    alpha: float | None = None,
    residual: float | None = None,
    damping: float | None = None,
) -> TargetChoice | None:
    """The target with the least error on held-back tokens; the usual one where no other is surely better.

    None where there are no such tokens, or nothing to make up for.

    Args:
        rows: [S, K], some rows of a stage's weights; the first are those that `Statistics.drift` is of.
        statistics: of the stage's inputs, with `held`.
        alpha: where it is given.
        residual: where it is given.
        damping: where it is given.
    """
    held, gram = statistics.held, statistics.gram
    given = {"alpha": alpha, "residual": residual, "damping": damping}
    if held is None or gram is None or len(held.inputs) < 2:
        return None
    size = float(gram.diagonal().mean())
    pulls = _pulls(rows, statistics, size) if 0 < size < math.inf else {}
    if not pulls:
        return None
    with products_alone():
        wanted = (held.float_inputs - held.inputs) @ rows.T
        if held.drift is not None:
            wanted[:, : held.drift.shape[1]] += held.drift
        usual = replace(USUAL, **{name: value for name, value in given.items() if value is not None})
        tried = _Tried(statistics, pulls, held.inputs, wanted, given, usual.damping)
        if not 0 < tried.total < np.inf:
            return None
        if given["damping"] is None:
            _descend(tried.loss)
        best = min((tried.best(usual.damping), *tried.found), key=lambda choice: choice.loss)
        gains = tried.errors(usual) - tried.errors(best)
    surely = gains.mean() > _SURE * gains.std() / math.sqrt(len(gains))
    if surely and best.damping != usual.damping:
        forget_factor(statistics, usual.damping)
    return best if surely else replace(usual, loss=float(tried.errors(usual).sum() / tried.total))


def _descend(loss: Callable[[float], float]) -> None:
    """Try dampings from the usual one on, in the direction in which the loss falls."""
    for step in (1, -1):
        at = _FIRST
        while 0 <= at + step < len(_DAMPINGS) and loss(_DAMPINGS[at + step]) < loss(_DAMPINGS[at]):
            at += step
        if at != _FIRST:
            return


def _pulls(rows: Float32Array, statistics: Statistics, size: float) -> dict[str, Float32Array]:
    """What moves weights, not yet divided by the moments: by their own inputs' error, and by a residual's."""
    found: dict[str, Float32Array] = {}
    if statistics.cross is not None and statistics.gram is not None:
        own = rows @ ((statistics.cross - statistics.gram) / size).astype(np.float32)
        if own.any():
            found["own"] = own
    if statistics.drift is not None and statistics.drift.any():
        found["residual"] = (statistics.drift / size).astype(np.float32)
    return found


class _Tried:
    """What each damping that was tried leaves, with the best shares of both pulls under it."""

    def __init__(
        self,
        statistics: Statistics,
        pulls: Mapping[str, Float32Array],
        inputs: Float32Array,
        wanted: npt.NDArray[np.floating],
        given: Mapping[str, float | None],
        usual: float,
    ) -> None:
        self._statistics, self._wanted, self._usual = statistics, wanted, usual
        order = factorized(statistics, usual).order  # whoever solves wants that factor too, more often than not
        self._inputs = inputs[:, order]
        self._pulls = {name: np.ascontiguousarray(pull[:, order]) for name, pull in pulls.items()}
        self._shares = [_SHARES if (v := given[name]) is None else np.array([v]) for name in ("alpha", "residual")]
        self._moved: dict[float, tuple[Float64Array, Float64Array]] = {}
        self._best: dict[float, TargetChoice] = {}
        self.total = float(np.square(wanted, dtype=np.float64).sum())

    @property
    def found(self) -> list[TargetChoice]:
        """The best under each damping so far."""
        return list(self._best.values())

    def loss(self, damping: float) -> float:
        """The least under one damping."""
        return self.best(damping).loss

    def best(self, damping: float) -> TargetChoice:
        """The best shares under one damping: a quadratic in two numbers."""
        if damping not in self._best:
            own, other = self._moves(damping)
            a, r = self._shares[0][:, None], self._shares[1][None, :]
            gained = 2 * (a * np.sum(own * self._wanted) + r * np.sum(other * self._wanted))
            mixed = np.sum(own * other)
            loss = (
                self.total - gained + a**2 * np.sum(own**2) + r**2 * np.sum(other**2) + 2 * a * r * mixed
            ) / self.total
            i, j = np.unravel_index(int(loss.argmin()), loss.shape)
            self._best[damping] = TargetChoice(float(a[i, 0]), float(r[0, j]), damping, float(loss[i, j]))
        return self._best[damping]

    def errors(self, choice: TargetChoice) -> Float64Array:
        """What a choice leaves of each token, [tokens]."""
        own, other = self._moves(choice.damping)
        left = self._wanted - choice.alpha * own - choice.residual * other
        return np.asarray(np.square(left, dtype=np.float64).sum(axis=1))

    def _moves(self, damping: float) -> tuple[Float64Array, Float64Array]:
        """How both pulls move the outputs under a damping, [tokens, rows]."""
        if damping not in self._moved:
            find = factorized if damping == self._usual else factorize
            factor = find(self._statistics, damping).upper
            moved = {name: np.zeros(self._wanted.shape) for name in ("own", "residual")}
            for name, pull in self._pulls.items():
                spread(_move_outputs, -(-len(pull) // _PIECE), pull, factor, self._inputs, moved[name])
            self._moved[damping] = moved["own"], moved["residual"]
        return self._moved[damping]


def _move_outputs(
    begin: int, end: int, pull: Float32Array, factor: Float32Array, inputs: Float32Array, out: Float64Array
) -> None:
    """How some pieces of the rows move the outputs, [tokens, rows]."""
    for piece in range(begin, end):
        rows = slice(piece * _PIECE, min(len(pull), (piece + 1) * _PIECE))
        out[:, rows] = inputs @ times_inverse(pull[rows], factor).T
