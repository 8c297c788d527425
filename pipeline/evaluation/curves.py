"""Learning curves of one or several runs, and their IoU per class, as PNG."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssl3d.data.errors import UsageError
from ssl3d.pipeline.drawing import save_figure
from ssl3d.pipeline.evaluation.result import EvalResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Metrics = Sequence[Mapping[str, Any]]
"""The lines of a run's ``metrics.jsonl``: ``step``, ``losses`` {name: value}, ``lr``, ``visible_miou`` (percent)."""

_COLORS = ("#0969da", "#cf222e", "#1a7f37", "#8250df", "#bf8700", "#1b7c83", "#bc4c00", "#57606a")
"""Told apart by most kinds of color vision in this order."""
_LINES = ("-", "--", ":", "-.")
_MEAN_OVER = 0.05
"""A curve is drawn as the running mean over this share of its length, its points faintly behind it."""


def learning_curves(runs: Mapping[str, Metrics], path: Path) -> Path:
    """Writes a PNG with three panels: losses, mIoU on the visible training labels, learning rate.

    Args:
        runs: name -> lines of its ``metrics.jsonl``; a run without lines is left out.
        path: file to write; its folder is created.

    Raises:
        UsageError: no run has a line.
    """
    runs = {name: lines for name, lines in runs.items() if lines}
    if not runs:
        raise UsageError("no run has logged anything yet", hint="train first: ssl3d train supervised")
    figure = _figure(15, 4.9 + 0.25 * len(runs))
    losses, visible, rate = figure.subplots(1, 3)
    names = list(dict.fromkeys(loss for lines in runs.values() for line in lines for loss in line["losses"]))
    styles = {loss: _LINES[i % len(_LINES)] for i, loss in enumerate(names)}
    for index, lines in enumerate(runs.values()):
        color = _COLORS[index % len(_COLORS)]
        for loss in names:
            curve = [(line["step"], line["losses"][loss]) for line in lines if loss in line["losses"]]
            _curve(losses, curve, color, styles[loss])
        _curve(visible, [(line["step"], line["visible_miou"]) for line in lines], color)
        _curve(rate, [(line["step"], line["lr"]) for line in lines], color, raw=True)
    _titled(losses, "training losses", " · ".join(names) if len(names) == 1 else None)
    _titled(visible, "mIoU on visible training labels, %", None)
    _titled(rate, "learning rate", None)
    rate.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    if len(names) > 1:
        for loss in names:
            losses.plot([], [], color="#57606a", linestyle=styles[loss], label=loss)
        losses.legend(frameon=False)
    _run_legend(figure, list(runs), 0.25 * len(runs))
    return save_figure(figure, path)


def class_bars(results: Sequence[EvalResult], protocol: str, path: Path) -> Path:
    """Writes a PNG with the IoU per class of several runs on one dataset and subset, and their mIoU first.

    Raises:
        UsageError: no results, or of different classes or subsets.
    """
    if not results or len({(result.dataset, result.subset, result.classes) for result in results}) > 1:
        raise UsageError("bars compare runs on one dataset and subset", hint="choose runs of the same dataset")
    first = results[0]
    figure = _figure(15, 4.9 + 0.25 * len(results))
    axes = figure.subplots()
    width = 0.8 / len(results)
    for index, result in enumerate(results):
        scores = result.scores(protocol)
        values = [100 * value for value in (scores.miou, *scores.iou)]
        places = [place + (index - (len(results) - 1) / 2) * width for place in range(len(values))]
        heights = [0.0 if math.isnan(value) else value for value in values]
        axes.bar(places, heights, 0.92 * width, color=_COLORS[index % len(_COLORS)])
        if len(results) <= 3:
            for place, value in zip(places, values, strict=True):
                text = "-" if math.isnan(value) else f"{value:.0f}"
                axes.text(
                    place, (0 if math.isnan(value) else value) + 0.8, text, ha="center", fontsize=8, color="#57606a"
                )
    axes.set_xticks(range(1 + len(first.classes)), ["mIoU", *first.classes], rotation=35, ha="right")
    axes.get_xticklabels()[0].set_fontweight("bold")
    axes.axvline(0.5, color="#d0d7de", linewidth=1)
    axes.set_xlim(-0.6, len(first.classes) + 0.6)
    axes.set_ylim(0, 105)
    _titled(axes, f"IoU per class on {first.dataset} {first.subset}, %", f"protocol {protocol}")
    axes.set_xlabel("")
    axes.grid(axis="x", visible=False)
    _run_legend(
        figure, [f"{result.name} ({100 * result.scores(protocol).miou:.1f})" for result in results], 0.25 * len(results)
    )
    return save_figure(figure, path)


def _figure(width: float, height: float) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=100, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def _curve(
    axes: Axes, points: Sequence[tuple[int, float | None]], color: str, line: str = "-", raw: bool = False
) -> None:
    known = [(step, value) for step, value in points if value is not None and math.isfinite(value)]
    if not known:
        return
    steps, values = zip(*known, strict=True)
    window = max(1, round(_MEAN_OVER * len(values)))
    if raw or window == 1:
        axes.plot(steps, values, color=color, linestyle=line, linewidth=1.8, marker="." if len(steps) == 1 else "")
        return
    axes.plot(steps, values, color=color, linewidth=0.8, alpha=0.25)
    axes.plot(steps, running_mean(values, window), color=color, linestyle=line, linewidth=1.8)


def running_mean(values: Sequence[float], window: int) -> list[float]:
    """Mean of the last ``window`` values (of as many as there are, at the beginning)."""
    return [math.fsum(part) / len(part) for i in range(len(values)) if (part := values[max(0, i + 1 - window) : i + 1])]


def _titled(axes: Axes, title: str, note: str | None) -> None:
    axes.set_title(title + (f"  ({note})" if note else ""), loc="left", fontsize=11)
    axes.set_xlabel("step")
    axes.set_ylim(bottom=0)
    axes.grid(color="#eaeef2")
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _run_legend(figure: Figure, names: Sequence[str], inches: float) -> None:
    """Names under the panels, one a line: run names are long."""
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], color=_COLORS[i % len(_COLORS)], linewidth=3, label=name) for i, name in enumerate(names)]
    figure.legend(handles=handles, loc="lower left", frameon=False, fontsize=10, bbox_to_anchor=(0.03, 0.0))
    figure.tight_layout(rect=(0, (inches + 0.15) / figure.get_figheight(), 1, 1))
