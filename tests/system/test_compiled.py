"""Compiled loops work where nothing can be cached."""

from __future__ import annotations

import numba.core.dispatcher
import numpy as np
import numpy.typing as npt
import pytest

from onnxfq.system.compiled import compiled


def refuse(*arguments: object, **options: object) -> None:
    raise RuntimeError("cannot cache function: no locator available")


def test_no_place_for_a_cache_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numba.core.dispatcher.Dispatcher, "enable_caching", refuse)

    @compiled()
    def double(values: npt.NDArray[np.float64]) -> float:
        total = 0.0
        for value in values:
            total += 2 * value
        return total

    assert double(np.ones(3)) == 6.0
