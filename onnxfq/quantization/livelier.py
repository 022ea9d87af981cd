"""Made-up inputs on which outputs depend: what names leave open is found by trying it on the original."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import islice

from onnxfq.arrays import Array
from onnxfq.errors import DataError, ModelError
from onnxfq.feeds import Feed, Feeds, is_float, role
from onnxfq.feeds.natural import as_stored, drawn
from onnxfq.metrics.likeness import ALIKE, Likeness
from onnxfq.signature import Signature, TensorSpec

_TRIED = 3  # samples
_MUCH = 10.0  # times the variation: then other inputs are better, even where outputs stay alike

Run = Callable[[Feed], Mapping[str, Array]]


def livelier(feeds: Feeds, signature: Signature, run: Run) -> tuple[Feeds, str]:
    """Inputs whose outputs differ from sample to sample, where those made up first give outputs that are alike.

    Tried are masks the other way round (in PyTorch, True hides), and images from 0 to 255.

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
    variants = list(_variants(feeds, signature))
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


def _variants(feeds: Feeds, signature: Signature) -> Iterator[tuple[Feeds, str]]:
    """The same samples, with some inputs in the other way that is usual."""
    masks = [spec.name for spec in signature.inputs if role(spec) == "mask" and spec.dtype == "bool"]
    if masks:
        yield (
            _changed(feeds, masks, lambda array: ~array),
            f"MADE UP: with True in {', '.join(masks)} all outputs are alike; it was made up as False, which masks "
            "nothing where True means padding.",
        )
    images = [spec.name for spec in signature.inputs if _is_image(spec, feeds[0])]
    if images:
        yield (
            _changed(feeds, images, lambda array: as_stored(array).astype(array.dtype)),
            f"MADE UP: on normalized images all outputs are alike; {', '.join(images)} was made up from 0 to 255.",
        )


def _is_image(spec: TensorSpec, feed: Feed) -> bool:
    return is_float(spec) and drawn(spec, feed[spec.name].shape) == "image"


def _changed(feeds: Feeds, names: list[str], change: Callable[[Array], Array]) -> Feeds:
    made = tuple({n: change(array) if n in names else array for n, array in feed.items()} for feed in feeds)
    return Feeds(made, feeds.origin, feeds.is_generated)


def _variation(feeds: Feeds, run: Run) -> float:
    """How much the output changes that changes most."""
    seen: dict[str, Likeness] = {}
    for feed in islice(feeds, _TRIED):
        for name, output in run(feed).items():
            seen.setdefault(name, Likeness()).add(output)
    return max((likeness.variation or 0.0 for likeness in seen.values()), default=0.0)
