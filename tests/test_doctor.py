"""What `onnxfq doctor` says."""

from __future__ import annotations

import json

import pytest
from rich.console import Console

from onnxfq import cli, doctor
from onnxfq.commands.tables import show_doctor
from onnxfq.doctor import COLUMNS, brief
from onnxfq.rules.matmul_nbits_kernels import rows
from onnxfq.session import available_providers
from onnxfq.version import VERSION

Output = pytest.CaptureFixture[str]


def row(**values: str) -> tuple[str, ...]:
    base = {
        "provider": "cpu",
        "activations": "float32",
        "bits": "4",
        "zero points": "packed",
        "accuracy_level": "0",
        "fast blocks": "32",
        "slow blocks": "none",
        "note": "",
    }
    assert tuple(base) == COLUMNS
    return tuple((base | {name.replace("_", " "): value for name, value in values.items()}).values())


def test_rows_that_differ_in_what_makes_no_difference_become_one() -> None:
    table = [row(activations=a, zero_points=z) for a in ("float32", "float16") for z in ("packed", "default")]
    assert brief(table) == [row(activations="float32, float16", zero_points="either")]


@pytest.mark.parametrize("column", ["provider", "bits", "fast_blocks", "slow_blocks", "note"])
def test_rows_that_differ_in_anything_else_stay(column: str) -> None:
    table = [row(), row(zero_points="default", **{column: "other"})]
    assert brief(table) == table


def test_nothing_is_lost_by_merging_in_part() -> None:
    table = [row(), row(zero_points="default"), row(activations="float16", zero_points="default")]
    assert brief(table) == [row(zero_points="either"), row(activations="float16", zero_points="default")]


def test_all_blocks_are_called_so() -> None:
    assert brief([row(fast_blocks="16 32 64 128 256")]) == [row(fast_blocks="all")]


def test_the_table_is_short_and_fits_80_columns(capsys: Output) -> None:
    table = brief([*rows("cpu"), *rows("cuda")])
    assert len(table) < len([*rows("cpu"), *rows("cuda")]) / 2
    show_doctor({"machine": "x"}, COLUMNS, table, Console(stderr=True, width=80))
    lines = capsys.readouterr().err.splitlines()
    assert max(map(len, lines)) <= 80
    assert "…" not in "".join(lines)
    text = " ".join(" ".join(lines).split())
    assert [row[-1] for row in table if row[-1] not in text] == []


def test_doctor_prints_on_stdout(capsys: Output) -> None:
    assert cli.run(["doctor"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    for text in (VERSION, "ONNX Runtime", "MatMulNBits", *available_providers()):
        assert text in out


def test_doctor_as_json_keeps_every_kernel(capsys: Output) -> None:
    assert cli.run(["doctor", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["onnxfq"] == VERSION
    assert [tuple(kernel.values()) for kernel in told["kernels"]] == doctor.kernel_rows()
    assert set(told["kernels"][0]) == set(COLUMNS)


def test_no_kernel_is_called_fast_on_a_processor_that_was_not_measured(
    capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("rules.matmul_nbits_kernels", "machines", "doctor"):
        monkeypatch.setattr(f"onnxfq.{module}.instructions", lambda: "riscv64")
    monkeypatch.setattr("onnxfq.doctor.available_providers", lambda: ["cpu"])
    assert cli.run(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "riscv64" in out
    assert "which formats are fast on this one is unknown" in " ".join(out.split())
    assert "faster" not in out
    assert doctor.kernel_rows() == []
