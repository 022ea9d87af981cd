"""The layout of transformers.js: names, folders, several data types side by side, and what it must be told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import onnxfq
from onnxfq import ModelError, UsageError
from onnxfq.model_files import check_models, models_to_write, output_of
from onnxfq.quantization import solve_weights
from onnxfq.transformers_js import ENDS, choose_dtype, file_name, parse_layout, split_stem
from support.models import model as parse
from support.models import write
from support.tiny import QUICK, contents, entries, mixed, operators, pair, quantize, refused, weight

Output = pytest.CaptureFixture[str]
LAYOUT = ("--layout", "transformers.js")
CONFIG = {"model_type": "bert", "hidden_size": 64, "num_hidden_layers": 2}


def half(path: Path, *, cache: bool = False) -> Path:
    """A model in float16, with keys of earlier tokens where it has a cache."""
    inputs = "float16[M, 64] x" + (", float16[1, 1, past, 64] past_key_values_0_key" if cache else "")
    outputs = "float16[M, 64] y" + (", float16[1, 1, past, 64] present_0_key" if cache else "")
    nodes = "y = MatMul(x, w)" + (" present_0_key = Identity(past_key_values_0_key)" if cache else "")
    path.parent.mkdir(parents=True, exist_ok=True)
    return write(parse(nodes, x=inputs, y=outputs, w=weight().astype(np.float16)), path)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """An export: a model, its configuration and tokenizer."""
    folder = tmp_path / "export"
    pair(folder / "model.onnx")
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "tokenizer.json").write_text("{}")
    return folder


def config(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return found


# Names


@pytest.mark.parametrize("dtype", ENDS)
def test_every_name_is_read_as_it_is_written(dtype: str) -> None:
    for stem in ("model", "decoder_model_merged", "vision_encoder"):
        name = file_name(Path(f"{stem}.onnx"), dtype)
        assert split_stem(name.removesuffix(".onnx")) == (stem, dtype)
        assert file_name(Path(name), "q4") == f"{stem}_q4.onnx"


@pytest.mark.parametrize(
    ("bits", "integers", "weights", "dtype"),
    [
        (2, False, "float32", "q2"), (4, False, "float32", "q4"), (8, False, "float32", "q8"),
        (2, False, "float16", "q2f16"), (4, False, "float16", "q4f16"), (8, True, "float32", "int8"),
    ],
)  # fmt: skip
def test_bits_format_and_source_decide(bits: int, integers: bool, weights: str, dtype: str) -> None:
    for layout in ("transformers.js", f"transformers.js:{dtype}"):
        found = choose_dtype(layout, bits=bits, integers=integers, weights=weights, model=Path("m.onnx"))
        assert found == dtype


@pytest.mark.parametrize("asked", ["int8", "uint8", "q8"])
def test_products_of_integers_have_three_names(asked: str) -> None:
    layout = f"transformers.js:{asked}"
    assert choose_dtype(layout, bits=8, integers=True, weights="float32", model=Path("m.onnx")) == asked


@pytest.mark.parametrize(
    ("layout", "bits", "weights", "says"),
    [
        ("transformers.js:q4f16", 4, "float32", "weights of 4 bits in a model of float32, which is q4"),
        ("transformers.js:q4", 4, "float16", "which is q4f16"),
        ("transformers.js:int8", 8, "float32", "int8 is not what 'm.onnx' becomes"),
        ("transformers.js", 8, "float16", "no name for weights of 8 bits in a model of float16"),
    ],
)
def test_what_has_no_such_name_is_refused(layout: str, bits: int, weights: str, says: str) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        choose_dtype(layout, bits=bits, integers=False, weights=weights, model=Path("m.onnx"))
    assert "`bits" in str(caught.value)
    with pytest.raises(ModelError, match="no name for models of bfloat16"):
        choose_dtype("transformers.js", bits=4, integers=False, weights="bfloat16", model=Path("m.onnx"))


@pytest.mark.parametrize("layout", ["webgpu", "source:q4", "transformers.js:q3", "transformers.js:fp16", "", ":"])
def test_layouts_that_do_not_exist_are_refused(layout: str, source: Path) -> None:
    with pytest.raises(UsageError, match="`layout`"):
        onnxfq.quantize(source, layout=layout)
    assert parse_layout(" transformers.js:q8 ") == "transformers.js:q8"


# What is written


def test_a_folder_as_transformers_js_loads_it(source: Path, capsys: Output) -> None:
    before = contents(source)
    assert quantize(source, *LAYOUT, "--json", *QUICK) == 0
    told = json.loads(capsys.readouterr().out)
    result = source.with_name("export-transformers.js")
    assert told["output"] == str(result)
    assert told["settings"]["layout"] == "transformers.js"
    assert [note.partition(":")[0] for note in told["warnings"]] == ["NOT VALIDATED"]
    assert sorted(contents(result)) == ["config.json", "onnx/model_q4.onnx", "tokenizer.json"]
    assert operators(result / "onnx" / "model_q4.onnx") == ["MatMulNBits", "MatMulNBits"]
    assert (result / "config.json").read_bytes() == (source / "config.json").read_bytes()
    assert contents(source) == before


def test_data_types_are_added_and_the_others_not_touched(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "web"
    assert quantize(source, "-o", out, *LAYOUT, *QUICK) == 0
    (out / "README.md").write_text("a card")
    (out / ".git").mkdir()
    (out / ".git" / "HEAD").write_text("ref")
    (out / "latest").symlink_to("onnx/model_q4.onnx")
    (out / "tokenizer.json").write_text('{"changed": "by its owner"}')
    before = {path: path.stat() for path in out.rglob("*") if path.is_file()}
    for arguments in (("--bits", "8"), ("--bits", "2")):
        assert quantize(source, "-o", out, *arguments, *LAYOUT, *QUICK) == 0
    assert entries(out / "onnx") == ["model_q2.onnx", "model_q4.onnx", "model_quantized.onnx"]
    for path, was in before.items():
        now = path.stat()
        assert (now.st_ino, now.st_mtime_ns, now.st_size) == (was.st_ino, was.st_mtime_ns, was.st_size), path
    assert (out / "latest").is_symlink()
    assert entries(tmp_path) == ["export", "web"]


def test_the_same_type_again_is_replaced_with_its_data(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "web"
    mixed(source / "model.onnx", external=True)
    assert quantize(source, "-o", out, *LAYOUT, *QUICK) == 0
    assert entries(out / "onnx") == ["model_q4.onnx", "model_q4.onnx_data"]
    assert operators(out / "onnx" / "model_q4.onnx").count("MatMulNBits") == 2
    assert config(out) == {**CONFIG, "transformers.js_config": {"use_external_data_format": {"model_q4.onnx": 1}}}
    old = (out / "onnx" / "model_q4.onnx").read_bytes()
    mixed(source / "model.onnx")
    assert quantize(source, "-o", out, *LAYOUT, *QUICK) == 0
    assert entries(out / "onnx") == ["model_q4.onnx"]
    assert (out / "onnx" / "model_q4.onnx").read_bytes() != old
    assert config(out)["transformers.js_config"]["use_external_data_format"] == {"model_q4.onnx": 0}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, {"use_external_data_format": {"model_q4.onnx": 1}}),
        ({"dtype": "q4", "use_external_data_format": True}, None),
        ({"use_external_data_format": {"model": 1}}, None),
        (
            {"use_external_data_format": {"model_fp16.onnx": 2}},
            {"use_external_data_format": {"model_fp16.onnx": 2, "model_q4.onnx": 1}},
        ),
    ],
)
def test_what_the_configuration_says_stays(
    source: Path, before: dict[str, Any], after: dict[str, Any] | None, tmp_path: Path
) -> None:
    mixed(source / "model.onnx", external=True)
    (source / "config.json").write_text(json.dumps({**CONFIG, "transformers.js_config": before}))
    assert quantize(source, "-o", tmp_path / "web", *LAYOUT, *QUICK) == 0
    assert config(tmp_path / "web")["transformers.js_config"] == (before if after is None else after)


def test_models_in_half_precision_beside_others(source: Path, tmp_path: Path) -> None:
    half(source / "model_fp16.onnx", cache=True)
    assert quantize(source, "-o", tmp_path / "web", *LAYOUT, *QUICK) == 0
    assert entries(tmp_path / "web" / "onnx") == ["model_q4.onnx", "model_q4f16.onnx"]
    assert config(tmp_path / "web")["transformers.js_config"] == {"kv_cache_dtype": {"q4f16": "float16"}}


def test_a_folder_of_the_hub(tmp_path: Path, capsys: Output) -> None:
    """Models in `onnx`, those in floating point alone, and of decoders the merged one."""
    hub = tmp_path / "hub"
    for name in ("encoder_model", "decoder_model_merged", "decoder_model", "decoder_with_past_model",
                 "encoder_model_quantized", "encoder_model_bnb4"):  # fmt: skip
        pair(hub / "onnx" / f"{name}.onnx")
    (hub / "config.json").write_text(json.dumps(CONFIG))
    (hub / "onnx" / "model.onnx_data_1").write_bytes(b"weights")
    assert [path.stem for path in models_to_write(hub, "transformers.js")] == ["decoder_model_merged", "encoder_model"]
    check_models(hub, "transformers.js")
    for source in (hub, hub / "onnx"):
        out = tmp_path / f"web-{source.name}"
        assert quantize(source, "-o", out, *LAYOUT, *QUICK) == 0
        names = ["decoder_model_merged_q4.onnx", "encoder_model_q4.onnx"]
        assert sorted(contents(out)) == ["config.json", *(f"onnx/{name}" for name in names)]
        assert "encoder_model_quantized.onnx" in " ".join(capsys.readouterr().err.split())
    assert output_of(hub / "onnx", None, 4, "transformers.js") == tmp_path / "hub-transformers.js"


def test_one_model_takes_its_settings_along(source: Path, tmp_path: Path) -> None:
    """One data type a file: of an encoder and a decoder each is quantized as suits it."""
    (source / "model.onnx").rename(source / "encoder_model.onnx")
    (source / "thesis.txt").write_text("years of work")
    assert quantize(source / "encoder_model.onnx", "-o", tmp_path / "web", "--bits", "8", *LAYOUT, *QUICK) == 0
    files = ["config.json", "onnx/encoder_model_quantized.onnx", "tokenizer.json"]
    assert sorted(contents(tmp_path / "web")) == files
    assert quantize(source / "encoder_model.onnx", *LAYOUT, *QUICK) == 0
    assert entries(source.with_name("export-transformers.js") / "onnx") == ["encoder_model_q4.onnx"]


def test_a_model_without_targets_keeps_the_name_of_its_type(source: Path, tmp_path: Path) -> None:
    write(parse("y = Relu(x)", y="float[M, 64] y"), source / "post.onnx")
    assert quantize(source, "-o", tmp_path / "web", *LAYOUT, *QUICK) == 0
    assert entries(tmp_path / "web" / "onnx") == ["model_q4.onnx", "post.onnx"]


def test_the_better_of_two_is_kept_with_its_data(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mixed(source / "model.onnx", external=True)
    np.savez(tmp_path / "x.npz", ids=np.random.default_rng(0).integers(100, size=(64, 2)))
    monkeypatch.setattr("onnxfq.quantization.keep_better.Judgement.calibration_helped", property(lambda _: False))
    report = onnxfq.quantize(source, tmp_path / "web", layout="transformers.js", calib=tmp_path / "x.npz")
    assert report.algorithm == "hqq"
    assert entries(tmp_path / "web" / "onnx") == ["model_q4.onnx", "model_q4.onnx_data"]
    onnx.load(tmp_path / "web" / "onnx" / "model_q4.onnx")


def test_a_missing_configuration_is_told(source: Path, capsys: Output) -> None:
    (source / "config.json").unlink()
    assert quantize(source, *LAYOUT, *QUICK) == 0
    assert "transformers.js needs config.json" in " ".join(capsys.readouterr().err.split())


# What is refused


def test_the_folder_of_another_model_is_refused_before_any_work(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    out = tmp_path / "web"
    assert quantize(source, "-o", out, *LAYOUT, *QUICK) == 0
    monkeypatch.setattr(solve_weights, "solve", lambda *_: pytest.fail("work began"))
    (source / "config.json").write_text(json.dumps({**CONFIG, "hidden_size": 32, "torch_dtype": "float16"}))
    capsys.readouterr()
    says = ("holds another model", "hidden_size 64; got 32", "another -o")
    refused(tmp_path, capsys, source, "-o", out, *LAYOUT, *QUICK, code=2, says=says)
    (out / "config.json").unlink()
    (out / "onnx" / "model_q4.onnx").unlink()
    (out / "onnx").rmdir()
    refused(tmp_path, capsys, source, "-o", out, *LAYOUT, *QUICK, code=3, says=("Will not replace", "tokenizer.json"))


@pytest.mark.parametrize("output", [".", "..", "onnx"])
def test_the_source_is_never_touched(source: Path, output: str, capsys: Output) -> None:
    (source / "onnx").mkdir()
    refused(source.parent, capsys, source, "-o", source / output, *LAYOUT, *QUICK, code=2, says="overlap")
    if output != "onnx":
        arguments = (source / "model.onnx", "-o", source / output, *LAYOUT, *QUICK)
        refused(source.parent, capsys, *arguments, code=2, says="lies in the output folder")


def test_sources_that_transformers_js_would_not_load(source: Path, capsys: Output) -> None:
    pair(source / "decoder_model.onnx")
    says = ("loads a decoder as decoder_model_merged.onnx", "-with-past")
    refused(source.parent, capsys, source, *LAYOUT, *QUICK, says=says)
    (source / "decoder_model.onnx").unlink()
    (source / "model.onnx").rename(source / "model_q4.onnx")
    refused(source.parent, capsys, source, *LAYOUT, *QUICK, says=("no model in floating point", "model_fp16.onnx"))


def test_two_models_of_one_name_are_refused(source: Path, capsys: Output) -> None:
    pair(source / "model_fp16.onnx")
    says = ("model_fp16.onnx'", "would both become 'onnx/model_q4.onnx'")
    refused(source.parent, capsys, source, *LAYOUT, *QUICK, code=2, says=says)


def test_a_full_disk_leaves_the_family_as_it_was(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "web"
    assert quantize(source, "-o", out, *LAYOUT, *QUICK) == 0
    before = contents(out)

    def fails(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("onnxfq.system.output._swap", fails)
    assert quantize(source, "-o", out, "--bits", "8", *LAYOUT, *QUICK) == 3
    assert contents(out) == before
    assert entries(tmp_path) == ["export", "web"]
