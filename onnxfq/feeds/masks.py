"""Which of a sample's tokens are padding."""

from __future__ import annotations

from collections.abc import Mapping

from onnxfq.arrays import Array
from onnxfq.feeds.names import role, takes_token_ids
from onnxfq.signature import Signature


def token_masks(feed: Mapping[str, Array], signature: Signature) -> list[Array]:
    """The masks of a sample that leave tokens out, as bool [batch, tokens]; none where nothing is padded.

    A mask that covers cached tokens too is cut to the new ones, which come last.
    """
    lengths = {feed[s.name].shape[1] for s in signature.inputs if takes_token_ids(s) and feed[s.name].ndim == 2}
    masks = []
    for spec in signature.inputs:
        array = feed[spec.name]
        if role(spec) != "mask" or array.ndim != 2 or array.dtype.kind not in "iub":
            continue
        mask = array != 0
        if not mask.all():
            masks += [mask, *(mask[:, -length:] for length in sorted(lengths) if length < mask.shape[1])]
    return masks
