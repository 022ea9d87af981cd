"""Exports one transformer of the zoo, with optimum or with one of torch's own exporters."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tools.zoo.architectures import Architecture
from tools.zoo.routing import every_expert
from tools.zoo.weights import liven

if TYPE_CHECKING:
    import torch

TOKENIZER = Path(__file__).resolve().parents[2] / "models" / "opt-4m"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
LEGACY_OPSET, DYNAMO_OPSET = 17, 18
TOKENS = 32  # of the example that is traced: enough for every expert to get some
EXTERNAL = 1024  # bytes from which a tensor of the new exporter lies in a file of its own


def build_transformer(row: Architecture, folder: Path) -> None:
    """Make, liven and export one model, and put beside it what lies beside real exports."""
    model = _model(row)
    liven(model)
    if row.half:
        model = model.half()
    folder.mkdir(parents=True)
    if row.task:
        _with_optimum(model, row, folder)
    else:
        _with_torch(model, row, folder)
    if row.keep:
        for path in folder.glob("*.onnx"):
            if path.name not in row.keep:
                path.unlink()
    if row.preprocessor:
        (folder / "preprocessor_config.json").write_text(json.dumps(dict(row.preprocessor), indent=1))
    if row.text:
        for name in TOKENIZER_FILES:
            shutil.copyfile(TOKENIZER / name, folder / name)


def _model(row: Architecture) -> torch.nn.Module:
    import torch
    import transformers

    torch.manual_seed(0)
    cls = getattr(transformers, row.model)
    if row.parts:
        configs = [getattr(transformers, name).config_class(**sizes) for name, sizes in row.parts]
        config = cls.config_class.from_encoder_decoder_configs(*configs)
        config.decoder_start_token_id, config.pad_token_id = 2, 1
    else:
        config = cls.config_class(**row.config)
    return cls(config).eval()


def _with_optimum(model: torch.nn.Module, row: Architecture, folder: Path) -> None:
    from optimum.exporters.onnx import onnx_export_from_model

    onnx_export_from_model(model, folder, task=row.task, do_validation=False, device="cpu", **row.shapes)


def _with_torch(model: torch.nn.Module, row: Architecture, folder: Path) -> None:
    """Ids and mask in, one tensor out."""
    import torch

    model.config.use_cache = False
    ids = torch.randint(0, model.config.vocab_size, (2, TOKENS), generator=torch.Generator().manual_seed(0))
    feed = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    output = "logits" if "ForCausalLM" in row.model else "last_hidden_state"
    axes = {0: "batch_size", 1: "sequence_length"}
    names: dict[str, Any] = {"input_names": list(feed), "output_names": [output]}
    wrapped, path = _tensors_only(model, output), str(folder / "model.onnx")
    if row.dynamo:
        sizes = {0: torch.export.Dim("batch_size"), 1: torch.export.Dim("sequence_length", max=128)}
        shapes = dict.fromkeys(feed, sizes)
        program = torch.onnx.export(
            wrapped, kwargs=feed, dynamo=True, opset_version=DYNAMO_OPSET, dynamic_shapes=shapes, **names
        )
        program.save(path, external_data=True)
    else:
        axes = {0: "batch_size"} if row.fixed else axes
        with every_expert(model.config):
            torch.onnx.export(
                wrapped, tuple(feed.values()), path, dynamo=False, opset_version=LEGACY_OPSET,
                dynamic_axes=dict.fromkeys((*feed, output), axes), **names,
            )  # fmt: skip
    model.config.save_pretrained(folder)


def _tensors_only(model: torch.nn.Module, output: str) -> torch.nn.Module:
    """A module that takes and gives nothing but tensors, as exporters want it."""
    import torch

    class TensorsOnly(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            return getattr(self.model(input_ids=input_ids, attention_mask=attention_mask), output)

    return TensorsOnly().eval()
