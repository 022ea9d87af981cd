"""Every model of the zoo, by name: a function that writes it into a new folder."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from tools.zoo.architectures import ARCHITECTURES
from tools.zoo.installed import PACKAGES, copy_installed
from tools.zoo.plain import build_classifier, build_convolutions, build_einsum_attention, build_routed_experts
from tools.zoo.recurrent import build_gru, build_lstm
from tools.zoo.transformer import build_transformer

ZOO: dict[str, Callable[[Path], None]] = {
    **{name: partial(build_transformer, row) for name, row in ARCHITECTURES.items()},
    "lstm": build_lstm,
    "gru": build_gru,
    "classifier": build_classifier,
    "einsum-attention": build_einsum_attention,
    "convolutions": build_convolutions,
    "routed-experts": build_routed_experts,
}
WITHOUT_TARGETS = ("convolutions",)
REAL: dict[str, Callable[[Path], None]] = {name: partial(copy_installed, name) for name in PACKAGES}
