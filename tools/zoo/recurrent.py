"""Networks over sequences of tokens that are no transformers, exported with torch's legacy exporter."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tools.zoo.weights import liven

if TYPE_CHECKING:
    import torch

VOCABULARY, WIDTH, LABELS = 2000, 128, 16
OPSET = 17


def build_lstm(folder: Path) -> None:
    """A tagger: an embedding, two LSTM layers in both directions, a layer that scores labels."""
    _export(_tagger("LSTM", layers=2, both=True), folder)


def build_gru(folder: Path) -> None:
    """The same with one GRU layer in one direction."""
    _export(_tagger("GRU", layers=1, both=False), folder)


def _tagger(kind: str, *, layers: int, both: bool) -> torch.nn.Module:
    import torch

    class Tagger(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.table = torch.nn.Embedding(VOCABULARY, WIDTH)
            recurrent = getattr(torch.nn, kind)
            self.recurrent = recurrent(WIDTH, WIDTH, layers, batch_first=True, bidirectional=both)
            self.head = torch.nn.Sequential(
                torch.nn.Linear(WIDTH * (1 + both), 2 * WIDTH), torch.nn.ReLU(), torch.nn.Linear(2 * WIDTH, LABELS)
            )

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            return self.head(self.recurrent(self.table(tokens))[0])

    torch.manual_seed(0)
    return Tagger().eval()


def _export(model: torch.nn.Module, folder: Path) -> None:
    import torch

    liven(model)
    folder.mkdir(parents=True)
    axes = {0: "batch", 1: "length"}
    torch.onnx.export(
        model, (torch.randint(0, VOCABULARY, (2, 16)),), str(folder / "model.onnx"), dynamo=False, opset_version=OPSET,
        input_names=["tokens"], output_names=["logits"], dynamic_axes={"tokens": axes, "logits": axes},
    )  # fmt: skip
