"""Mutations of what is read besides models: arrays, samples of text, tokenizers, configurations, checkpoints."""

from __future__ import annotations

import hashlib
import io
import json
import random
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from support.models import Array
from tools.fuzzing.case import Case
from tools.fuzzing.wire import STRINGS

STAGE = "stage-00000.npz"
_DIGEST_BYTES = 32
_NUMBERS = (0, 1, 4, 64, 65, 1 << 16, 1 << 31, (1 << 32) - 1, 1 << 40, 1 << 62, 1 << 64, 10**30, -1, -(1 << 63))
_TYPES = ("<f4", ">f4", "<f8", "<i8", "|O", "<U100000000", "|V4", "|b1", "<c16", "|S2147483647", "<M8[ns]", "f4,f4", "")


def npz(arrays: dict[str, Array], *, compressed: bool = False) -> bytes:
    """A .npz file."""
    stream = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(stream, **arrays)  # type: ignore[arg-type]
    return stream.getvalue()


def header(text: str, data: bytes = b"", version: tuple[int, int] = (1, 0), length: int | None = None) -> bytes:
    """A .npy file with any header."""
    body = text.encode("latin1", "replace") + b"\n"
    count = len(body) if length is None else length
    packed = struct.pack("<H", count & 0xFFFF) if version == (1, 0) else struct.pack("<I", count & 0xFFFFFFFF)
    return b"\x93NUMPY" + bytes(version) + packed + body + data


def archive(entries: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    """A zip file."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as file:
        for name, data in entries.items():
            file.writestr(name, data)
    return stream.getvalue()


def _described(chance: random.Random) -> bytes:
    shape = ", ".join(str(chance.choice(_NUMBERS)) for _ in range(chance.choice((0, 1, 2, 2, 3, 40))))
    odd = (
        "(" * 300,
        "((1,)" * 50,
        "{'a': 1}",
        "",
        "\x00",
        "-" * 3000 + "1",
        "'''",
        "(None, 64)",
        "(True, 64)",
        "(4, 64,)",
    )
    shape = f"({shape},)" if chance.random() < 0.7 else chance.choice(odd)
    order = chance.choice(("False", "True", "1", "None"))
    text = f"{{'descr': '{chance.choice(_TYPES)}', 'fortran_order': {order}, 'shape': {shape}, }}"
    text = chance.choice((text, text, text, "[" * 2000, "\\" * 99, "{}", "import os", "1", " " * 20000, "{'descr': 5}"))
    length = chance.choice((None, None, None, 0, 5, 60000, 1 << 31))
    version = chance.choice(((1, 0), (2, 0), (3, 0), (9, 9)))
    return header(text, bytes(chance.choice((0, 256, 1024, 70000))), version, length)


def _bomb(chance: random.Random) -> bytes:
    rows = chance.choice((100_000, 300_000))
    text = f"{{'descr': '<f4', 'fortran_order': {chance.choice((True, False))}, 'shape': ({rows}, 64), }}"
    return archive({"x.npy": header(text, bytes(rows * 256))}, zipfile.ZIP_DEFLATED)


def _lying_sizes(data: bytes, chance: random.Random) -> bytes:
    """Another size in the archive's directory than there are bytes."""
    changed, at = bytearray(data), data.find(b"PK\x01\x02")
    if at >= 0:
        offset = chance.choice((10, 16, 20, 24, 28, 30, 42, 8))
        value = chance.choice((0, 1, 99, 1 << 20, (1 << 31) - 1, (1 << 32) - 1))
        struct.pack_into("<I", changed, at + offset, value)
    return bytes(changed)


def _pickled(chance: random.Random) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, x=np.array([{"a": 1}, None], dtype=object))
    return stream.getvalue()


def damaged(data: bytes, chance: random.Random) -> bytes:
    """Flipped, cut, repeated."""
    changed = bytearray(data)
    for _ in range(chance.choice((1, 2, 8))):
        at, way = chance.randrange(len(changed) or 1), chance.randrange(4)
        if way == 0 and changed:
            changed[at] ^= 1 << chance.randrange(8)
        elif way == 1 and changed:
            changed[at] = chance.choice((0, 0xFF, 0x80, 0x7B, 0x5B, 0x22))
        elif way == 2:
            del changed[at : at + chance.randrange(1, 30)]
        else:
            changed[at:at] = chance.choice(STRINGS)[:200]
    return bytes(changed)


