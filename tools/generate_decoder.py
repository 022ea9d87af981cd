"""Writes decoders of any size that mean nothing, but are built like real exports: for trying scale without downloads.

    python tools/generate_decoder.py FOLDER --preset 7b
    python tools/generate_decoder.py FOLDER --family opt --layers 4 --hidden 256 --inner 1024 --heads 8 --vocab 1000

Both families have a KV cache (`past_key_values.0.key` → `present.0.key`) and an attention mask. `llama`: RMSNorm and
rotary positions spelled out as exporters do, grouped-query attention, a gated MLP. `opt`: LayerNormalization, biases,
learned positions, Relu. Weights are heavy-tailed with some large channels. They are written tensor by tensor in chunks,
so that memory does not depend on the model's size.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

CHUNK = 1 << 20  # elements made at once
INLINE_BYTES = 1024  # smaller tensors stay in the model file
POOL = 1 << 22  # random numbers drawn; tensors take theirs from here at random places


@dataclass(frozen=True)
class Decoder:
    """What to write.

    Attributes:
        family: "llama" or "opt".
        layers: decoder layers.
        hidden: width of the residual stream.
        inner: width inside the MLP.
        heads: attention heads.
        kv_heads: heads of keys and values (`llama` only); `heads` must be a multiple.
        vocab: tokens.
        positions: learned positions (`opt` only).
        dtype: "float16" or "float32", of weights and activations.
        tied: the head is the transposed embedding.
        files: data files; tensors go to them in turn, 1 writes `model.onnx_data`.
        alignment: of tensors in data files, in bytes.
        seed: of the weights.
    """

    family: str = "llama"
    layers: int = 2
    hidden: int = 64
    inner: int = 176
    heads: int = 4
    kv_heads: int = 2
    vocab: int = 256
    positions: int = 512
    dtype: str = "float16"
    tied: bool = False
    files: int = 1
    alignment: int = 64
    seed: int = 0

    @property
    def head(self) -> int:
        """Width of one head."""
        return self.hidden // self.heads


PRESETS = {
    "1b": Decoder(layers=22, hidden=2048, inner=5632, heads=32, kv_heads=4, vocab=32000),
    "2b": Decoder("opt", layers=24, hidden=2048, inner=8192, heads=32, kv_heads=32, vocab=50272, positions=2048),
    "7b": Decoder(layers=32, hidden=4096, inner=11008, heads=32, kv_heads=32, vocab=32000),
    "13b": Decoder(layers=40, hidden=5120, inner=13824, heads=40, kv_heads=40, vocab=32000),
}


@dataclass
class CausalLM:
    """Tensors on their way into the model and its data files."""

    folder: Path
    decoder: Decoder
    tensors: list[TensorProto] = field(default_factory=list)

    def __enter__(self) -> Self:
        count = self.decoder.files
        names = ["model.onnx_data"] if count == 1 else [f"model.onnx_data_{i}" for i in range(count)]
        self._files: list[BinaryIO] = [(self.folder / name).open("wb") for name in names]
        self._turn = 0
        self._rng = np.random.default_rng(self.decoder.seed)
        pool = self._rng.standard_t(5, POOL).astype(np.float32)
        self._pool = pool / pool.std()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in self._files:
            file.close()

    def constant(self, name: str, value: npt.ArrayLike, dtype: str | None = None) -> str:
        """A small tensor of given values."""
        self.tensors.append(onnx.numpy_helper.from_array(np.asarray(value, dtype or self.decoder.dtype), name))
        return name

    def vector(self, name: str, size: int, mean: float, deviation: float, *, large: float = 1.0) -> str:
        """A random vector; one in 200 elements is `large` times as large."""
        values = mean + deviation * self._rng.standard_normal(size)
        values[self._rng.random(size) < 1 / 200] *= large
        return self.constant(name, values)

    def matrix(self, name: str, rows: int, columns: int, deviation: float) -> str:
        """A random matrix [rows, columns], made and written in chunks of rows."""
        dtype = np.dtype(self.decoder.dtype)
        scale = (deviation * np.exp(0.2 * self._rng.standard_normal(columns))).astype(np.float32)
        if rows * columns * dtype.itemsize < INLINE_BYTES:
            return self.constant(name, self._random(rows * columns).reshape(rows, columns) * scale)
        file = self._files[self._turn % len(self._files)]
        self._turn += 1
        file.seek(-(-file.tell() // self.decoder.alignment) * self.decoder.alignment)
        offset, step = file.tell(), max(1, CHUNK // columns)
        for start in range(0, rows, step):
            count = min(step, rows - start)
            file.write((self._random(count * columns).reshape(count, columns) * scale).astype(dtype).data)
        tensor = TensorProto(name=name, dims=[rows, columns], data_location=TensorProto.EXTERNAL)
        tensor.data_type = helper.np_dtype_to_tensor_dtype(dtype)
        place = {"location": Path(file.name).name, "offset": offset, "length": rows * columns * dtype.itemsize}
        for key, value in place.items():
            tensor.external_data.add(key=key, value=str(value))
        self.tensors.append(tensor)
        return name

    def _random(self, count: int) -> npt.NDArray[np.float32]:
        """Heavy-tailed numbers of deviation 1."""
        start = int(self._rng.integers(POOL - CHUNK))
        return self._pool[start : start + count] if count <= CHUNK else np.resize(self._pool[start:], count)


class Network:
    """The nodes of a decoder, made in order."""

    def __init__(self, decoder: Decoder, writer: CausalLM) -> None:
        self.decoder, self.writer = decoder, writer
        self.nodes: list[onnx.NodeProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.outputs: list[onnx.ValueInfoProto] = []
        self.type = helper.np_dtype_to_tensor_dtype(np.dtype(decoder.dtype))

    def op(self, op_type: str, *inputs: str, name: str, **attributes: Any) -> str:
        """Add a node; returns its output."""
        path = f"/{name}/{op_type}"
        output = f"{path}_output_0"
        self.nodes.append(helper.make_node(op_type, list(inputs), [output], name=path, **attributes))
        return output

    def integers(self, name: str, *values: int) -> str:
        """A constant vector of integers."""
        return self.writer.constant(name, values, "int64")

    def linear(self, x: str, name: str, k: int, n: int, *, gain: float = 1.0) -> str:
        """Multiply x [..., k] with a weight [k, n]; in the `opt` family with a bias."""
        weight = self.writer.matrix(f"model.{name}.weight", k, n, gain / np.sqrt(k))
        y = self.op("MatMul", x, weight, name=name)
        if self.decoder.family == "llama":
            return y
        return self.op("Add", self.writer.vector(f"model.{name}.bias", n, 0, 0.05), y, name=name)

    def norm(self, x: str, name: str) -> str:
        """RMSNorm in float32, or a LayerNormalization."""
        d, w = self.decoder, self.writer
        gamma = w.vector(f"model.{name}.weight", d.hidden, 1, 0.1, large=5)
        if d.family == "opt":
            beta = w.vector(f"model.{name}.bias", d.hidden, 0, 0.05)
            return self.op("LayerNormalization", x, gamma, beta, name=name, epsilon=1e-5, axis=-1)
        wide = self.op("Cast", x, name=f"{name}/in", to=TensorProto.FLOAT)
        squared = self.op("Pow", wide, "two", name=name)
        mean = self.op("ReduceMean", squared, name=name, axes=[-1], keepdims=1)
        root = self.op("Sqrt", self.op("Add", mean, "epsilon", name=name), name=name)
        normed = self.op("Mul", wide, self.op("Reciprocal", root, name=name), name=f"{name}/normed")
        return self.op("Mul", self.op("Cast", normed, name=f"{name}/out", to=self.type), gamma, name=name)

    def split(self, x: str, name: str) -> str:
        """[B, S, heads · head] → [B, heads, S, head]."""
        parted = self.op("Reshape", x, self.integers(f"{name}/parted", 0, 0, -1, self.decoder.head), name=name)
        return self.op("Transpose", parted, name=name, perm=[0, 2, 1, 3])

    def rotate(self, x: str, name: str) -> str:
        """Rotary positions on [B, heads, S, head]."""
        first = self.op("Slice", x, "zero", "half", "last", name=f"{name}/first")
        second = self.op("Slice", x, "half", "far", "last", name=f"{name}/second")
        turned = self.op("Concat", self.op("Neg", second, name=name), first, name=name, axis=-1)
        straight = self.op("Mul", x, self.cos, name=f"{name}/cos")
        return self.op("Add", straight, self.op("Mul", turned, self.sin, name=f"{name}/sin"), name=name)

    def repeated(self, x: str, name: str) -> str:
        """Keys or values [B, kv_heads, T, head] for all heads."""
        d = self.decoder
        if d.kv_heads == d.heads or d.family == "opt":
            return x
        x = self.op("Unsqueeze", x, "two_axis", name=name)
        x = self.op("Expand", x, self.integers(f"{name}/times", 1, 1, d.heads // d.kv_heads, 1, 1), name=name)
        return self.op("Reshape", x, self.integers(f"{name}/joined", 0, d.heads, -1, d.head), name=f"{name}/joined")

    def cached(self, x: str, layer: int, kind: str) -> str:
        """Earlier keys or values and these."""
        d = self.decoder
        heads = d.heads if d.family == "opt" else d.kv_heads
        past, present = f"past_key_values.{layer}.{kind}", f"present.{layer}.{kind}"
        shape: list[str | int] = ["batch_size", heads, "past_sequence_length", d.head]
        total: list[str | int] = ["batch_size", heads, "total_sequence_length", d.head]
        self.inputs.append(helper.make_tensor_value_info(past, self.type, shape))
        self.outputs.append(helper.make_tensor_value_info(present, self.type, total))
        self.nodes.append(helper.make_node("Concat", [past, x], [present], name=f"/{present}/Concat", axis=2))
        return present

    def attention(self, x: str, layer: int, name: str) -> str:
        """Causal attention over the cache and x [B, S, hidden]."""
        d = self.decoder
        llama = d.family == "llama"
        width = d.head * (d.kv_heads if llama else d.heads)
        q = self.split(self.linear(x, f"{name}/q_proj", d.hidden, d.hidden), f"{name}/q")
        k = self.split(self.linear(x, f"{name}/k_proj", d.hidden, width), f"{name}/k")
        v = self.split(self.linear(x, f"{name}/v_proj", d.hidden, width), f"{name}/v")
        if llama:
            q, k = self.rotate(q, f"{name}/q_rotary"), self.rotate(k, f"{name}/k_rotary")
        k = self.repeated(self.cached(k, layer, "key"), f"{name}/k_repeated")
        v = self.repeated(self.cached(v, layer, "value"), f"{name}/v_repeated")
        k = self.op("Transpose", k, name=f"{name}/turned", perm=[0, 1, 3, 2])
        scores = self.op("MatMul", self.op("Mul", q, "scaling", name=name), k, name=f"{name}/scores")
        scores = self.op("Add", scores, self.mask, name=f"{name}/masked")
        mixed = self.op("MatMul", self.op("Softmax", scores, name=name, axis=-1), v, name=f"{name}/mixed")
        mixed = self.op("Transpose", mixed, name=f"{name}/back", perm=[0, 2, 1, 3])
        joined = self.op("Reshape", mixed, "joined_shape", name=f"{name}/joined")
        return self.linear(joined, f"{name}/o_proj", d.hidden, d.hidden, gain=1 / np.sqrt(2 * d.layers))

    def mlp(self, x: str, name: str) -> str:
        """The gated MLP, or the one with Relu."""
        d, gain = self.decoder, 1 / np.sqrt(2 * self.decoder.layers)
        if d.family == "opt":
            inside = self.op("Relu", self.linear(x, f"{name}/fc1", d.hidden, d.inner), name=name)
            return self.linear(inside, f"{name}/fc2", d.inner, d.hidden, gain=gain)
        gate = self.linear(x, f"{name}/gate_proj", d.hidden, d.inner)
        gate = self.op("Mul", gate, self.op("Sigmoid", gate, name=name), name=f"{name}/act")
        inside = self.op("Mul", gate, self.linear(x, f"{name}/up_proj", d.hidden, d.inner), name=name)
        return self.linear(inside, f"{name}/down_proj", d.inner, d.hidden, gain=gain)

    def positions(self) -> str:
        """Positions [B, S] of the new tokens."""
        if self.decoder.family == "llama":
            return "position_ids"
        counted = self.op("CumSum", "attention_mask", "one_axis", name="positions")
        counted = self.op("Sub", counted, "one", name="positions")
        new = self.op("Shape", "input_ids", name="positions/new", start=1, end=2)
        return self.op("Slice", counted, self.op("Neg", new, name="positions"), "far", "one_axes", name="positions")

    def prepare(self) -> str:
        """Mask, rotary tables and embedding; returns the positions' embedding or ""."""
        d, w = self.decoder, self.writer
        for name, values in {"zero": [0], "far": [1 << 40], "last": [-1], "half": [d.head // 2], "two_axis": [2],
                             "one_axes": [1], "joined_shape": [0, 0, d.hidden]}.items():  # fmt: skip
            self.integers(name, *values)
        w.constant("one", 1, "int64")
        w.constant("one_axis", 1, "int64")
        w.constant("two", 2, "float32")
        w.constant("epsilon", 1e-5, "float32")
        w.constant("scaling", d.head**-0.5)
        w.constant("nothing", 0)
        w.constant("forbidden", np.finfo(d.dtype).min)
        positions = self.positions()
        keys = self.op("Sub", self.op("CumSum", "attention_mask", "one_axis", name="mask"), "one", name="mask")
        keys = self.op("Unsqueeze", keys, self.integers("key_axes", 1, 2), name="mask/keys")
        queries = self.op("Unsqueeze", positions, self.integers("query_axes", 1, 3), name="mask/queries")
        seen = self.op("LessOrEqual", keys, queries, name="mask")
        real = self.op("Cast", "attention_mask", name="mask/real", to=TensorProto.BOOL)
        real = self.op("Unsqueeze", real, "key_axes", name="mask/real")
        self.mask = self.op("Where", self.op("And", seen, real, name="mask"), "nothing", "forbidden", name="mask")
        if d.family == "llama":
            self._rotary(positions)
            return ""
        table = w.matrix("model.embed_positions.weight", d.positions, d.hidden, 0.5)
        return self.op("Gather", table, positions, name="embed_positions")

    def _rotary(self, positions: str) -> None:
        half = np.arange(self.decoder.head // 2, dtype=np.float32)
        self.writer.constant("frequencies", 10000.0 ** (-2 * half / self.decoder.head), "float32")
        turns = self.op("Cast", positions, name="rotary", to=TensorProto.FLOAT)
        turns = self.op("Unsqueeze", turns, self.integers("rotary_axes", 1, 3), name="rotary")
        angles = self.op("Mul", turns, "frequencies", name="rotary")
        both = self.op("Concat", angles, angles, name="rotary", axis=-1)
        self.cos = self.op("Cast", self.op("Cos", both, name="rotary"), name="rotary/cos", to=self.type)
        self.sin = self.op("Cast", self.op("Sin", both, name="rotary"), name="rotary/sin", to=self.type)

    def build(self) -> onnx.ModelProto:
        """The whole model, but for the bytes of its tensors."""
        d = self.decoder
        tokens = ("input_ids", "position_ids") if d.family == "llama" else ("input_ids",)
        own = [helper.make_tensor_value_info(n, TensorProto.INT64, ["batch_size", "sequence_length"]) for n in tokens]
        whole = ["batch_size", "total_sequence_length"]
        own.append(helper.make_tensor_value_info("attention_mask", TensorProto.INT64, whole))
        embedding = self.writer.matrix("model.embed_tokens.weight", d.vocab, d.hidden, 1.0)
        learned = self.prepare()
        x = self.op("Gather", embedding, "input_ids", name="embed_tokens")
        x = self.op("Add", x, learned, name="embed") if learned else x
        for layer in range(d.layers):
            name = f"layers.{layer}"
            attended = self.attention(self.norm(x, f"{name}/input_norm"), layer, f"{name}/self_attn")
            x = self.op("Add", x, attended, name=f"{name}/attended")
            x = self.op("Add", x, self.mlp(self.norm(x, f"{name}/mlp_norm"), f"{name}/mlp"), name=f"{name}/out")
        x = self.norm(x, "final_norm")
        self._head(x, embedding)
        logits = helper.make_tensor_value_info("logits", self.type, ["batch_size", "sequence_length", d.vocab])
        used = {name for node in self.nodes for name in node.input}
        tensors = [tensor for tensor in self.writer.tensors if tensor.name in used]
        graph = helper.make_graph(self.nodes, d.family, [*own, *self.inputs], [logits, *self.outputs], tensors)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)

    def _head(self, x: str, embedding: str) -> None:
        d = self.decoder
        if d.tied:
            weight = self.op("Transpose", embedding, name="lm_head", perm=[1, 0])
            x = self.op("Mul", x, self.writer.constant("head_scale", d.hidden**-0.5), name="lm_head")
        else:
            weight = self.writer.matrix("lm_head.weight", d.hidden, d.vocab, 2 / np.sqrt(d.hidden))
        self.nodes.append(helper.make_node("MatMul", [x, weight], ["logits"], name="/lm_head/MatMul"))


def write_decoder(folder: Path, decoder: Decoder) -> Path:
    """Write `model.onnx`, its data and a `config.json` into a folder; returns the model's path."""
    folder.mkdir(parents=True, exist_ok=True)
    with CausalLM(folder, decoder) as writer:
        model = Network(decoder, writer).build()
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    onnx.checker.check_model(str(path))
    (folder / "config.json").write_text(json.dumps(_config(decoder), indent=2) + "\n")
    return path


def _config(d: Decoder) -> dict[str, Any]:
    """What transformers wants to know of such a model."""
    shared = {"model_type": d.family, "vocab_size": d.vocab, "hidden_size": d.hidden, "num_hidden_layers": d.layers,
              "num_attention_heads": d.heads, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
              "tie_word_embeddings": d.tied, "torch_dtype": d.dtype}  # fmt: skip
    if d.family == "opt":
        return shared | {"ffn_dim": d.inner, "max_position_embeddings": d.positions, "word_embed_proj_dim": d.hidden}
    return shared | {"intermediate_size": d.inner, "num_key_value_heads": d.kv_heads, "max_position_embeddings": 4096}


def main() -> None:
    """Write one model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--preset", choices=PRESETS)
    for name, value in asdict(Decoder()).items():
        if name == "tied":
            parser.add_argument("--tied", action="store_true", default=None)
        else:
            parser.add_argument("--" + name.replace("_", "-"), type=type(value))
    given = {name: value for name, value in vars(parser.parse_args()).items() if value is not None}
    folder, base = given.pop("folder"), PRESETS.get(given.pop("preset", ""), Decoder())
    path = write_decoder(folder, replace(base, **given))
    total = sum(file.stat().st_size for file in folder.iterdir())
    print(f"{path}: {total / 1e9:.2f} GB")


if __name__ == "__main__":
    main()
