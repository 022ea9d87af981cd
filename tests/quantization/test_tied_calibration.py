"""Tables that are output heads too, in few bits: one copy, fitted to what the head reads and to the rows alike."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import onnxfq
from onnxfq.quantization.calibrate import Calibration
from onnxfq.session import Session
from support.models import EXACT, Array, model, write
from support.sampled import error
from support.tiny import weight

ROWS, WIDTH = 320, 64
SETTINGS: dict[str, Any] = {"provider": "cpu", "validate": False, "scheme": EXACT, "embeddings": 4}


def language_model(*, bias: bool = False, twice: bool = False) -> onnx.ModelProto:
    """Rows of ids → a layer → a few columns much larger than the others → the table again."""
    rng = np.random.default_rng(8)
    size = np.full(WIDTH, 0.1, np.float32)
    size[:6] = 4
    head = "l = Gemm <transB = 1> (h, table, b)" if bias else "t = Transpose (table) l = MatMul (h, t)"
    again = "f = Gather (table, ids) s = Add (e, f)" if twice else "s = Identity (e)"
    body = f"e = Gather (table, ids) {again} m = MatMul (s, w) n = Tanh (m) o = Add (n, c) h = Mul (o, size)"
    constants: dict[str, Array] = {
        "table": rng.standard_normal((ROWS, WIDTH)).astype(np.float32),
        "w": weight(0) / 8,
        "c": rng.standard_normal(WIDTH).astype(np.float32),
        "size": size,
        **({"b": np.zeros(ROWS, np.float32)} if bias else {}),
    }
    return model(f"{body} {head} y = Identity (l)", x="int64[L] ids", y=f"float[L, {ROWS}] y", constants=constants)


def samples(seed: int, count: int = 8) -> list[dict[str, Array]]:
    rng = np.random.default_rng(seed)
    return [{"ids": rng.integers(0, ROWS, 50)} for _ in range(count)]


def quantized(source: Path, name: str, **changes: Any) -> onnxfq.Report:
    return onnxfq.quantize(source, source.with_name(name), **{"calib": samples(0), **SETTINGS, **changes})


@pytest.mark.parametrize("twice", [False, True], ids=["one lookup", "two lookups"])
def test_one_copy_is_better_than_without_data_at_the_head(twice: bool, tmp_path: Path) -> None:
    source = write(language_model(twice=twice), tmp_path / "in.onnx")
    report = quantized(source, "out.onnx")
    quantized(source, "plain.onnx", calib=None)
    tied = [target for target in report.targets if target.n == ROWS]
    assert [target.shares != "" for target in tied] == [False, True, *[True] * twice]
    assert {(target.bits, target.tokens, target.algorithm) for target in tied} == {(4, 400, "gptq")}
    errors = [error(source, tmp_path / name, samples(1)) for name in ("out.onnx", "plain.onnx")]
    assert errors[0] < 0.7 * errors[1]


def test_rows_do_not_pay_for_the_head(tmp_path: Path) -> None:
    """Without a floor under the columns that the head hardly reads, errors there would be several times as large."""
    source = write(language_model(), tmp_path / "in.onnx")
    calibrated, plain = quantized(source, "out.onnx"), quantized(source, "plain.onnx", calib=None)
    errors = [report.targets[0].relative_error for report in (calibrated, plain)]
    assert errors[0] is not None
    assert errors[1] is not None
    assert errors[1] < errors[0] < 1.5 * errors[1]


def test_copies_of_their_own_where_the_user_wants_them(tmp_path: Path) -> None:
    source = write(language_model(), tmp_path / "in.onnx")
    shared, copied = quantized(source, "out.onnx"), quantized(source, "copied.onnx", unshare=True)
    assert [(t.tokens, t.shares) for t in copied.targets] == [(0, ""), (400, ""), (400, "")]
    assert sum(t.bytes for t in copied.targets) > 1.8 * sum(t.bytes for t in shared.targets if t.n == ROWS)
    assert copied.targets[0].algorithm == "hqq"


def test_the_bias_behind_the_head_takes_up_its_mean_error(tmp_path: Path) -> None:
    source = write(language_model(bias=True), tmp_path / "in.onnx")
    quantized(source, "out.onnx")
    wanted, got = (
        np.concatenate([Session(tmp_path / name).run(feed)["y"] for feed in samples(0)]).astype(np.float64)
        for name in ("in.onnx", "out.onnx")
    )
    drift, spread = np.square((wanted - got).mean(axis=0)).sum(), np.square(wanted - got).mean(axis=0).sum()
    assert drift < 0.05 * spread


def test_a_resumed_run_gives_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write(language_model(bias=True), tmp_path / "in.onnx")
    quantized(source, "whole.onnx")

    def interrupted(self: Calibration, position: int, tell: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Calibration, "end", interrupted)
    with pytest.raises(KeyboardInterrupt):
        quantized(source, "out.onnx", work_dir=tmp_path / "work")
    monkeypatch.undo()
    assert len(list((tmp_path / "work").glob("stage-*"))) == 2  # that of the tied table, and the first

    def measured(self: Calibration, planned: object) -> list[Any]:
        raise AssertionError("solved again")

    monkeypatch.setattr(Calibration, "measure_tied", measured)
    quantized(source, "out.onnx", work_dir=tmp_path / "work", resume=True)
    assert (tmp_path / "out.onnx").read_bytes() == (tmp_path / "whole.onnx").read_bytes()


def test_work_done_elsewhere_gives_the_same_bytes(tmp_path: Path) -> None:
    source = write(language_model(), tmp_path / "in.onnx")
    quantized(source, "here.onnx")
    with ThreadPoolExecutor(2) as executor:
        quantized(source, "elsewhere.onnx", executor=executor)
    assert (tmp_path / "here.onnx").read_bytes() == (tmp_path / "elsewhere.onnx").read_bytes()


def test_heads_in_all_branches_count_together(tmp_path: Path) -> None:
    proto = model(
        """e = Gather (table, ids) m = MatMul (e, w)
           y = If (flag) <
             then_branch = one () => (float[L, 320] p) { t = Transpose (table) p = MatMul (m, t) },
             else_branch = two () => (float[L, 320] q) { n = Tanh (m) u = Transpose (table) q = MatMul (n, u) }
           >""",
        x="int64[L] ids, bool flag", y="float[L, 320] y",
        constants={"w": weight(0), "table": np.tile(weight(2), (5, 1))},
    )  # fmt: skip
    source = write(proto, tmp_path / "in.onnx")
    calib = [{**s, "flag": np.array(i < 3)} for i, s in enumerate(samples(0))]
    report = quantized(source, "out.onnx", calib=calib)
    tied = [target for target in report.targets if target.n == ROWS]
    assert [(target.tokens, target.shares) for target in tied] == [(400, ""), (400, "e"), (400, "e")]
    assert error(source, tmp_path / "out.onnx", calib) < 0.02


def test_a_head_that_no_sample_reaches_leaves_the_table_to_itself(tmp_path: Path) -> None:
    proto = model(
        """e = Gather (table, ids) m = MatMul (e, w)
           y = If (flag) <
             then_branch = one () => (float[L, 320] p) { t = Transpose (table) p = MatMul (m, t) },
             else_branch = two () => (float[L, 320] q) { q = MatMul (m, v) }
           >""",
        x="int64[L] ids, bool flag", y="float[L, 320] y",
        constants={"w": weight(0), "v": np.tile(weight(1), 5), "table": np.tile(weight(2), (5, 1))},
    )  # fmt: skip
    source = write(proto, tmp_path / "in.onnx")
    report = quantized(source, "out.onnx", calib=[{**s, "flag": np.array(False)} for s in samples(0)])
    (table,) = (target for target in report.targets if target.operator == "GatherBlockQuantized")
    assert (table.algorithm, table.tokens) == ("hqq", 0)
