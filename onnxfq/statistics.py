"""What calibration measures and solvers read. Data-free solvers need none of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

Need = Literal["gram", "cross", "absmax", "mean"]


@dataclass(frozen=True, slots=True)
class Statistics:
    """Sums over all calibration tokens of the inputs of one stage (all targets that read one tensor).

    `x` is the input in the floating-point model, `x̃` in the model whose earlier stages are already quantised.

    Attributes:
        tokens: how many tokens were seen; padding never counts.
        gram: [K, K] float64, mean of `x̃ x̃ᵀ`.
        cross: [K, K] float64, mean of `x x̃ᵀ`.
        absmax: [K] float32, largest `|x̃|`.
        mean: [K] float64, mean of `x̃`.
        energy: [K] float64, mean of `x̃²` (the diagonal of `gram`), where that is all that is known: without data, a
            normalisation layer before the target still tells it, up to a factor.
    """

    tokens: int
    gram: npt.NDArray[np.float64] | None = None
    cross: npt.NDArray[np.float64] | None = None
    absmax: npt.NDArray[np.float32] | None = None
    mean: npt.NDArray[np.float64] | None = None
    energy: npt.NDArray[np.float64] | None = None
