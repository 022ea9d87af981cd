"""Calibration and evaluation inputs: read from files, or made up from a model's signature."""

from __future__ import annotations

from onnxfq.feeds.feed import Feed, Feeds, always
from onnxfq.feeds.files import given_feeds, load_feeds
from onnxfq.feeds.generate import fill, generate, has_cache
from onnxfq.feeds.masks import token_masks
from onnxfq.feeds.own import generate_own
from onnxfq.feeds.text import load_tokenizer, longest

__all__ = [
    "Feed",
    "Feeds",
    "always",
    "fill",
    "generate",
    "generate_own",
    "given_feeds",
    "has_cache",
    "load_feeds",
    "load_tokenizer",
    "longest",
    "token_masks",
]
