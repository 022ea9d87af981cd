"""Models whose every answer can be written down in numpy, a tokenizer of a few words, and data for them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
from onnx import numpy_helper
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from onnxfq.arrays import Array

WORDS = [f"w{index}" for index in range(20)]
VOCABULARY = {"<s>": 0, "<unk>": 1, **{word: index for index, word in enumerate(WORDS, start=2)}}
SIZE = len(VOCABULARY)
START = 0


def table(seed: int = 0, rows: int = SIZE, columns: int = SIZE, noise: float = 0.0) -> Array:
    """Rows of logits or vectors; noise makes another model of the same one."""
    rng = np.random.default_rng(seed)
    values = 2 * rng.standard_normal((rows, columns))
    return np.asarray(values + noise * np.random.default_rng(seed + 1).standard_normal(values.shape), np.float32)


def write_tokenizer(folder: Path, **settings: Any) -> Path:
    """A tokenizer of words that begins every text with `<s>`, and a config.json of settings."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer(models.WordLevel(VOCABULARY, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing("<s> $0", "<s> $A $B:1", [("<s>", START)])
    tokenizer.add_special_tokens(["<s>"])
    tokenizer.enable_padding(length=50)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text(json.dumps(settings))
    return folder


def write_graph(text: str, path: Path, weights: Mapping[str, Array]) -> Path:
    """A model in onnx's textual syntax, with weights from arrays."""
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]>\n{text}')
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(a), name) for name, a in weights.items())
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(model.SerializeToString())
    return path


def bigram(path: Path, weight: Array, *, length: int | str = "tokens") -> Path:
    """A language model whose logits after a token are that token's row of a table [SIZE, vocabulary]."""
    kind = {"float16": "float16", "float32": "float"}[weight.dtype.name]
    return write_graph(
        f"""lm (int64[1, {length}] input_ids, int64[1, {length}] attention_mask)
        => ({kind}[1, {length}, {weight.shape[1]}] logits) {{ logits = Gather(weight, input_ids) }}""",
        path,
        {"weight": weight},
    )


def peeking(path: Path, weight: Array) -> Path:
    """A model that scores a token knowing the one after it, as masked language models do."""
    return write_graph(
        f"""mlm (int64[1, tokens] input_ids) => (float[1, tokens, {weight.shape[1]}] logits) {{
            rows = Gather(weight, input_ids)
            sums = CumSum<reverse = 1>(rows, axis)
            logits = Identity(sums)
        }}""",
        path,
        {"weight": weight, "axis": np.array(1)},
    )


def encoder(path: Path, weight: Array, *, length: int | str = "tokens") -> Path:
    """An encoder that gives each token its row of a table."""
    return write_graph(
        f"""encoder (int64[1, {length}] input_ids, int64[1, {length}] attention_mask)
        => (float[1, {length}, {weight.shape[1]}] last_hidden_state) {{
            last_hidden_state = Gather(weight, input_ids)
        }}""",
        path,
        {"weight": weight},
    )


def classifier(path: Path, weight: Array) -> Path:
    """A classifier whose logits are the mean of its tokens' rows, those of a second text counting double."""
    return write_graph(
        f"""classifier (int64[1, tokens] input_ids, int64[1, tokens] token_type_ids)
        => (float[1, {weight.shape[1]}] logits) {{
            rows = Gather(weight, input_ids)
            second = Cast<to = 1>(token_type_ids)
            share = Add(second, one)
            column = Unsqueeze(share, last)
            weighted = Mul(rows, column)
            logits = ReduceMean<axes = [1], keepdims = 0>(weighted)
        }}""",
        path,
        {"weight": weight, "one": np.ones(1, np.float32), "last": np.array([2])},
    )


