"""Calibration and evaluation inputs: read from files, or made up from a model's signature."""

from __future__ import annotations

from onnxfq.feeds.batches import Batches, alone, batched
from onnxfq.feeds.causal_lm import CausalLM, Ids, find_causal_lm, slot
from onnxfq.feeds.configurations import longest, read_setting
from onnxfq.feeds.configured_sizes import with_configured_sizes
from onnxfq.feeds.encoder_outputs import Encoder, generate_behind, reads_encoder
from onnxfq.feeds.feed import Feed, Feeds, always, fingerprint
from onnxfq.feeds.generate import element_type, fill, generate, has_cache, within
from onnxfq.feeds.held_out import (
    ENOUGH_SAMPLES,
    ENOUGH_TOKENS,
    count_tokens,
    feed_tokens,
    halves,
    hold_out,
    hold_tokens,
    with_held_out,
    without_copies,
)
from onnxfq.feeds.masks import token_masks
from onnxfq.feeds.names import is_float, role, stem, takes_token_ids
from onnxfq.feeds.one_text import text_count
from onnxfq.feeds.readers import complete, given_feeds, load_feeds, read_lines
from onnxfq.feeds.records import Column, read_records
from onnxfq.feeds.sample_limits import MOST_SAMPLES, MOST_TOKENS, OTHER_SAMPLES, count_within, size_in_tokens
from onnxfq.feeds.self_generated import generate_self
from onnxfq.feeds.size_search import RefusedError, fit_sizes, is_guessed
from onnxfq.feeds.splices import spliced
from onnxfq.feeds.text import Text, load_tokenizer
from onnxfq.feeds.varied_inputs import usual_variants

__all__ = [
    "ENOUGH_SAMPLES",
    "ENOUGH_TOKENS",
    "MOST_SAMPLES",
    "MOST_TOKENS",
    "OTHER_SAMPLES",
    "Batches",
    "CausalLM",
    "Column",
    "Encoder",
    "Feed",
    "Feeds",
    "Ids",
    "RefusedError",
    "Text",
    "alone",
    "always",
    "batched",
    "complete",
    "count_tokens",
    "count_within",
    "element_type",
    "feed_tokens",
    "fill",
    "find_causal_lm",
    "fingerprint",
    "fit_sizes",
    "generate",
    "generate_behind",
    "generate_self",
    "given_feeds",
    "halves",
    "has_cache",
    "hold_out",
    "hold_tokens",
    "is_float",
    "is_guessed",
    "load_feeds",
    "load_tokenizer",
    "longest",
    "read_lines",
    "read_records",
    "read_setting",
    "reads_encoder",
    "role",
    "size_in_tokens",
    "slot",
    "spliced",
    "stem",
    "takes_token_ids",
    "text_count",
    "token_masks",
    "usual_variants",
    "with_configured_sizes",
    "with_held_out",
    "within",
    "without_copies",
]