def npz_case(chance: random.Random) -> Case:
    """A .npz file."""
    good = npz({"x": np.ones((4, 64), np.float32), "ids": np.zeros((4, 8), np.int64)}, compressed=chance.random() < 0.5)
    ways: dict[str, Callable[[], bytes]] = {
        "npz: header": lambda: archive({f"{chance.choice(('x', 'ids', 'x' * 300))}.npy": _described(chance)}),
        "npz: bomb": lambda: _bomb(chance),
        "npz: sizes": lambda: _lying_sizes(good, chance),
        "npz: objects": lambda: _pickled(chance),
        "npz: damage": lambda: damaged(good, chance),
        "npz: names": lambda: archive({name: header("{}") for name in ("../x.npy", "/etc/x.npy", "x", "x.npy\x00")}),
        "npz: another kind": lambda: chance.choice((b"\x93NUMPY", b"PK\x03\x04", b"", b"\x80\x04N.", good[:40])),
        "npz: twice": lambda: good + good,
        "npz: shapes": lambda: npz({"x": np.ones([chance.choice((0, 1, 2, 64)) for _ in range(3)], np.float32)}),
    }  # fmt: skip
    way = chance.choice(list(ways))
    return Case({"data.npz": ways[way]()}, mutation=way, job="feeds", settings=chance.randrange(3))


_VALUES = (
    *("1", "-1", "1e400", "NaN", "Infinity", "-Infinity", "1" * 5000, "18446744073709551616", "true", "null", '"a"'),
    *("{}", "[]", "[" * 200 + "]" * 200, "[" * 100_000, '{"a":' * 5000, "[[1],[2,3]]", "[[1,2],[3,4]]", '"\\ud800"'),
    *(
        '"\\u0000"',
        '"' + "x" * 200_000 + '"',
        "[" + "1," * 5000 + "1]",
        '["' + "y" * 5000 + '","z"]',
        "1e-400",
        "[1,true]",
    ),
)


def jsonl_case(chance: random.Random) -> Case:
    """A .jsonl file."""
    keys = ("text", "input_ids", "ids", "x", "attention_mask", "\\ud800", "nothing")
    lines = []
    for _ in range(chance.choice((1, 2, 5))):
        members = [f'"{chance.choice(keys)}": {chance.choice(_VALUES)}' for _ in range(chance.choice((0, 1, 1, 2)))]
        lines.append(chance.choice(("{%s}" % ", ".join(members), chance.choice(_VALUES), "", "{")))  # noqa: UP031
    data = chance.choice(("\n", "\r\n", "\r", "\u2028")).join(lines).encode()
    data = damaged(data, chance) if chance.random() < 0.3 else data
    return _with_tokenizer({"data.jsonl": data}, "jsonl", chance)


def text_case(chance: random.Random) -> Case:
    """A .txt file."""
    texts = (
        b"Hello world. " * 50,
        b"",
        b" \n",
        b"\xff\xfe",
        b"\xef\xbb\xbfx",
        b"\0" * 99,
        "é🙂".encode() * 99,
        b"a" * 300_000,
    )
    data = chance.choice(texts)
    data = damaged(data, chance) if chance.random() < 0.3 else data
    return _with_tokenizer({"data.txt": data}, "txt", chance)


def _tokenizer() -> bytes:
    vocabulary = {token: i for i, token in enumerate(["[UNK]", "[CLS]", "[SEP]", "hello", "world", "a", "e", "."])}
    special = {"id": "[CLS]", "ids": [1], "tokens": ["[CLS]"]}, {"id": "[SEP]", "ids": [2], "tokens": ["[SEP]"]}
    single = [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
              {"SpecialToken": {"id": "[SEP]", "type_id": 0}}]  # fmt: skip
    return json.dumps({
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [
            {"id": i, "content": t, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
             "special": True} for i, t in enumerate(("[UNK]", "[CLS]", "[SEP]"))],
        "normalizer": {"type": "Lowercase"}, "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": {"type": "TemplateProcessing", "single": single, "pair": single,
                           "special_tokens": {s["id"]: s for s in special}},
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "[UNK]"},
    }).encode()  # fmt: skip