@dataclass(frozen=True)
class Seq2Seq:
    """An encoder–decoder: logits of the next token from the sum of all written tokens and the mean of those read."""

    read: Array
    written: Array
    head: Array
    end: int = 3

    @classmethod
    def random(cls, seed: int = 0, noise: float = 0.0) -> Seq2Seq:
        return cls(table(seed, SIZE, 4, noise), table(seed + 7, SIZE, 4, noise), table(seed + 9, 4, SIZE, noise))

    def write(self, folder: Path, layout: str) -> Path:
        """The folder as optimum writes it; layout: "whole" (no cache), "two" decoders, or "merged"."""
        write_tokenizer(folder, decoder_start_token_id=START, eos_token_id=self.end, max_length=9)
        write_graph(
            """encoder (int64[1, read] input_ids, int64[1, read] attention_mask)
            => (float[1, read, 4] last_hidden_state) { last_hidden_state = Gather(table, input_ids) }""",
            folder / "encoder_model.onnx",
            {"table": self.read},
        )
        constants = {
            "table": self.written, "head": self.head, "axis": np.array(1), "one": np.array([1]), "two": np.array([2]),
        }  # fmt: skip
        if layout == "merged":
            write_graph(_MERGED, folder / "decoder_model_merged.onnx", constants)
            return folder
        outputs = ", float[1, 1, n, 4] present_0_decoder_key, float[1, 1, read, 4] present_0_encoder_key"
        first = _FIRST.replace("OUTPUTS", outputs if layout == "two" else "")
        write_graph(first, folder / "decoder_model.onnx", constants)
        if layout == "two":
            write_graph(_NEXT, folder / "decoder_with_past_model.onnx", constants)
        return folder

    def tokens(self, ids: list[int], longest: int = 8) -> list[int]:
        """What greedy decoding writes, in numpy."""
        written = [START]
        while len(written) <= longest and (len(written) == 1 or written[-1] != self.end):
            logits = (self.written[written].sum(axis=0) + self.read[ids].mean(axis=0)) @ self.head
            written.append(int(logits.argmax()))
        return written[1:]


_FIRST = """decoder (int64[1, n] input_ids, float[1, read, 4] encoder_hidden_states,
    int64[1, read] encoder_attention_mask)
=> (float[1, n, 22] logits OUTPUTS) {
    rows = Gather(table, input_ids)
    sums = CumSum(rows, axis)
    state = ReduceMean<axes = [1], keepdims = 1>(encoder_hidden_states)
    both = Add(sums, state)
    logits = MatMul(both, head)
    present_0_decoder_key = Unsqueeze(rows, one)
    present_0_encoder_key = Unsqueeze(encoder_hidden_states, one)
}"""
_NEXT = """decoder (int64[1, 1] input_ids, float[1, 1, past_decoder_sequence_length, 4] past_key_values_0_decoder_key,
    float[1, 1, encoder_sequence_length, 4] past_key_values_0_encoder_key)
=> (float[1, 1, 22] logits, float[1, 1, m, 4] present_0_decoder_key) {
    rows = Gather(table, input_ids)
    new = Unsqueeze(rows, one)
    present_0_decoder_key = Concat<axis = 2>(past_key_values_0_decoder_key, new)
    sums = ReduceSum(present_0_decoder_key, two)
    state = ReduceMean<axes = [2], keepdims = 1>(past_key_values_0_encoder_key)
    both = Add(sums, state)
    wide = MatMul(both, head)
    logits = Squeeze(wide, one)
}"""
_MERGED = """decoder (int64[1, n] input_ids, float[1, read, 4] encoder_hidden_states,
    float[1, 1, past_decoder_sequence_length, 4] past_key_values_0_decoder_key,
    float[1, 1, encoder_sequence_length_out, 4] past_key_values_0_encoder_key, bool[1] use_cache_branch)
=> (float[1, n, 22] logits, float[1, 1, m, 4] present_0_decoder_key, float[1, 1, k, 4] present_0_encoder_key) {
    rows = Gather(table, input_ids)
    new = Unsqueeze(rows, one)
    present_0_decoder_key = Concat<axis = 2>(past_key_values_0_decoder_key, new)
    before = ReduceSum<keepdims = 1>(past_key_values_0_decoder_key, two)
    running = CumSum(rows, axis)
    flat = Squeeze(before, one)
    sums = Add(running, flat)
    fresh = Unsqueeze(encoder_hidden_states, one)
    keys = If(use_cache_branch) <
        then_branch = cached () => (float[1, 1, k, 4] a) { a = Identity(past_key_values_0_encoder_key) },
        else_branch = first () => (float[1, 1, k, 4] b) { b = Identity(fresh) }
    >
    present_0_encoder_key = If(use_cache_branch) <
        then_branch = nothing () => (float[1, 1, k, 4] c) { c = Mul(fresh, fresh) },
        else_branch = all () => (float[1, 1, k, 4] d) { d = Identity(fresh) }
    >
    state = ReduceMean<axes = [2], keepdims = 0>(keys)
    both = Add(sums, state)
    logits = MatMul(both, head)
}"""


def softmax(rows: Array) -> Array:
    """Of each row, in float64."""
    exponentials = np.exp(rows.astype(np.float64) - rows.max(axis=-1, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(axis=-1, keepdims=True))


def encode(text: str) -> list[int]:
    """Ids of a text, as the tokenizer gives them."""
    return [START, *(VOCABULARY.get(word, 1) for word in text.split())]


def words(count: int, seed: int = 0) -> str:
    """Text of so many words."""
    return " ".join(np.random.default_rng(seed).choice(WORDS, count))


def write_lines(path: Path, *records: object) -> Path:
    """A .jsonl file."""
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path
