"""Tables of speeds: those that come with the package, what lies between their figures, and what a user measured."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from onnxfq.errors import DataError, OutputError
from onnxfq.machines import AUTO, MACHINES, Machine
from onnxfq.rules import known_speeds
from onnxfq.rules.known_speeds import keep_measured, packaged, read_measured, speeds_of
from onnxfq.rules.speed_table import MeasuredFormat, SpeedTable
from onnxfq.scheme import Scheme
from onnxfq.session import runtime_version
from onnxfq.system.processor import processor_name

HERE = Machine(name=AUTO, title="this machine", instructions="AVX512-VNNI")


def table(**changes: object) -> SpeedTable:
    four, eight = MeasuredFormat.of(Scheme(4, 32)), MeasuredFormat.of(Scheme(8, 128))
    made = SpeedTable(
        instructions="AVX512-VNNI",
        source="made up",
        processor=processor_name(),
        runtime=runtime_version(),
        widths=(256, 1024),
        rows=(1, 100),
        float_us=((10.0, 100.0), (100.0, 1000.0)),
        formats={four: ((2.0, 0.5), (8.0, 2.0)), eight: ((1.0, 1.0), (1.0, 1.0))},
    )
    return replace(made, **changes)  # type: ignore[arg-type]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    def roots() -> Iterator[Path]:
        yield tmp_path / "cache"

    monkeypatch.setattr(known_speeds, "cache_roots", roots)
    return tmp_path / "cache"


def test_every_table_says_what_it_was_measured_with() -> None:
    assert {"AVX2", "AVX512-VNNI"} <= set(packaged())
    files = list((Path(known_speeds.__file__).parent / "speeds").iterdir())
    assert len(files) == len(packaged())  # one for each kind of processor
    for name, known in packaged().items():
        assert known.instructions == name
        assert known.source.startswith("measured")
        assert known.runtime
        assert MeasuredFormat.of(Scheme()) in known.formats
        assert {1, 128} <= set(known.rows)


def test_figures_that_were_measured_are_given_back_and_others_lie_between() -> None:
    known = table()
    assert known.times_faster(Scheme(), 256, 256, (1,)) == pytest.approx(2.0)
    assert known.times_faster(Scheme(), 1024, 1024, (100,)) == pytest.approx(2.0)
    assert known.times_faster(Scheme(), 512, 512, (1,)) == pytest.approx(4.0)  # halfway on a logarithmic scale
    assert known.times_faster(Scheme(), 256, 1024, (1,)) == pytest.approx(4.0)
    assert known.times_faster(Scheme(), 256, 256, (10,)) == pytest.approx(1.0)


def test_beyond_what_was_measured_nothing_changes_and_far_below_nothing_is_known() -> None:
    known = table()
    assert known.times_faster(Scheme(), 8192, 8192, (5000,)) == pytest.approx(2.0)
    assert known.times_faster(Scheme(), 128, 128, (1,)) == pytest.approx(2.0)
    assert known.times_faster(Scheme(), 100, 100, (1,)) is None


def test_counts_of_rows_weigh_by_the_time_of_a_token() -> None:
    seconds = [10.0 / 1, 100.0 / 100]
    expected = sum(seconds) / (seconds[0] / 2.0 + seconds[1] / 0.5)
    assert table().times_faster(Scheme(), 256, 256, (1, 100)) == pytest.approx(expected)


def test_the_nearest_block_that_was_measured_speaks_for_others_and_never_another_kind_of_kernel() -> None:
    known = table()
    assert known.times_faster(Scheme(4, 128, symmetric=True), 256, 256, (1,)) == pytest.approx(2.0)
    assert known.times_faster(Scheme(4, "channel"), 256, 256, (1,)) == pytest.approx(2.0)
    assert known.times_faster(Scheme(2, 64), 256, 256, (1,)) is None
    assert known.times_faster(Scheme(4, 32, activations="float"), 256, 256, (1,)) is None
    assert (
        MeasuredFormat("dgq", 4, 32, False, "int8").kernel == MeasuredFormat("int8", 8, "channel", True, "int8").kernel
    )


def test_time_in_float_grows_with_the_weight_beyond_the_table() -> None:
    known = table()
    assert known.float_seconds(1024, 1024, (1,)) == pytest.approx(100e-6)
    assert known.float_seconds(4096, 1024, (1,)) == pytest.approx(4 * 100e-6)
    assert known.float_seconds(64, 64, (1,)) == pytest.approx(10e-6 / 16)


def test_a_table_survives_json() -> None:
    known = table()
    assert SpeedTable.from_json(json.loads(json.dumps(known.to_json()))) == known


@pytest.mark.parametrize(
    "damage",
    [
        {"version": 99},
        {"widths": [256]},
        {"widths": [1024, 256]},
        {"rows": []},
        {"float_us": [[1, 2], [3, math.nan]]},
        {"float_us": [[1, 2], [3, 0]]},
        {"formats": [{"bits": 4}]},
        {"formats": 3},
        {"instructions": None, "rows": "x"},
    ],
)
def test_damaged_tables_are_refused(damage: dict[str, object]) -> None:
    with pytest.raises(DataError, match=r"[Tt]able of speeds"):
        SpeedTable.from_json({**table().to_json(), **damage})


def test_what_was_measured_here_counts_in_place_of_the_table(cache: Path) -> None:
    assert speeds_of(HERE) is packaged()["AVX512-VNNI"]
    path = keep_measured(table())
    assert path.parent == cache
    assert [file.name for file in cache.iterdir()] == [path.name]
    assert speeds_of(HERE) == table()
    assert speeds_of(MACHINES["vnni"]) is packaged()["AVX512-VNNI"]  # which is another machine of that kind
    keep_measured(table(source="again"))
    found, wrong = read_measured()
    assert found is not None
    assert (found.source, wrong) == ("again", "")


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"version": 1}', "[" * 5000])
def test_a_damaged_measurement_is_left_alone_and_told(cache: Path, text: str) -> None:
    path = keep_measured(table())
    path.write_text(text)
    found, wrong = read_measured()
    assert found is None
    assert wrong.startswith(f"The measurement in '{path}' cannot be used")
    assert speeds_of(HERE) is packaged()["AVX512-VNNI"]


@pytest.mark.parametrize("changes", [{"processor": "another"}, {"runtime": "0.1"}, {"instructions": "AVX2"}])
def test_a_measurement_of_another_machine_is_not_taken(cache: Path, changes: dict[str, object]) -> None:
    keep_measured(table(**changes))
    found, wrong = read_measured()
    assert found is None
    assert "another machine or version" in wrong


def test_a_new_runtime_has_no_measurement_yet(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keep_measured(table())
    monkeypatch.setattr(known_speeds, "runtime_version", lambda: "99.0")
    assert read_measured() == (None, "")


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "file"
    place.write_text("")
    monkeypatch.setattr(known_speeds, "cache_roots", lambda: iter([place / "cache"]))
    with pytest.raises(OutputError, match="cannot be written"):
        keep_measured(table())
