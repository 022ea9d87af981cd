"""Sizes from the configuration files beside a model: of each kind of input, and from files that anybody wrote."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from onnxfq.errors import DataError
from onnxfq.evaluation.evaluation_config import find_tokenizer
from onnxfq.feeds import fill, generate, longest, with_configured_sizes
from onnxfq.feeds.configurations import TOKENIZER, settings_folder
from onnxfq.feeds.configured_sizes import MOST_SIDE, configured
from onnxfq.signature import Dimension, Signature, TensorSpec

Settings = dict[str, object]
PIXELS = ("pixel_values", "batch", "num_channels", "height", "width")
KEYS = ("past_key_values.0.key", "batch", "n", "past", "kv_cache_dim")
CONFIG, PREPROCESSOR, GENAI = "config.json", "preprocessor_config.json", "genai_config.json"


def floats(name: str, *shape: Dimension, fitting: tuple[int | None, ...] = ()) -> Signature:
    return Signature((TensorSpec(name, "float32", shape, fitting=fitting),), ())


def write(folder: Path, files: dict[str, Settings]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, settings in files.items():
        (folder / name).write_text(json.dumps(settings))
    return folder / "model.onnx"


def shape(model: Path, name: str, *dimensions: Dimension) -> tuple[int, ...]:
    signature = with_configured_sizes(floats(name, *dimensions), model)
    return generate(signature, samples=1, seq_len=7, seed=0)[0][name].shape


# the files, the input, and its shape
CASES: dict[str, tuple[dict[str, Settings], tuple[Dimension, ...], tuple[int, ...]]] = {
    "vit": ({CONFIG: {"image_size": 96, "patch_size": 16, "num_channels": 1}}, PIXELS, (1, 1, 96, 96)),
    "rectangle": ({CONFIG: {"image_size": [32, 48]}}, PIXELS, (1, 3, 32, 48)),
    "channels last": (
        {CONFIG: {"image_size": [32, 48]}}, ("image", "n", "h", "w", 3), (1, 32, 48, 3),
    ),
    "clip": ({CONFIG: {"vision_config": {"image_size": 32}, "text_config": {}}}, PIXELS, (1, 3, 32, 32)),
    "trocr": ({CONFIG: {"encoder": {"image_size": 64, "num_channels": 3}}}, PIXELS, (1, 3, 64, 64)),
    "timm": ({CONFIG: {"pretrained_cfg": {"input_size": [1, 40, 48]}}}, ("x", "N", "C", "H", "W"), (1, 3, 40, 48)),
    "cropped": ({PREPROCESSOR: {"size": {"shortest_edge": 256}, "crop_size": 128}}, PIXELS, (1, 3, 128, 128)),
    "not cropped": (
        {PREPROCESSOR: {"size": 160, "crop_size": 128, "do_center_crop": False}}, PIXELS, (1, 3, 160, 160),
    ),
    "scaled": ({PREPROCESSOR: {"size": {"height": 48, "width": 64}}}, PIXELS, (1, 3, 48, 64)),
    "edge": ({PREPROCESSOR: {"size": {"shortest_edge": 160}}}, PIXELS, (1, 3, 160, 160)),
    "long edge": ({PREPROCESSOR: {"size": {"shortest_edge": 800, "longest_edge": 1333}}}, PIXELS, (1, 3, 224, 224)),
    "processor": (
        {"processor_config.json": {"image_processor": {"size": {"height": 40, "width": 40}}}}, PIXELS, (1, 3, 40, 40),
    ),
    "diffusion": (
        {CONFIG: {"sample_size": 64, "in_channels": 4, "cross_attention_dim": 96}},
        ("sample", "batch", "num_channels", "height", "width"),
        (1, 4, 64, 64),
    ),
    "latent": (
        {CONFIG: {"sample_size": 512, "in_channels": 3, "latent_channels": 4}},
        ("latent_sample", "batch", "num_channels_latent", "height_latent", "width_latent"),
        (1, 4, 32, 32),
    ),
    "whisper": (
        {CONFIG: {"model_type": "whisper", "num_mel_bins": 128, "max_source_positions": 1500}},
        ("input_features", "batch_size", "feature_size", "encoder_sequence_length"),
        (1, 128, 3000),
    ),
    "spectrum": (
        {
            CONFIG: {"model_type": "audio-spectrogram-transformer", "max_length": 1024},
            PREPROCESSOR: {"feature_size": 1, "num_mel_bins": 128},
        },
        ("input_values", "batch", "time", "mel"),
        (1, 1024, 128),
    ),
    "text to write": (
        {CONFIG: {"model_type": "speech_to_text", "max_length": 200}, PREPROCESSOR: {"num_mel_bins": 80}},
        ("input_features", "batch", "time", "mel"),
        (1, 7, 80),
    ),
    "text that an encoder's configuration holds": (
        {CONFIG: {"encoder": {"max_length": 20}}}, ("input_features", "batch", "time", 80), (1, 7, 80),
    ),
    "section of sound": (
        {CONFIG: {"max_length": 20, "audio_config": {"max_length": 300}}},
        ("input_features", "batch", "time", 80),
        (1, 300, 80),
    ),
    "extractor": (
        {CONFIG: {"max_length": 20}, PREPROCESSOR: {"max_length": 400}},
        ("input_features", "batch", "time", 80),
        (1, 400, 80),
    ),
    "features": (
        {PREPROCESSOR: {"feature_size": 80, "nb_max_frames": 300}}, ("input_features", "b", None, None), (1, 300, 80),
    ),
    "wave": (
        {PREPROCESSOR: {"feature_size": 1, "sampling_rate": 8000}}, ("input_values", "b", "sequence_length"), (1, 8000),
    ),
    "hidden": ({CONFIG: {"text_config": {"hidden_size": 48}}}, ("inputs_embeds", "b", "s", "hidden"), (1, 7, 48)),
    "encoder": (
        {CONFIG: {"d_model": 48, "cross_attention_dim": 96}}, ("encoder_hidden_states", "b", "s", None), (1, 7, 96),
    ),
    "genai": (
        {GENAI: {"model": {"decoder": {"head_size": 96, "num_key_value_heads": 2, "num_attention_heads": 8}}}},
        KEYS,
        (1, 2, 0, 96),
    ),
    "shared heads": (
        {CONFIG: {"hidden_size": 512, "num_attention_heads": 8, "num_key_value_heads": 2}}, KEYS, (1, 2, 0, 64),
    ),
    "head size": ({CONFIG: {"d_model": 512, "num_heads": 6, "d_kv": 32}}, KEYS, (1, 6, 0, 32)),
    "nothing": ({CONFIG: {"model_type": "vit"}}, PIXELS, (1, 3, 224, 224)),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_sizes_of_inputs_are_those_of_the_configurations(case: str, tmp_path: Path) -> None:
    files, (name, *dimensions), wanted = CASES[case]
    assert shape(write(tmp_path, files), str(name), *dimensions) == wanted


def test_fixed_sizes_and_those_of_the_graph_go_before_configured_ones(tmp_path: Path) -> None:
    model = write(tmp_path, {CONFIG: {"image_size": 96, "num_channels": 1}})
    signature = with_configured_sizes(floats("x", "b", 3, "h", "w", fitting=(None, None, 64, None)), model)
    assert signature.inputs[0].fitting == (None, None, 64, 96)
    assert generate(signature, samples=1, seq_len=7, seed=0)[0]["x"].shape == (1, 3, 64, 96)


def test_what_is_given_goes_before_all(tmp_path: Path) -> None:
    model = write(tmp_path, {GENAI: {"model": {"decoder": {"head_size": 96}}}})
    cache = TensorSpec("past_key_values.0.key", "float32", ("b", 2, "past", "d"))
    other = TensorSpec("past_key_values.0.value", "float32", ("b", 2, "past", "d"))
    signature = with_configured_sizes(Signature((cache, other), ()), model)
    feed = fill({"past_key_values.0.key": np.zeros((1, 2, 5, 32), np.float32)}, signature)
    assert feed["past_key_values.0.value"].shape == (1, 2, 5, 32)


def test_exporters_leave_configurations_above_their_folder(tmp_path: Path) -> None:
    write(tmp_path, {CONFIG: {"image_size": 96}})
    assert shape(write(tmp_path / "onnx", {}), *PIXELS) == (1, 3, 96, 96)
    assert shape(write(tmp_path / "other", {}), *PIXELS) == (1, 3, 224, 224)
    assert shape(write(tmp_path / "onnx", {CONFIG: {"image_size": 32}}), *PIXELS) == (1, 3, 32, 32)


@pytest.mark.parametrize("text", ["{", "[" * 100_000, "\x00", "[1, 2]", "null", '"a"', "1" * 5000])
def test_configurations_that_nobody_can_read_are_passed_over(text: str, tmp_path: Path) -> None:
    for file in (CONFIG, PREPROCESSOR, GENAI, "processor_config.json"):
        (tmp_path / file).write_text(text)
    assert shape(tmp_path / "model.onnx", *PIXELS) == (1, 3, 224, 224)


@pytest.mark.parametrize(
    "value", [-1, 0, 0.5, True, None, "96", 10**9, MOST_SIDE + 1, float("inf"), [], [96], [96] * 9, [[1], 2], {}]
)
@pytest.mark.parametrize("key", ["image_size", "crop_size", "vision_config", "num_channels"])
def test_sizes_that_cannot_be_meant_are_passed_over(key: str, value: object, tmp_path: Path) -> None:
    model = write(tmp_path, {CONFIG: {key: value}, PREPROCESSOR: {key: value, "size": value}})
    assert shape(model, *PIXELS) == (1, 3, 224, 224)


def test_settings_of_any_kind_crash_nothing() -> None:
    odd: list[object] = [None, 1, "a", [], {}, [1, 2], {"height": None}, {"decoder": 3}, {"decoder": {"head_size": []}}]
    keys = (
        "model",
        "vision_config",
        "size",
        "crop_size",
        "hidden_size",
        "num_attention_heads",
        "model_type",
        "encoder",
    )
    for value in odd:
        configured({name: dict.fromkeys(keys, value) for name in (CONFIG, GENAI, PREPROCESSOR)})


@pytest.mark.parametrize(
    ("file", "settings", "limit"),
    [
        (CONFIG, {"text_config": {"max_position_embeddings": 77}}, 77),
        (CONFIG, {"decoder": {"max_position_embeddings": 66}}, 66),
        (CONFIG, {"max_target_positions": 448, "max_source_positions": 1500}, 448),
        (CONFIG, {"n_positions": 1024}, 1024),
        (GENAI, {"model": {"context_length": 4096}}, 4096),
        (CONFIG, {"text_config": [1]}, None),
    ],
)
def test_the_longest_input(file: str, settings: Settings, limit: int | None, tmp_path: Path) -> None:
    write(tmp_path, {file: settings})
    assert longest(tmp_path) == limit


def test_where_text_is_read_a_configuration_that_cannot_be_is_told(tmp_path: Path) -> None:
    (tmp_path / CONFIG).write_text("{")
    with pytest.raises(DataError, match="cannot be read as JSON"):
        longest(tmp_path)


def test_settings_lie_beside_a_model_or_above_its_folder_onnx(tmp_path: Path) -> None:
    for folder in ("", "onnx", "other"):
        (tmp_path / folder).mkdir(exist_ok=True)
    (tmp_path / TOKENIZER).write_text("{}")
    assert settings_folder(tmp_path / "onnx" / "model.onnx", TOKENIZER) == tmp_path
    assert settings_folder(tmp_path / "onnx", TOKENIZER) == tmp_path
    assert settings_folder(tmp_path / "onnx" / "model.onnx", CONFIG) == tmp_path / "onnx"
    assert settings_folder(tmp_path / "other" / "model.onnx", TOKENIZER) == tmp_path / "other"
    (tmp_path / "onnx" / TOKENIZER).write_text("{}")
    assert settings_folder(tmp_path / "onnx" / "model.onnx", TOKENIZER) == tmp_path / "onnx"
    assert find_tokenizer(None, tmp_path / "other", tmp_path / "onnx" / "model.onnx") == tmp_path / "onnx"
