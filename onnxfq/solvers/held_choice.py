"""What regularises the target of a stage's weights, chosen by the error on tokens that no moment is of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from onnxfq.arrays import Float32Array, Float64Array
from onnxfq.solvers.triangular import solve_lower
from onnxfq.statistics import Statistics
from onnxfq.system.threads import products_alone

_DAMPINGS = (0.03, 0.1, 0.3)  # beyond these codes become worse than the target becomes better
_FIRST = 1  # of these is tried first
_SHARES = np.linspace(0, 1, 21)


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


def choose_target(
    rows: Float32Array,
    statistics: Statistics,
    *,
    alpha: float | None = None,
    residual: float | None = None,
    damping: float | None = None,
) -> TargetChoice | None:
    """The target with the least error on held-back tokens; None where there are none, or nothing to make up for.

    Args:
        rows: [S, K], some rows of a stage's weights; the first are those that `Statistics.drift` is of.
        statistics: of the stage's inputs, with `held`.
        alpha: where it is given.
        residual: where it is given.
        damping: where it is given.
    """
    held, gram = statistics.held, statistics.gram
    if held is None or gram is None or len(held.inputs) < 2:
        return None
    size = float(gram.diagonal().mean())
    pulls = _pulls(rows, statistics, size) if size > 0 else {}
    if not pulls:
        return None
    with products_alone():
        wanted = (held.float_inputs - held.inputs) @ rows.T
        if held.drift is not None:
            wanted[:, : held.drift.shape[1]] += held.drift
        total = float(np.square(wanted, dtype=np.float64).sum())
        if not 0 < total < np.inf:
            return None
        shares = (
            _SHARES if alpha is None else np.array([alpha]),
            _SHARES if residual is None else np.array([residual]),
        )
        tried: dict[float, TargetChoice] = {}
        H = (gram / size).astype(np.float32)

        def loss(value: float) -> float:
            if value not in tried:
                tried[value] = _best_shares(H, value, pulls, held.inputs, wanted, total, shares)
            return tried[value].loss

        if damping is not None:
            loss(damping)
        else:
            _descend(loss)
    return min(tried.values(), key=lambda choice: choice.loss)


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


def _best_shares(
    H: Float32Array,
    damping: float,
    pulls: dict[str, Float32Array],
    inputs: Float32Array,
    wanted: npt.NDArray[np.floating],
    total: float,
    shares: tuple[Float64Array, Float64Array],
) -> TargetChoice:
    """The best shares of both pulls under one damping: a quadratic in two numbers."""
    damped = H.copy()
    damped[np.diag_indices_from(damped)] += np.float32(damping)
    try:
        lower = np.linalg.cholesky(damped)
    except np.linalg.LinAlgError:
        return TargetChoice(0.0, 0.0, damping, np.inf)
    made = {name: np.asarray(inputs @ solve_lower(lower, pull.T), np.float64) for name, pull in pulls.items()}
    own, other = made.get("own", np.zeros((len(inputs), 0))), made.get("residual", np.zeros((len(inputs), 0)))
    both = min(own.shape[1], other.shape[1])
    a, r = shares[0][:, None], shares[1][None, :]
    gained = 2 * (a * np.sum(own * wanted[:, : own.shape[1]]) + r * np.sum(other * wanted[:, : other.shape[1]]))
    mixed = np.sum(own[:, :both] * other[:, :both])
    loss = (total - gained + a**2 * np.sum(own**2) + r**2 * np.sum(other**2) + 2 * a * r * mixed) / total
    i, j = np.unravel_index(int(loss.argmin()), loss.shape)
    return TargetChoice(float(shares[0][i]), float(shares[1][j]), damping, float(loss[i, j]))
