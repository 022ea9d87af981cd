"""What `import onnxfq` offers."""

from __future__ import annotations

import ast
import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import onnx
import pytest

import onnxfq
from onnxfq import Options, Scheme, UsageError
from onnxfq.option_changes import Changes, choose_options
from support.tiny import pair


def declared() -> set[str]:
    """Names that type checkers see."""
    tree = ast.parse(Path(onnxfq.__file__).read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    names = {alias.name for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    return names | {ast.unparse(node.target) for node in block.body if isinstance(node, ast.AnnAssign)}


def test_all_is_sorted_importable_and_what_type_checkers_see() -> None:
    assert onnxfq.__all__ == sorted(onnxfq.__all__)
    assert set(onnxfq.__all__) == declared()
    for name in onnxfq.__all__:
        assert getattr(onnxfq, name) is not None
        assert name in dir(onnxfq)


def test_public_classes_and_functions_are_documented() -> None:
    for name in onnxfq.__all__:
        if name != "__version__":
            assert getattr(onnxfq, name).__doc__


def test_all_errors_are_one_kind_and_public() -> None:
    from onnxfq import errors

    kinds = {name for name, value in vars(errors).items() if isinstance(value, type)}
    assert kinds <= set(onnxfq.__all__)
    assert all(issubclass(getattr(onnxfq, name), onnxfq.OnnxfqError) for name in kinds)


def test_other_names_do_not_exist() -> None:
    with pytest.raises(AttributeError, match="no attribute 'quantise'"):
        _ = onnxfq.quantise  # type: ignore[attr-defined]


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = "import sys, onnxfq; print(sorted({'numpy', 'numba', 'onnx', 'onnxruntime', 'rich'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


# Settings


def test_settings_can_be_given_one_by_one(tmp_path: Path) -> None:
    report = onnxfq.quantize(
        str(pair(tmp_path / "m.onnx")), bits=8, block_size="64", algorithm="rtn", validate=False, include="first"
    )
    assert report.scheme == "int8, block 64, asymmetric, activations int8"
    assert [t.name for t in report.targets] == ["first"]
    assert report.output == str(tmp_path / "m.int8.onnx")
    assert onnx.load(tmp_path / "m.int8.onnx").graph.node[0].op_type == "MatMulNBits"


def test_inspect_takes_the_same_settings(tmp_path: Path) -> None:
    report = onnxfq.inspect(pair(tmp_path / "m.onnx"), bits=2, block_size="channel", exclude=["first"])
    assert [(t.name, t.bits) for t in report.targets] == [("second", 2)]


@pytest.mark.parametrize("call", [onnxfq.quantize, onnxfq.inspect])
def test_unknown_settings_are_a_type_error(call: Callable[..., object], tmp_path: Path) -> None:
    with pytest.raises(
        TypeError,
        match=r"Unknown settings: blocksize, exlude\. There are: scheme, format.* Did you mean block_size, exclude\?$",
    ):
        call(tmp_path / "m.onnx", exlude="x", blocksize=32)


def test_changes_are_the_fields_of_options_and_scheme() -> None:
    fields = set(Options.__dataclass_fields__) | set(Scheme.__dataclass_fields__)
    assert set(get_type_hints(Changes)) == fields


def test_single_settings_change_those_given_all_at_once() -> None:
    options = Options(scheme=Scheme(bits=8, symmetric=True), samples=3)
    chosen = choose_options(options, {"block_size": 128, "seed": 7})
    assert chosen.scheme == Scheme(bits=8, block_size=128, symmetric=True)
    assert (chosen.samples, chosen.seed) == (3, 7)
    assert options.scheme.block_size == 32


def test_a_scheme_is_given_whole_or_in_pieces() -> None:
    assert choose_options(None, {"scheme": Scheme(bits=2)}).scheme.bits == 2
    with pytest.raises(TypeError, match=r"not both \(got scheme and bits\)"):
        choose_options(None, {"scheme": Scheme(), "bits": 8})


@pytest.mark.parametrize(("provider", "symmetric"), [("cpu", False), ("cuda", True)])
def test_where_nothing_is_said_the_provider_decides_about_zero_points(
    provider: str, symmetric: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("onnxfq.option_changes.resolve_provider", lambda name: name)
    assert choose_options(None, {"provider": provider}).scheme.symmetric is symmetric
    assert choose_options(None, {"provider": provider, "symmetric": None}).scheme.symmetric is symmetric
    for said in (True, False):
        assert choose_options(None, {"provider": provider, "symmetric": said}).scheme.symmetric is said
        given = Options(provider=provider, scheme=Scheme(symmetric=said))
        assert choose_options(given, {"bits": 8}).scheme.symmetric is said
        assert choose_options(None, {"provider": provider, "scheme": given.scheme}).scheme.symmetric is said


def test_patterns_are_one_or_several() -> None:
    assert Options(include="a", exclude=["b", "c"]).as_json()["include"] == ["a"]
    assert Options(include="a", exclude=["b", "c"]).exclude == ("b", "c")


def test_paths_are_text_or_paths() -> None:
    assert Options(calib="x.npz", tokenizer=Path("t")).as_json() | {"calib": "x.npz", "tokenizer": "t"} == (
        Options(calib=Path("x.npz"), tokenizer="t").as_json()
    )


@pytest.mark.parametrize(
    "changes",
    [{"samples": 0}, {"seq_len": -1}, {"threads": 0}, {"seed": -1}, {"max_error": float("nan")}, {"min_speedup": -1.0}],
)
def test_values_that_make_no_sense_are_refused(changes: Changes) -> None:
    with pytest.raises(UsageError, match="or more"):
        choose_options(None, changes)


WRONG_TYPES: dict[str, object] = {
    "samples": "3", "seq_len": 2.5, "seed": True, "memory": 1.5, "threads": "2", "validate": 1, "allow_slow": "no",
    "resume": None, "algorithm": 3, "provider": None, "tokenizer": 5, "work_dir": 1, "eval_text": 1, "embeddings": [8],
    "others": 8,
    "max_error": [1], "max_kl": {}, "min_cosine": (), "max_ppl_increase": b"1", "min_speedup": True, "scheme": "int4",
    "schemes": 3, "include": 3, "exclude": [3], "calib": 3, "bits": 4.0, "block_size": 32.0,
    "format": 8, "target": 2, "workload": 1.5, "auto_format": "yes",
    "symmetric": "maybe", "activations": 8, "eval_data": 3, "constant_inputs": 1, "unshare": 1, "executor": 3,
    "layout": 1, "target_size": 2.5, "tune": 1.5,
}  # fmt: skip


def test_every_setting_refuses_values_of_other_types_by_name() -> None:
    assert set(WRONG_TYPES) == set(get_type_hints(Changes))
    for name, value in WRONG_TYPES.items():
        with pytest.raises((UsageError, onnxfq.SchemeError)) as caught:
            choose_options(None, {name: value})  # type: ignore[misc]
        message = str(caught.value)
        assert name in message
        assert "got" in message


def test_the_types_that_are_wanted_are_told() -> None:
    for name, value, told in (
        ("scheme", "int4", "`scheme` must be a Scheme (got str). Write onnxfq.Scheme(bits=4)"),
        ("seq_len", "3", "`seq_len` must be a whole number (got '3')."),
        ("threads", "3", "`threads` must be a whole number or None (got '3')."),
        ("tokenizer", 5, "`tokenizer` must be a path or None (got 5)."),
        ("max_error", [1], "`max_error` must be a number or text or None (got [1])."),
        ("validate", 1, "`validate` must be True or False (got 1)."),
    ):
        with pytest.raises(UsageError) as caught:
            choose_options(None, {name: value})  # type: ignore[misc]
        assert str(caught.value).startswith(told)


@pytest.mark.parametrize(("call", "settings"), [
    (onnxfq.benchmark, {"lengths": "16", "batches": [1.5], "tokens": "3", "seconds": "1", "loads": None}),
    (onnxfq.evaluate, {"seq_len": "16", "samples": 1.5, "task": 3, "text": 3, "provider": None, "threads": True}),
])  # fmt: skip
def test_other_verbs_refuse_values_of_other_types_by_name(
    call: Callable[..., object], settings: dict[str, object]
) -> None:
    for name, value in settings.items():
        with pytest.raises(UsageError, match=rf"`{name}` must be .* \(got "):
            call("m.onnx", **{name: value})


def test_self_is_a_word_and_not_a_path() -> None:
    assert Options(calib="self").calibrates_itself
    assert Options(calib="self").as_json()["calib"] == "self"
    assert Options(calib=Path("self")).as_json()["calib"] == "./self"
    for path in ("./self", Path("self"), None):
        assert not Options(calib=path).calibrates_itself


def test_samples_may_come_from_python() -> None:
    told = Options(calib=({"x": np.zeros(1)} for _ in range(2))).as_json()
    assert told["calib"] == "given: from Python"
    assert not Options(calib=[]).calibrates_itself


@pytest.mark.parametrize("calib", [2.5, 3])
def test_calibration_data_that_are_no_samples_are_refused(calib: Any) -> None:  # noqa: ANN401
    with pytest.raises(UsageError, match=rf"got {type(calib).__name__}\)\. Give a list with a dict for each sample"):
        Options(calib=calib)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("2GB", 2 * 10**9), ("500MB", 5 * 10**8), ("1.5GiB", 3 * 2**29), ("1_000", None), ("1000", 1000), ("7 b", 7),
        ("3k", 3000), ("1tib", 2**40), (12, 12), ("0", 0), ("GB", None), ("2XB", None), ("2GB/s", None), ("2iB", None),
    ],
)  # fmt: skip
def test_sizes_of_memory(text: int | str, size: int | None) -> None:
    if size is None:
        with pytest.raises(UsageError, match=rf"`memory` must be a size \(got '{text}'\)\. Write 2GB"):
            choose_options(None, {"memory": text})
    else:
        assert choose_options(None, {"memory": text}).memory == size


def test_work_directory_memory_and_resume_do_not_show_in_what_reproduces_a_run() -> None:
    asked: Changes = {"work_dir": "w", "resume": True, "memory": 5}
    chosen = choose_options(None, asked)
    assert (chosen.work_dir, chosen.resume, chosen.memory) == ("w", True, 5)
    assert chosen.as_json() == choose_options(None, {}).as_json()


# Reports


def test_require_raises_when_a_gate_fails(tmp_path: Path) -> None:
    model = pair(tmp_path / "m.onnx")
    passed = onnxfq.quantize(model, algorithm="rtn", max_error=1.0)
    assert passed.require() is passed
    failed = onnxfq.quantize(model, algorithm="rtn", max_error=0.0)
    with pytest.raises(onnxfq.GateError, match=r"m\.int4\.onnx fails 1 gate: max-error"):
        failed.require()


def test_progress_is_told_in_order(tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    onnxfq.quantize(pair(tmp_path / "m.onnx"), algorithm="rtn", progress=lambda *step: told.append(step))
    stages = list(dict.fromkeys(what for what, _, _ in told))
    assert stages == ["checking the original", "solving", "writing", "verifying", "comparing with the original"]
    assert [done for what, done, total in told if what == "solving" and total == 2] == [0, 1, 2]


@pytest.mark.parametrize("progress", [True, False, None])
def test_progress_is_shown_on_stderr_where_it_is_asked_for(
    progress: bool | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    onnxfq.quantize(pair(tmp_path / "m.onnx"), algorithm="rtn", validate=False, progress=progress)
    onnxfq.inspect(tmp_path / "m.onnx", progress=progress)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.split() == (["solving", "writing", "verifying", "reading"] if progress else [])
    with pytest.raises(UsageError, match=r"`progress` must be True, or a function .* \(got 3\)"):
        onnxfq.inspect(tmp_path / "m.onnx", progress=3)  # type: ignore[arg-type]


def test_stages_go_to_the_log_at_info_and_details_at_debug(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "onnxfq")
    onnxfq.quantize(pair(tmp_path / "m.onnx"), algorithm="rtn")
    stages = [record.getMessage() for record in caplog.records if record.levelno == logging.INFO]
    assert stages == ["checking the original", "solving", "writing", "verifying", "comparing with the original"]
    assert any("first" in record.getMessage() for record in caplog.records if record.levelno == logging.DEBUG)
    assert {record.name.partition(".")[0] for record in caplog.records} == {"onnxfq"}


def test_the_log_has_no_handler_that_writes() -> None:
    code = "import logging, onnxfq; print([type(handler).__name__ for handler in logging.getLogger('onnxfq').handlers])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "['NullHandler']\n"
