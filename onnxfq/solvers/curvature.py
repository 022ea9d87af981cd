"""What calibration says of the objective, in the form that solving needs; the same for all weights of one stage."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from onnxfq.arrays import Float32Array, Float64Array
from onnxfq.solvers.triangular import inverse_of_root
from onnxfq.statistics import Statistics

_FACTOR = "factor"
_SMALLEST_DAMPING = 1e-4  # where none is asked for and the factorisation fails
_SMALLEST_CURVATURE = 1e-6  # of a column that no input reaches: its codes still go to the nearest


@dataclass(frozen=True, slots=True, eq=False)
class Moments:
    """One stage's second moments, divided by the mean of the diagonal of `H`, the mean `x̃ x̃ᵀ`.

    Attributes:
        importance: [K], the diagonal of `H`.
        hessian: [K, K], `H` with something added to its diagonal, for refits and descent.
        asymmetry: [K, K], `G − H`, where `G` is the mean `x x̃ᵀ`; None where the two are the same.
        size: the mean by which they were divided.
    """

    importance: Float32Array
    hessian: Float32Array
    asymmetry: Float32Array | None
    size: float


@dataclass(frozen=True, slots=True, eq=False)
class Curvature(Moments):
    """The same with what coding with feedback needs.

    Attributes:
        order: [K], the columns in the order in which they are coded.
        factor: [K, K], upper `U` with `UᵀU = (H + λI)⁻¹`, rows and columns in that order.
        target_factor: [K, K], like `factor`, with the target's `λ`.
        remarks: which damping had to be raised.
    """

    order: npt.NDArray[np.intp]
    factor: Float32Array
    target_factor: Float32Array
    remarks: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Factor:
    """A factorized damped inverse of second moments.

    Attributes:
        order: [K], the columns in the order in which they are coded.
        upper: [K, K], `U` with `UᵀU = (H + λI)⁻¹`, rows and columns in that order.
        damping: `λ`, raised where the sum would not have been positive definite.
    """

    order: npt.NDArray[np.intp]
    upper: Float32Array
    damping: float


def factorized(statistics: Statistics, damping: float, *, act_order: bool = True) -> Factor:
    """As `factorize`, kept with the statistics for all that want it."""
    key = _FACTOR, damping, act_order
    return statistics.derived(key, lambda found: factorize(found, damping, act_order=act_order))


def forget_factor(statistics: Statistics, damping: float, *, act_order: bool = True) -> None:
    """Keep a factor no longer that nobody will want."""
    statistics.forget((_FACTOR, damping, act_order))


def factorize(statistics: Statistics, damping: float, *, act_order: bool = True) -> Factor:
    """Factorize the second moments of one stage.

    Args:
        statistics: with a `gram` whose diagonal is finite and not all zero.
        damping: `λ`, in parts of the mean of the diagonal of `H`.
        act_order: the columns with the largest inputs come first.
    """
    gram = statistics.gram
    assert gram is not None
    size = float(gram.diagonal().mean())
    order = np.argsort(-_importance(gram.diagonal() / size), kind="stable") if act_order else np.arange(len(gram))
    ordered = gram[np.ix_(order, order)]
    ordered /= size
    return Factor(order, *inverse_factor(ordered, damping))


def moments(statistics: Statistics, damping: float) -> Moments:
    """The second moments of one stage alone, kept with its statistics.

    Args:
        statistics: with a `gram` whose diagonal is not all zero.
        damping: what is added to the diagonal of `hessian`, in parts of its mean.
    """
    return statistics.derived(("moments", damping), lambda found: _moments(found, damping))


def _moments(statistics: Statistics, damping: float) -> Moments:
    H, asymmetry, size = _normalized(statistics)
    return Moments(_importance(H.diagonal()), _damped(H, damping), asymmetry, size)


def curvature(
    statistics: Statistics, damping: float, refit_damping: float, target_damping: float, act_order: bool
) -> Curvature:
    """The factorized second moments of one stage, kept with its statistics for all of its weights.

    Args:
        statistics: with a `gram` whose diagonal is not all zero.
        damping: `λ` of the factor; this and the others are parts of the mean of the diagonal of `H`.
        refit_damping: what is added to the diagonal for refits and descent.
        target_damping: `λ` of the target.
        act_order: code the columns with the largest inputs first.
    """
    dampings = damping, refit_damping, target_damping, act_order
    return statistics.derived(("curvature", dampings), lambda found: _curvature(found, *dampings))


def _curvature(
    statistics: Statistics, damping: float, refit_damping: float, target_damping: float, act_order: bool
) -> Curvature:
    first = factorized(statistics, damping, act_order=act_order)
    H, asymmetry, size = _normalized(statistics)
    target, pulled = first, asymmetry is not None or statistics.drift is not None
    remarks = [] if first.damping == damping else [f"damping raised to {first.damping:g}"]
    if pulled and target_damping != damping:
        target = factorized(statistics, target_damping, act_order=act_order)
        remarks += [] if target.damping == target_damping else [f"damping of the target raised to {target.damping:g}"]
    importance, hessian = _importance(H.diagonal()), _damped(H, refit_damping)
    return Curvature(importance, hessian, asymmetry, size, first.order, first.upper, target.upper, tuple(remarks))


def _importance(mean_squares: Float64Array) -> Float32Array:
    return np.maximum(mean_squares, 0).astype(np.float32)


def _damped(H: Float64Array, damping: float) -> Float32Array:
    hessian = H.astype(np.float32)
    np.fill_diagonal(hessian, np.maximum(H.diagonal() + damping, _SMALLEST_CURVATURE))
    return hessian


def _normalized(statistics: Statistics) -> tuple[Float64Array, Float32Array | None, float]:
    """`H` and `G − H`, divided by the mean of the diagonal of `H`; and that mean."""
    assert statistics.gram is not None
    size = float(statistics.gram.diagonal().mean())
    H = statistics.gram / size
    if statistics.cross is None or np.array_equal(statistics.cross, statistics.gram):
        return H, None, size
    return H, (statistics.cross / size - H).astype(np.float32), size


def inverse_factor(H: Float64Array, damping: float) -> tuple[Float32Array, float]:
    """The upper `U` with `UᵀU = (H + λI)⁻¹`, and the `λ` that it took: tenfold until `H + λI` is positive definite.

    Columns that no input reaches are given the mean curvature, 1; nothing links them to others.
    """
    dead = np.where(H.diagonal() == 0, 1.0, 0.0)
    while True:
        damped = H[::-1, ::-1].copy()
        damped[np.diag_indices_from(damped)] += (dead + damping)[::-1]
        try:
            inverse = inverse_of_root(damped)
        except np.linalg.LinAlgError:
            damping = max(damping * 10, _SMALLEST_DAMPING)
            continue
        return np.ascontiguousarray(inverse[::-1, ::-1]), damping
