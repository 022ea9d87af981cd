"""How formats are timed on this machine, and what `doctor` makes of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxfq import cli
from onnxfq.benchmarking import format_speed
from onnxfq.benchmarking.format_speed import (
    Contender,
    contenders_of,
    default_schemes,
    measure_formats,
    rule_model,
)
from onnxfq.graph import layered_model
from onnxfq.rules import PRODUCT_RULES, known_speeds
from onnxfq.rules.known_speeds import read_measured
from onnxfq.rules.speed_table import MeasuredFormat
from onnxfq.scheme import Scheme
from onnxfq.session import Session

SMALL: dict[str, Any] = {"widths": (64,), "rows": (1, 4), "seconds": 0.0}


def weight(n: int = 64) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.random.default_rng(0).standard_normal((n, 64)).astype(np.float32) / np.float32(8)


def test_layers_compute_one_after_the_other_with_weights_of_their_own() -> None:
    w, x = weight(), np.random.default_rng(1).standard_normal((3, 64)).astype(np.float32)
    expected = x
    for layer in range(3):
        turned = np.roll(w, layer, axis=0)  # rows of the stored weight are outputs
        (expected,) = Session(rule_model(Scheme(8, 32), turned)).run({"A": expected}).values()
    (found,) = Session(layered_model(rule_model(Scheme(8, 32), w), 3)).run({"A": x}).values()
    np.testing.assert_array_equal(found, expected)


def test_every_format_of_a_rule_is_timed_by_being_there() -> None:
    formats = {MeasuredFormat.of(scheme).format for scheme in default_schemes()}
    assert formats == set(PRODUCT_RULES)
    told: list[tuple[str, int, int]] = []
    found = measure_formats(list(contenders_of(default_schemes())), **SMALL, progress=lambda *step: told.append(step))
    assert set(found.formats) == {MeasuredFormat.of(scheme) for scheme in default_schemes()}
    assert all(figure > 0 for figures in found.formats.values() for row in figures for figure in row)
    assert [(done, total) for _, done, total in told] == [(0, 2), (1, 2)]
    assert found.float_us[0][0] > 0


def test_what_does_not_run_is_left_out() -> None:
    broken = MeasuredFormat("broken", 4, 32, False, "int8")
    good = next(contenders_of([Scheme()]))
    unknown = Contender(broken, lambda w: rule_model(Scheme(), w).replace(b"MatMulNBits", b"MatMulNBars"))
    assert set(measure_formats([unknown, good], **SMALL).formats) == {good.format}


def test_more_work_is_measured_as_slower(monkeypatch: pytest.MonkeyPatch) -> None:
    """The float product twice over: about half as fast as once."""
    twice = MeasuredFormat("twice", 32, "channel", True, "float")
    made: Callable[..., bytes] = format_speed._float_model
    found = measure_formats(
        [Contender(twice, lambda w: layered_model(made(w), 2))], widths=(256,), rows=(64,), seconds=0.2
    )
    assert 0.3 < found.formats[twice][0][0] < 0.8


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    def roots() -> Iterator[Path]:
        yield tmp_path

    monkeypatch.setattr(known_speeds, "cache_roots", roots)
    monkeypatch.setattr("onnxfq.benchmarking.format_speed.instructions", lambda: "AVX512-VNNI")
    small = {"widths": (256,), "rows": (1,), "seconds": 0.0}
    measure = format_speed.measure_formats
    monkeypatch.setattr(format_speed, "measure_formats", lambda *args, **given: measure(*args, **{**given, **small}))
    return tmp_path


def test_doctor_measures_and_goes_by_it(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["doctor", "--json"]) == 0
    before = json.loads(capsys.readouterr().out)
    assert "`onnxfq doctor" not in before["speeds"]
    assert before["speed_table"]["source"].startswith("measured in one thread")
    assert cli.run(["doctor", "--measure", "--json"]) == 0
    measured = json.loads(capsys.readouterr().out)
    assert measured["speeds"].startswith("measured on this machine")
    assert measured["speed_table"]["widths"] == [256]
    table, wrong = read_measured()
    assert table is not None
    assert wrong == ""
    assert table.to_json()["formats"] == [
        {**row, "times_faster": tuple(map(tuple, row["times_faster"]))} for row in measured["speed_table"]["formats"]
    ]
    assert cli.run(["doctor"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "Times as fast as float, weights 256 wide" in out
    assert "4/32 float inputs" in out
    next(cache.glob("speeds-*.json")).write_text("{")
    assert cli.run(["doctor"]) == 0
    assert "cannot be used" in capsys.readouterr().out
