"""Learning curves of one or several runs, and their IoU per class, as PNG."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssl3d.data.errors import UsageError
from ssl3d.pipeline.drawing import save_figure
from ssl3d.pipeline.evaluation.result import EvalResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Metrics = Sequence[Mapping[str, Any]]
"""The lines of a run's ``metrics.jsonl``: ``step``, ``losses`` {name: value}, ``lr``, ``visible_miou`` (percent); of
methods that count them, ``pseudo_labels`` and ``measures``."""

_COLORS = ("#0969da", "#cf222e", "#1a7f37", "#8250df", "#bf8700", "#1b7c83", "#bc4c00", "#57606a")
"""Told apart by most kinds of color vision in this order."""
_LINES = ("-", "--", ":", "-.")
_MEAN_OVER = 0.05
"""A curve is drawn as the running mean over this share of its length, its points faintly behind it."""


def learning_curves(runs: Mapping[str, Metrics], path: Path) -> Path:
    """Writes a PNG: losses, mIoU on the visible training labels, learning rate; below them, where methods log it, the
    share of unlabelled elements that they use, and their measures (shares by class as the mean over the classes).

    Args:
        runs: name -> lines of its ``metrics.jsonl``; a run without lines is left out.
        path: file to write; its folder is created.

    Raises:
        UsageError: no run has a line.
    """
    runs = {name: lines for name, lines in runs.items() if lines}
    if not runs:
        raise UsageError("no run has logged anything yet", hint="train first: ssl3d train supervised")
    panels = _panels(runs)
    rows = -(-len(panels) // _COLUMNS)
    legend = 0.25 * len(runs)
    figure = _figure(15, 4.9 * rows + legend)
    axes = figure.subplots(rows, _COLUMNS, squeeze=False).ravel().tolist()
    for place, panel in zip(axes, panels, strict=False):
        _draw_panel(place, panel, list(runs.values()))
    for place in axes[len(panels) :]:
        place.set_axis_off()
    _run_legend(figure, list(runs), legend)
    return save_figure(figure, path)


@dataclass(frozen=True)
class _Panel:
    """One panel of ``learning_curves``.

    Attributes:
        names: of its curves of each run, which differ in their line style; none where there is one.
        value: (line of the log, name) -> value; None where the line has none.
        signed: values may be negative.
    """

    title: str
    names: tuple[str, ...]
    value: Callable[[Mapping[str, Any], str], float | None]
    raw: bool = False
    signed: bool = False


_COLUMNS = 3


def _panels(runs: Mapping[str, Metrics]) -> list[_Panel]:
    def names(of: Callable[[Mapping[str, Any]], Mapping[str, Any]]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for lines in runs.values() for line in lines for name in of(line)))

    losses = names(lambda line: line["losses"])
    shares = names(lambda line: _measures(line, "classes"))
    means = names(lambda line: _measures(line, "means"))
    panels = [
        _Panel("training losses", losses, lambda line, name: line["losses"].get(name)),
        _Panel("mIoU on visible training labels, %", (), lambda line, _: line["visible_miou"]),
        _Panel("learning rate", (), lambda line, _: line["lr"], raw=True),
    ]
    if any(line.get("pseudo_labels") for lines in runs.values() for line in lines):
        panels.append(_Panel("unlabelled elements that are used, %", (), lambda line, _: _used(line)))
    if shares:
        panels.append(_Panel("shares, mean over the classes, %", shares, _mean_share))
    return [*panels, *(_Panel(mean, (), _mean_of(mean), signed=True) for mean in means)]


def _mean_of(mean: str) -> Callable[[Mapping[str, Any], str], float | None]:
    return lambda line, _: _measures(line, "means").get(mean)


def _measures(line: Mapping[str, Any], kind: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = line.get("measures", {}).get(kind, {})
    return found


def _used(line: Mapping[str, Any]) -> float | None:
    pseudo = line.get("pseudo_labels")
    return 100 * pseudo["share"] if pseudo else None


def _mean_share(line: Mapping[str, Any], name: str) -> float | None:
    known = [value for value in _measures(line, "classes").get(name, ()) if value is not None]
    return 100 * math.fsum(known) / len(known) if known else None


def _draw_panel(axes: Axes, panel: _Panel, runs: Sequence[Metrics]) -> None:
    names = panel.names or ("",)
    styles = {name: _LINES[i % len(_LINES)] for i, name in enumerate(names)}
    for index, lines in enumerate(runs):
        for name in names:
            curve = [(line["step"], panel.value(line, name)) for line in lines]
            _curve(axes, curve, _COLORS[index % len(_COLORS)], styles[name], raw=panel.raw)
    _titled(axes, panel.title, names[0] if panel.names and len(names) == 1 else None, signed=panel.signed)
    if panel.raw:
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    if len(names) > 1:
        for name in names:
            axes.plot([], [], color="#57606a", linestyle=styles[name], label=name)
        axes.legend(frameon=False)


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


def _titled(axes: Axes, title: str, note: str | None, signed: bool = False) -> None:
    axes.set_title(title + (f"  ({note})" if note else ""), loc="left", fontsize=11)
    axes.set_xlabel("step")
    if not signed:
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
