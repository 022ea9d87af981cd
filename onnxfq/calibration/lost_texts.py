"""Texts of a batch that gave NaN or infinity, left out while the others go on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from onnxfq.arrays import Array

Lost = npt.NDArray[np.bool_]  # [texts]


def lost_texts(array: Array, masks: Sequence[Array], texts: int) -> Lost | None:
    """The texts of which a value is not finite, but for those that are left out already.

    Args:
        array: the value, [texts, tokens, ...].
        masks: of the batch, see `token_masks`.
        texts: how many there are.

    Returns:
        None where the value is not one of texts, or all of them are lost.
    """
    if texts == 1 or array.ndim < 3 or len(array) != texts:
        return None
    finite = np.isfinite(array).reshape(texts, -1).all(axis=1)
    known = [mask for mask in masks if len(mask) == texts]
    left_out = ~known[0].any(axis=1) if known else np.zeros(texts, np.bool_)
    return None if bool((left_out | ~finite).all()) else np.asarray(~finite & ~left_out)


def without_texts(masks: Sequence[Array], lost: Lost, tokens: int) -> list[Array]:
    """The masks of a batch of so many tokens in which some texts do not count."""
    kept = ~lost[:, np.newaxis]
    found = [mask & kept if len(mask) == len(lost) else mask for mask in masks]
    if not any(mask.size == tokens for mask in found):
        found.insert(0, np.repeat(kept, tokens // len(lost), axis=1))
    return found
