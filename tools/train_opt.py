"""Train the small OPT language model kept in `models/opt-4m`, from plain text, on a CPU, within an hour.

The recipe: a byte-level BPE tokenizer of 4096 tokens, four OPT layers of width 256 (tied embedding and head),
Muon for the matrices and AdamW for the rest, and a learning rate that falls with the wall clock instead of with a
step count, so that the time budget is met on any machine. The corpora themselves are never stored in the repository.

    pip install torch transformers tokenizers
    python tools/train_opt.py --text books.txt.xz --text wikitext2-valid.txt:3 --minutes 50 --out checkpoint

Then `tools/export_opt.py checkpoint models/opt-4m` writes the ONNX file.
"""

from __future__ import annotations

import argparse
import json
import lzma
import math
import time
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import OPTConfig, OPTForCausalLM, PreTrainedTokenizerFast

VOCABULARY = 4096
SEQUENCE = 256
SPECIAL_TOKENS = ["<s>", "<pad>", "</s>", "<unk>"]  # OPT's ids 0 to 3; "</s>" opens every text


def read_text(path: Path) -> str:
    """Read a text file, decompressing `.xz`."""
    raw = path.read_bytes()
    return (lzma.decompress(raw) if path.suffix == ".xz" else raw).decode("utf-8")


def train_tokenizer(texts: list[str], out: Path) -> Tokenizer:
    """Train a byte-level BPE tokenizer as OPT uses it and save it in transformers' layout."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((line for text in texts for line in text.splitlines()), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="</s> $A", pair="</s> $A $B", special_tokens=[("</s>", 2)]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="</s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
        model_max_length=512,
    )
    fast.save_pretrained(out)
    return tokenizer


def encode(tokenizer: Tokenizer, text: str) -> np.ndarray:
    """Encode a whole text line by line, newlines kept, without special tokens; int16 ids [tokens]."""
    lines = text.splitlines(keepends=True)
    chunks = ["".join(lines[i : i + 200]) for i in range(0, len(lines), 200)]
    encoded = tokenizer.encode_batch(chunks, add_special_tokens=False)
    return np.concatenate([np.asarray(e.ids, np.int16) for e in encoded])


def windows(ids: np.ndarray) -> np.ndarray:
    """Cut a token stream into rows of one "</s>" and SEQUENCE - 1 tokens."""
    count = len(ids) // (SEQUENCE - 1)
    rows = ids[: count * (SEQUENCE - 1)].reshape(count, SEQUENCE - 1)
    return np.concatenate([np.full((count, 1), 2, np.int16), rows], axis=1)


def build_model() -> OPTForCausalLM:
    """The four-layer OPT, initialised so that the deviation of residual branches falls with depth."""
    torch.manual_seed(0)
    config = OPTConfig(
        vocab_size=VOCABULARY,
        hidden_size=256,
        word_embed_proj_dim=256,
        num_hidden_layers=4,
        ffn_dim=1024,
        num_attention_heads=4,
        max_position_embeddings=512,
        dropout=0.0,
        attention_dropout=0.0,
        layerdrop=0.0,
        bos_token_id=2,
        eos_token_id=2,
        pad_token_id=1,
    )
    model = OPTForCausalLM(config)
    for name, parameter in model.named_parameters():
        if name.endswith(("out_proj.weight", "fc2.weight")):
            torch.nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * config.num_hidden_layers))
    return model


def build_optimizers(model: OPTForCausalLM) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the layers, AdamW for embeddings, norms and biases."""
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and ".layers." in n]
    chosen = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in chosen]
    return [
        torch.optim.Muon(matrices, lr=0.02, momentum=0.95, weight_decay=0.01, ns_steps=5),
        torch.optim.AdamW(others, lr=3e-3, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def loss_of(model: OPTForCausalLM, rows: np.ndarray) -> torch.Tensor:
    """Mean next-token cross entropy (nats) of a batch of windows."""
    ids = torch.from_numpy(rows.astype(np.int64))
    logits = model(input_ids=ids, use_cache=False).logits
    return torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())


def evaluate(model: OPTForCausalLM, rows: np.ndarray) -> float:
    """Mean held-out cross entropy in nats a token."""
    model.eval()
    with torch.no_grad():
        losses = [loss_of(model, rows[i : i + 16]).item() for i in range(0, len(rows), 16)]
    model.train()
    return float(np.mean(losses))


def train(model: OPTForCausalLM, rows: np.ndarray, held_out: np.ndarray, seconds: float, batch: int) -> list[dict]:
    """Train until the time is up; the learning rate warms up for 2 % of it and falls linearly over the last 60 %."""
    optimizers = build_optimizers(model)
    base = [[group["lr"] for group in o.param_groups] for o in optimizers]
    order = np.random.default_rng(0)
    history, start, step, next_report = [], time.monotonic(), 0, 0.0
    while (progress := (time.monotonic() - start) / seconds) < 1:
        factor = min(1.0, progress / 0.02 + 0.01, (1 - progress) / 0.6 + 0.01)
        for optimizer, rates in zip(optimizers, base, strict=True):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * factor
        loss = loss_of(model, rows[order.integers(0, len(rows), batch)])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        step += 1
        if progress >= next_report:
            next_report += 0.02
            record = {
                "minutes": round((time.monotonic() - start) / 60, 2),
                "step": step,
                "tokens": step * batch * SEQUENCE,
                "loss": round(loss.item(), 4),
                "held_out": round(evaluate(model, held_out), 4),
            }
            history.append(record)
            print(json.dumps(record), flush=True)
    return history


def main() -> None:
    """Train tokenizer and model, and save both with the training history."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--text", action="append", required=True, help="FILE[:REPEATS], plain or .xz")
    parser.add_argument("--minutes", type=float, default=50)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    sources = [(Path(t.split(":")[0]), int((t + ":1").split(":")[1])) for t in arguments.text]
    texts = [read_text(path) for path, _ in sources]
    tokenizer = train_tokenizer(texts, arguments.out)
    trained, held_out = [], []
    for text, (_, repeats) in zip(texts, sources, strict=True):
        rows = windows(encode(tokenizer, text))
        cut = max(16, len(rows) // 200)
        held_out.append(rows[:cut])
        trained.extend([rows[cut:]] * repeats)
    rows = np.concatenate(trained)
    print(json.dumps({"training_tokens": int(rows.size), "held_out": [len(h) for h in held_out]}), flush=True)
    model = build_model()
    history = train(model, rows, np.concatenate(held_out), arguments.minutes * 60, arguments.batch)
    final = {path.name: round(evaluate(model, held), 4) for (path, _), held in zip(sources, held_out, strict=True)}
    model.save_pretrained(arguments.out)
    record = {"history": history, "final_held_out_nats": final, "torch": torch.__version__}
    (arguments.out / "training.json").write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(final))


if __name__ == "__main__":
    main()
