"""Progress: a live line on a terminal, few plain lines elsewhere."""

from __future__ import annotations

import pytest
from rich.console import Console

from onnxfq.system import progress_bar as progress_module
from onnxfq.system.progress_bar import progress_bar

Output = pytest.CaptureFixture[str]


class Clock:
    """Time that passes only when told to."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress_module, "monotonic", clock)
    return clock


def lines_of(steps: list[tuple[float, str, int, int]], clock: Clock, capsys: Output) -> list[str]:
    with progress_bar(Console(stderr=True, force_terminal=False)) as tell:
        for seconds, what, done, total in steps:
            clock.now += seconds
            tell(what, done, total)
    return capsys.readouterr().err.splitlines()


def test_quick_stages_take_a_line_each(clock: Clock, capsys: Output) -> None:
    steps = [(0.1, "solving", done, 10) for done in range(11)] + [(0.1, "writing", 0, 1)]
    assert lines_of(steps, clock, capsys) == ["solving", "writing"]


def test_long_stages_tell_how_far_they_are_every_two_seconds(clock: Clock, capsys: Output) -> None:
    steps = [(0.5, "solving", done, 10) for done in range(11)]
    assert lines_of(steps, clock, capsys) == ["solving", "solving: 40 %", "solving: 80 %"]


def test_remarks_stay_and_are_no_stage(clock: Clock, capsys: Output) -> None:
    steps = [(0.0, "This takes long.", 0, 0), (0.0, "a", 0, 1), (0.0, "\x1b[1mb", 0, 1)]
    assert lines_of(steps, clock, capsys) == ["This takes long.", "a", "\\x1b[1mb"]


def test_on_a_terminal_a_line_changes_and_remarks_stay(capsys: Output) -> None:
    console = Console(stderr=True, force_terminal=True, width=80)
    with progress_bar(console) as tell:
        tell("[red]solving", 1, 2)
        tell("This takes long.", 0, 0)
        tell("[red]solving", 2, 2)
        tell("writing", 0, 1)
    err = capsys.readouterr().err
    assert "This takes long." in err
    assert "[red]solving" in err
    assert err.rstrip().endswith("\x1b[2K")  # the line is cleared in the end
