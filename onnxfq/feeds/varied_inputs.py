"""Made-up inputs in the other way that is usual, for what a name leaves open: masks of bools, images from 0 to 255."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from onnxfq.arrays import Array
from onnxfq.feeds.feed import Feed, Feeds
from onnxfq.feeds.names import is_float, role
from onnxfq.feeds.natural import as_stored, drawn
from onnxfq.signature import Signature, TensorSpec


def usual_variants(feeds: Feeds, signature: Signature) -> Iterator[tuple[Feeds, str]]:
    """The same samples with masks the other way round (in PyTorch, True hides), or with images from 0 to 255.

    Args:
        feeds: made up.
        signature: the model's inputs.

    Returns:
        Each variant, and what is to be told about it where it is taken.
    """
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
