"""Pictures of the gains benchmark: paired differences with their intervals, and learning curves of all seeds."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssl3d.benchmarks.gains import BASELINE
from ssl3d.pipeline.drawing import save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLORS = ("#57606a", "#0969da", "#cf222e", "#1a7f37", "#8250df", "#bf8700")
"""The baseline first."""
PARTS = (("miou", "all classes"), ("head", "head classes"), ("tail", "tail classes"))

Figures = Mapping[str, Any]


def draw(value: Figures, folder: Path) -> list[Path]:
    """``gains-differences.png`` (when anything is paired) and ``gains-curves.png``."""
    found = []
    if any((line.get("difference") or {}).get("miou") for line in value["cells"]):
        found.append(differences(value, folder / "gains-differences.png"))
    if value["runs"]:
        found.append(curves(value, folder / "gains-curves.png"))
    return found


def differences(value: Figures, path: Path) -> Path:
    """A line per method and kind of labels: seeds as dots, the mean with its 95% interval, and zero."""
    lines = [line for line in value["cells"] if (line.get("difference") or {}).get("miou")]
    names = [f"{line['variant']}   {line['regime']} {line['ratio']}" for line in lines]
    figure = _figure(13, 1.9 + 0.55 * len(lines))
    panels = figure.subplots(1, len(PARTS), sharey=True, squeeze=False)[0]
    for axes, (part, title) in zip(panels, PARTS, strict=True):
        axes.axvline(0, color="#24292f", linewidth=1)
        for place, line in enumerate(lines):
            if part in line["difference"]:
                _difference(axes, place, line["difference"][part], _color(value, line["variant"]))
        _plain(axes, title)
        axes.set_xlabel(f"IoU - {BASELINE}, percentage points")
    panels[0].set_yticks(range(len(lines)), names)
    panels[0].set_ylim(len(lines) - 0.5, -0.5)
    where = f"{value['scans']} {value['streets used for']} scans"
    figure.suptitle(
        f"paired differences to {BASELINE}: seeds, mean and 95% interval ({where})", x=0.01, ha="left", fontsize=12
    )
    figure.tight_layout(rect=(0, 0, 1, 0.97))
    return save_figure(figure, path)


def _difference(axes: Axes, place: int, found: Mapping[str, Any], color: str) -> None:
    values = found["values"]
    axes.plot(values, [place + 0.24] * len(values), ".", color=color, alpha=0.45, markersize=7, linestyle="")
    if found["interval"] is not None:
        axes.plot(found["interval"], [place, place], color=color, linewidth=2.4, solid_capstyle="butt")
    axes.plot([found["mean"]], [place], "o", color=color, markersize=7)
    axes.annotate(
        found["text"].split(" ")[0], (found["mean"], place), (0, 7), textcoords="offset points", ha="center", fontsize=8
    )


def curves(value: Figures, path: Path) -> Path:
    """A panel per kind of labels: mIoU on visible labels while training; seeds thin, their mean bold."""
    cells = list(dict.fromkeys((run["regime"], run["ratio"]) for run in value["runs"]))
    columns = min(3, len(cells))
    rows = -(-len(cells) // columns)
    figure = _figure(4.6 * columns, 0.7 + 3.3 * rows)
    panels = figure.subplots(rows, columns, sharey=True, squeeze=False).ravel()
    for axes, (regime, ratio) in zip(panels, cells, strict=False):
        for variant in _variants(value):
            runs = [
                run["curve"]
                for run in value["runs"]
                if (run["regime"], run["ratio"], run["variant"]) == (regime, ratio, variant)
            ]
            _seeds(axes, [curve for curve in runs if curve["step"]], _color(value, variant))
        _plain(axes, f"{regime} {ratio}")
        axes.set_xlabel("step")
        axes.set_ylim(0, 100)
    for axes in panels[len(cells) :]:
        axes.set_visible(False)
    handles = _handles(value)
    figure.legend(handles=handles, loc="lower left", ncols=len(handles), frameon=False, bbox_to_anchor=(0.01, 0))
    figure.suptitle("mIoU on visible training labels, %: seeds, and their mean", x=0.01, ha="left", fontsize=12)
    figure.tight_layout(rect=(0, 0.4 / figure.get_figheight(), 1, 0.98))
    return save_figure(figure, path)


def _seeds(axes: Axes, runs: Sequence[Mapping[str, Any]], color: str) -> None:
    for curve in runs:
        axes.plot(curve["step"], curve["visible_miou"], color=color, linewidth=0.7, alpha=0.35)
    shared = set.intersection(*(set(curve["step"]) for curve in runs)) if runs else set()
    steps = sorted(shared)
    at = [dict(zip(curve["step"], curve["visible_miou"], strict=True)) for curve in runs]
    means = [statistics.fmean(values[step] for values in at) for step in steps]
    axes.plot(steps, means, color=color, linewidth=2, marker="o" if len(steps) == 1 else "")


def _variants(value: Figures) -> list[str]:
    return list(dict.fromkeys([BASELINE, *(run["variant"] for run in value["runs"])]))


def _color(value: Figures, variant: str) -> str:
    return COLORS[_variants(value).index(variant) % len(COLORS)]


def _handles(value: Figures) -> list[Any]:
    from matplotlib.lines import Line2D

    return [Line2D([], [], color=_color(value, name), linewidth=3, label=name) for name in _variants(value)]


def _figure(width: float, height: float) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=100, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def _plain(axes: Axes, title: str) -> None:
    axes.set_title(title, loc="left", fontsize=11)
    axes.grid(color="#eaeef2")
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