def _replaced(value: object, chance: random.Random) -> object:
    """JSON with one value in it replaced, dropped or moved."""
    odd: tuple[object, ...] = (
        None,
        -1,
        1 << 70,
        1e308,
        "x",
        "\ud800",
        [],
        {},
        True,
        [[]],
        "(((((",
        "(a+)+$",
        {"type": "BPE"},
    )
    places: list[tuple[object, object]] = []

    def visit(item: object) -> None:
        pairs = item.items() if isinstance(item, dict) else enumerate(item) if isinstance(item, list) else ()
        for key, inner in pairs:
            places.append((item, key))
            visit(inner)

    visit(value)
    holder, key = chance.choice(places)
    if chance.random() < 0.3:
        del holder[key]  # type: ignore[attr-defined]
    else:
        holder[key] = chance.choice(odd)  # type: ignore[index]
    return value


def _with_tokenizer(files: dict[str, bytes], mutation: str, chance: random.Random) -> Case:
    tokenizer = _tokenizer()
    links: dict[str, str] = {}
    if chance.random() < 0.4:
        mutation += ", tokenizer"
        tokenizer = json.dumps(_replaced(json.loads(tokenizer), chance)).encode()
        tokenizer = damaged(tokenizer, chance) if chance.random() < 0.2 else tokenizer
    if chance.random() < 0.4:
        mutation += ", configuration"
        value = chance.choice(_VALUES)
        text = chance.choice((f'{{"max_position_embeddings": {value}}}', f'{{"model_max_length": {value}}}', value))
        name = chance.choice(("config.json", "tokenizer_config.json"))
        if chance.random() < 0.2:
            links[name] = chance.choice(("/dev/zero", "config.json", "/dev/stdin"))
        else:
            files[name] = text.encode()
    files["tokenizer.json"] = tokenizer
    return Case(files, links, mutation, job="feeds", settings=chance.randrange(3))


def work_case(chance: random.Random, stage: bytes, manifest: bytes) -> Case:
    """A work directory of a run that was stopped; the stage's digest is right unless that is what is damaged."""
    body = stage[:-_DIGEST_BYTES]
    ways: dict[str, Callable[[], bytes]] = {
        "stage: damage": lambda: damaged(body, chance),
        "stage: sizes": lambda: _lying_sizes(body, chance),
        "stage: header": lambda: archive({"0/0.b.npy": _described(chance), "about.npy": _described(chance)}),
        "stage: facts": lambda: _other_facts(body, chance),
        "stage: arrays": lambda: _other_arrays(body, chance),
        "stage: another kind": lambda: chance.choice((b"", b"PK", bytes(100), _pickled(chance))),
    }
    way = chance.choice((*ways, "stage: digest", "manifest"))
    files = {"onnxfq-work.json": manifest, STAGE: stage}
    if way == "stage: digest":
        files[STAGE] = damaged(stage, chance)
    elif way == "manifest":
        files["onnxfq-work.json"] = chance.choice((damaged(manifest, chance), chance.choice(_VALUES).encode()))
    else:
        made = ways[way]()
        files[STAGE] = made + hashlib.sha256(made).digest()
    return Case(files, mutation=way, job="work")


def _entries(data: bytes) -> dict[str, Array]:
    with np.load(io.BytesIO(data), allow_pickle=False) as file:
        return dict(file.items())


def _other_facts(body: bytes, chance: random.Random) -> bytes:
    arrays = _entries(body)
    about = _replaced(json.loads(arrays["about"].tobytes()), chance)
    arrays["about"] = np.frombuffer(json.dumps(about).encode(), np.uint8)
    return npz(arrays)


def _other_arrays(body: bytes, chance: random.Random) -> bytes:
    arrays = _entries(body)
    name = chance.choice(list(arrays))
    way = chance.randrange(4)
    if way == 0:
        del arrays[name]
    elif way == 1:
        arrays[name] = arrays[name].reshape(-1)
    elif way == 2:
        arrays[name] = np.zeros([chance.choice((0, 1, 7, 64)) for _ in range(3)], chance.choice((np.uint8, np.float32)))
    else:
        arrays["more"] = np.ones(3)
    return npz(arrays)


def seed_folder(path: Path) -> dict[str, bytes]:
    """The files of a folder."""
    return {file.name: file.read_bytes() for file in sorted(path.iterdir()) if file.is_file()}
