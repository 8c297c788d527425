"""What is drawn: words for sizes and times, panels, progress that only long work gets."""

from __future__ import annotations

import math
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from ssl3d.cli import console
from ssl3d.cli.live import TrainingView, plain_line, sparkline
from ssl3d.pipeline.training.status import TrainStatus


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 KB"),
        (1536, "1.5 KB"),
        (612e6, "612 MB"),
        (80e9, "80.0 GB"),
        (3e12, "3.0 TB"),
    ],
)
def test_sizes(value: float, text: str) -> None:
    assert console.size_text(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.31, "0.3 s"), (9.94, "9.9 s"), (9.96, "0:10"), (59.7, "1:00"), (75, "1:15"), (3725, "1:02:05")],
)
def test_times(seconds: float, text: str) -> None:
    assert console.time_text(seconds) == text


@pytest.mark.parametrize(("value", "text"), [(9999, "9,999"), (10_000, "10 k"), (2_349_000_000, "2.35 G"), (0, "0")])
def test_counts(value: float, text: str) -> None:
    assert console.count_text(value) == text


@given(st.floats(min_value=1e-12, max_value=1))
def test_a_share_above_nothing_is_never_shown_as_nothing(share: float) -> None:
    text = console.percent_text(share)
    assert text == "<0.01%" or float(text.rstrip("%")) == pytest.approx(100 * share, rel=0.006)
    assert float(text.strip("<%")) > 0


@given(st.lists(st.floats(), max_size=100), st.integers(0, 40))
def test_sparkline_fits_and_goes_from_the_lowest_to_the_highest(values: list[float], width: int) -> None:
    drawn = sparkline([value for value in values if abs(value) < 1e100 or math.isnan(value)], width)
    assert len(drawn) <= width
    assert set(drawn) <= set("▁▂▃▄▅▆▇█")


def test_narrow_tables_break_no_name_and_no_figure(capsys: pytest.CaptureFixture[str]) -> None:
    columns: list[console.Column] = ["class", ("labelled points", "right"), ("of all labels", "right"), "why"]
    rows = [("other-vehicle", "1,234,567", "0.0332%", "a long sentence about it"), ("car", "7", "12%", "")]
    Console(width=50, file=sys.stdout).print(console.table(columns, rows))
    drawn = capsys.readouterr().out
    assert all(word in drawn for word in ("other-vehicle", "1,234,567", "0.0332%", "sentence"))


def test_sparkline_of_a_falling_loss() -> None:
    assert sparkline([8, 7, 6, 5, 4, 3, 2, 1], 8) == "█▇▆▅▄▃▂▁"
    assert sparkline([1.0], 8) == ""


def test_error_panel_has_what_where_hint_and_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    console.error_panel("It is [broken].", where={"file": "/a/b"}, hint="Mend it.", then="ssl3d prepare --root '/a b'")
    err = capsys.readouterr().err
    assert "It is [broken]." in err and "/a/b" in err and "Mend it." in err and "ssl3d prepare --root '/a b'" in err
    assert err.count("╭") == 1 and "\x1b" not in err


def test_summaries_keep_long_commands_whole(capsys: pytest.CaptureFixture[str]) -> None:
    command = "ssl3d train supervised " + " ".join(f"--set key{i}=1" for i in range(30))
    console.done("made", {"files": "a\nb"}, then=[command])
    lines = capsys.readouterr().err.splitlines()
    assert lines[1].split() == ["files", "a"] and lines[2].split() == ["b"]
    assert lines[3].endswith(command)
    with console.inside_demo():
        console.done("made", {}, then=[command])
    assert command not in capsys.readouterr().err


def test_quick_work_draws_nothing(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert console.QUIET_SECONDS == 2.0
    monkeypatch.setattr(console, "QUIET_SECONDS", 600.0)  # also on a machine that stops for a while
    with console.ConsoleProgress().task("quick", 3, "scan") as task:
        task.advance(3)
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""


def test_long_work_draws_plain_lines_without_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "QUIET_SECONDS", 0.0)
    progress = console.ConsoleProgress()
    with progress.task("prepare", 4, "scan") as task:
        task.note("unit 08-000000")
        task.advance()
        drawn, deadline = "", time.monotonic() + 60
        while not drawn and time.monotonic() < deadline:  # by the thread that watches
            time.sleep(0.01)
            drawn = capsys.readouterr().err
        progress.say("something to know [not markup]")
    captured = capsys.readouterr()
    assert captured.out == ""
    first, said, last = (drawn + captured.err).splitlines()
    assert first.startswith("prepare: 1/4 scans, ") and "left" in first and first.endswith("unit 08-000000")
    assert said == "something to know [not markup]"
    assert last.startswith("prepare: 1/4 scans in ")


def test_a_stopped_task_says_so(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "QUIET_SECONDS", 0.0)
    with pytest.raises(KeyboardInterrupt), console.ConsoleProgress().task("prepare", 4, "scan"):
        raise KeyboardInterrupt
    assert capsys.readouterr().err.splitlines()[-1].endswith("(stopped)")


def _status(step: int) -> TrainStatus:
    shares = {"data": 0.02, "forward": 0.6, "backward": 0.38, "other": 0.0}
    losses = {"ce": 1.0 / step, "lovasz": 0.25}
    return TrainStatus("run", "train", step, 100, 0.01, losses, 41.25, 12.5, 83.0, 1200.0, None, shares)


def test_a_line_of_training() -> None:
    line = plain_line(_status(10), 20.0)
    assert line.startswith("step 10/100, loss 0.350 (ce 0.100, lovasz 0.250), mIoU on visible labels 41.2%")
    assert "12.5 scans/s" in line and "1.2 GB" in line and line.endswith("about 1:23 left")


def test_the_view_of_training_shows_everything() -> None:
    from rich.console import Console

    view = TrainingView(console.ConsoleProgress())
    for step in range(1, 2001):
        view.update(_status(step))
    assert len(view.history) <= 512
    paper = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    paper.print(view.draw())
    text = paper.export_text()
    for word in (
        "2000/100 steps",
        "ce 0.0",
        "41.2% on visible labels",
        "12.5 scans/s",
        "1.2 GB",
        "forward 60%",
        "left",
    ):
        assert word in text
    assert max(map(len, text.splitlines())) <= 80
