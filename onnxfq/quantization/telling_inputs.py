"""Made-up inputs on which outputs depend: what names leave open is found by trying it on the original."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import islice

from onnxfq.arrays import Array
from onnxfq.errors import DataError, ModelError
from onnxfq.feeds import Feed, Feeds, usual_variants
from onnxfq.metrics.likeness import ALIKE, Likeness
from onnxfq.signature import Signature

_TRIED = 3  # samples
_MUCH = 10.0  # times the variation: then other inputs are better, even where outputs stay alike

Run = Callable[[Feed], Mapping[str, Array]]


def telling_inputs(feeds: Feeds, signature: Signature, run: Run) -> tuple[Feeds, str]:
    """Inputs whose outputs differ from sample to sample, where those made up first give outputs that are alike.

    Tried are the other ways that are usual for what names leave open.

    Args:
        feeds: made up.
        signature: the model's inputs.
        run: runs the original.

    Returns:
        The inputs, and what is to be told about them; "" where they are those given.

    Raises:
        DataError: the model does not run on the inputs given.
        ModelError: it does not run at all.
    """
    variants = list(usual_variants(feeds, signature))
    if not variants or len(feeds) < 2:
        return feeds, ""
    chosen, told, most = feeds, "", _variation(feeds, run)
    if most >= ALIKE:
        return feeds, ""
    for others, words in variants:
        try:
            found = _variation(others, run)
        except (DataError, ModelError):
            continue
        if found > _MUCH * most:
            chosen, told, most = others, words, found
    return chosen, told


def _variation(feeds: Feeds, run: Run) -> float:
    """How much the output changes that changes most."""
    seen: dict[str, Likeness] = {}
    for feed in islice(feeds, _TRIED):
        for name, output in run(feed).items():
            seen.setdefault(name, Likeness()).add(output)
    return max((likeness.variation or 0.0 for likeness in seen.values()), default=0.0)
