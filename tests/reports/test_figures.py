"""Digits: as many as are known, and enough to tell a figure from the one that it is near to."""

from __future__ import annotations

import pytest

from onnxfq.reports.figures import cosine_text, figure_text, overlap, share_text, uncertain_text


@pytest.mark.parametrize(
    ("value", "few", "many"),
    [(0.018324, "0.018", "0.0183"), (5.127, "5.1", "5.13"), (0.0, "0", "0"), (1234.5, "1234", "1234"),
     (1e-9, "1e-09", "1e-09"), (0.9999, "1", "1"), (25e6, "2.5e+07", "2.5e+07")],
)  # fmt: skip
def test_few_samples_give_two_digits_and_many_three(value: float, few: str, many: str) -> None:
    assert (figure_text(value, 8), figure_text(value, 9), figure_text(value)) == (few, many, many)


@pytest.mark.parametrize(
    ("value", "few", "many"),
    [(0.99731, "0.997", "0.9973"), (0.83412, "0.83", "0.834"), (1.0, "1.00", "1.000"), (0.99994, "0.99994", "0.999940"),
     (-0.2, "-0.20", "-0.200"), (0.0, "0.00", "0.000")],
)  # fmt: skip
def test_a_cosine_is_told_from_1(value: float, few: str, many: str) -> None:
    assert (cosine_text(value, 8), cosine_text(value)) == (few, many)


@pytest.mark.parametrize(
    ("value", "few", "many"),
    [(0.8418, "84 %", "84.2 %"), (0.99982, "99.98 %", "99.982 %"), (1.0, "100 %", "100.0 %"), (0.0, "0 %", "0.0 %"),
     (0.0004, "0.04 %", "0.040 %")],
)  # fmt: skip
def test_a_share_is_told_from_0_and_100(value: float, few: str, many: str) -> None:
    assert (share_text(value, 8), share_text(value)) == (few, many)


def test_a_value_has_the_digits_of_its_error() -> None:
    assert uncertain_text(48.7456, 0.0312) == "48.746"
    assert uncertain_text(48.7456, 3.1) == "48.7"
    assert uncertain_text(4874.56, 31.0) == "4875"
    assert uncertain_text(48.7456, None) == uncertain_text(48.7456, 0.0) == "48.75"
    assert uncertain_text(0.5, 0.01, "+") == "+0.500"


def test_ranges_overlap_where_they_share_a_value() -> None:
    assert overlap([(1.0, 2.0), (2.0, 3.0)])
    assert not overlap([(1.0, 2.0), (2.1, 3.0), (0.1, 0.9)])
    assert overlap([(1.0, 2.0), (2.1, 3.0), (1.5, 1.5)])
