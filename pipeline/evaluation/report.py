"""Several evaluated runs side by side. ``Report`` decides what is compared and what is best; formats only write it."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ssl3d.data.errors import UsageError
from ssl3d.pipeline.evaluation import instance_ap, report_formats
from ssl3d.pipeline.evaluation.protocols import PROTOCOLS, Protocol, Scores, find_protocol
from ssl3d.pipeline.evaluation.result import EvalResult, without_seed

if TYPE_CHECKING:
    from rich.console import RenderableType

SUMMARY = report_formats.SUMMARY
"""The first columns. Acc is the accuracy that the protocol defines, OA = correct / all points with a truth."""


@dataclass(frozen=True, slots=True)
class Cell:
    """A number in percent: NaN where the protocol leaves a class out; ``std`` only where seeds are averaged."""

    value: float
    std: float | None = None
    best: bool = False

    def text(self, plus_minus: str = "±", missing: str = "-") -> str:
        """One decimal, as the field prints it."""
        if math.isnan(self.value):
            return missing
        return f"{self.value:.1f}" + ("" if self.std is None else f" {plus_minus} {self.std:.1f}")


@dataclass(frozen=True, slots=True)
class Row:
    """One run, or the mean of several seeds (``seeds`` > 1), under one protocol.

    ``cells`` are those of ``summary``, then one per class. ``metric``: ``AP``, ``AP50`` or ``AP25`` of instances; ""
    for the IoU of classes.
    """

    result: EvalResult
    protocol: str
    cells: tuple[Cell, ...]
    seeds: int = 1
    metric: str = ""

    @property
    def name(self) -> str:
        if self.seeds == 1:
            return self.result.name
        averaged = "" if self.result.weights == "own" else f" ({self.result.weights})"
        return f"{self.result.method}{averaged}, mean ± std of {self.seeds} seeds"

    @property
    def measure(self) -> str:
        """The protocol, and of instances the metric; for people."""
        return " ".join(filter(None, [self.protocol, self.metric]))

    @property
    def summary(self) -> tuple[str, ...]:
        """Heads of the columns before the classes."""
        return ("mean",) if self.metric else (*SUMMARY, *PROTOCOLS[self.protocol].others)

    @property
    def classes(self) -> tuple[int, ...]:
        """Ids of the classes that have a cell."""
        found = self.result.instances
        return found.classes if self.metric and found is not None else tuple(range(len(self.result.classes)))

    @property
    def iou(self) -> tuple[Cell, ...]:
        """One per class (of instances: average precisions)."""
        return self.cells[len(self.summary) :]

    def mean_over(self, classes: Collection[str]) -> Cell:
        """Mean IoU over some classes (the head, the tail), without those that the protocol leaves out."""
        cells = zip(self.classes, self.iou, strict=True)
        named = [(self.result.classes[index], cell.value) for index, cell in cells]
        values = [value for name, value in named if name in classes and not math.isnan(value)]
        return Cell(statistics.fmean(values) if values else math.nan)


@dataclass(frozen=True, slots=True)
class Group:
    """Rows that may be compared: one dataset, one subset (of the same sequences or areas), one list of classes, one
    protocol."""

    dataset: str
    subset: str
    protocol: str
    classes: tuple[str, ...]
    colors: tuple[str, ...]
    rows: tuple[Row, ...]

    @property
    def summary(self) -> tuple[str, ...]:
        """Heads of the columns before the classes."""
        return self.rows[0].summary

    @property
    def title(self) -> str:
        """Where the numbers come from, to be printed above them."""
        scans = sorted({row.result.scans for row in self.rows})
        checkpoints = sorted({row.result.checkpoint for row in self.rows})
        counts = " or ".join(f"{count:,}" for count in scans)
        weights = sorted({row.result.weights for row in self.rows})
        noted = f", weights: {' or '.join(weights)}" if weights != ["own"] else ""
        return (
            f"{self.dataset} {self.subset} ({counts} scan{'s' if scans != [1] else ''}, all original points), "
            f"protocol {self.protocol}, checkpoint {' or '.join(checkpoints)}{noted}, in %"
        )


class Report:
    """A report on runs.

    Args:
        results: the evaluated runs, in the order to show them.
        protocols: names; every run is reported under each that is not about other scans. Where instances were
            predicted, their average precisions are reported too.

    Attributes:
        rows: of classes, one per run and protocol.
        instances: of instances, three per run that predicted any.
        groups: of both, what may be compared.

    Raises:
        UsageError: nothing to report, an unknown protocol, or only protocols about other scans.
    """

    def __init__(self, results: Sequence[EvalResult], protocols: Sequence[str]) -> None:
        if not results or not protocols:
            raise UsageError("there is nothing to report", hint="train a run first: ssl3d train supervised")
        self.results = tuple(results)
        self.protocols = tuple(dict.fromkeys(protocols))
        self.rows = tuple(
            Row(result, protocol, _cells(result.scores(protocol)))
            for protocol in self.protocols
            for result in self.results
            if result.semantic and _is_about(find_protocol(protocol), result)
        )
        if not self.rows and any(result.semantic for result in self.results):
            raise UsageError(
                f"{', '.join(self.protocols)} is about {', '.join(find_protocol(self.protocols[0]).held)}, "
                "which no run was evaluated on",
                where={"evaluated on": ", ".join(dict.fromkeys(", ".join(result.held) for result in self.results))},
                hint="leave out --protocol: each run is reported under its own",
            )
        self.instances = tuple(row for result in self.results for row in _instance_rows(result))
        self.groups = tuple(_group(rows) for rows in _by((*self.rows, *self.instances), _comparable))

    def table(self, width: int = 80) -> RenderableType:
        """For a terminal of ``width`` columns: a run per row, or where that is too wide a class per row."""
        return report_formats.terminal(self, width)

    def json(self) -> str:
        """The published schema, in percent with full precision; null for a class that the protocol leaves out."""
        return report_formats.json_text(self)

    def csv(self) -> str:
        """A line per run and protocol, in percent with full precision; empty where a class is left out."""
        return report_formats.csv_text(self)

    def markdown(self) -> str:
        return report_formats.markdown(self)

    def latex(self) -> str:
        """A table for booktabs."""
        return report_formats.latex(self)

    def html(self) -> str:
        """One self-contained page."""
        return report_formats.html_page(self)


FORMATS: dict[str, Callable[[Report], str]] = {
    "json": Report.json,
    "csv": Report.csv,
    "markdown": Report.markdown,
    "latex": Report.latex,
    "html": Report.html,
}
"""The formats that are plain text, by the name typed after ``--report`` (``table`` is drawn by the console)."""


def _is_about(protocol: Protocol, result: EvalResult) -> bool:
    """Whether the scores of a result may be called by the name of the protocol: sums of folds only by one of folds,
    and what is held out for validation only by one that does not name others."""
    known = protocol.held and result.held and result.subset == "val"
    return bool(result.folds) == protocol.folds and (not known or protocol.held == result.held)


def _cells(scores: Scores) -> tuple[Cell, ...]:
    values = (scores.miou, scores.accuracy, scores.overall_accuracy, *scores.others, *scores.iou)
    return tuple(Cell(100 * value) for value in values)


def _instance_rows(result: EvalResult) -> list[Row]:
    found = result.instances
    if found is None:
        return []
    metrics = {
        "AP": (found.mean_ap, *found.ap),
        "AP50": (found.mean_ap50, *found.ap50),
        "AP25": (found.mean_ap25, *found.ap25),
    }
    return [
        Row(result, instance_ap.PROTOCOL, tuple(Cell(100 * value) for value in values), metric=metric)
        for metric, values in metrics.items()
    ]


def _comparable(row: Row) -> tuple[object, ...]:
    return row.result.dataset, row.result.subset, row.protocol, row.result.classes, row.classes, row.result.held


def _same_but_seed(row: Row) -> tuple[object, ...]:
    result = row.result
    trained = (result.method, result.backbone, result.recipe, without_seed(result.split))
    return *trained, result.checkpoint, result.step, result.weights, row.metric


def _by(rows: Iterable[Row], key: Callable[[Row], tuple[object, ...]]) -> list[list[Row]]:
    """Rows of equal keys together, in order of first appearance."""
    groups: dict[tuple[object, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return list(groups.values())


def _group(rows: list[Row]) -> Group:
    first = rows[0].result
    means = [_mean(same) for same in map(_one_per_seed, _by(rows, _same_but_seed)) if len(same) > 1]
    shown = (*_mark_best(rows), *_mark_best(means))
    names, colors = (tuple(values[index] for index in rows[0].classes) for values in (first.classes, first.colors))
    return Group(first.dataset, first.subset, rows[0].protocol, names, colors, shown)


def _one_per_seed(rows: list[Row]) -> list[Row]:
    """Without copies of a run: they are no further draw."""
    return list({(row.result.seed, row.result.split): row for row in reversed(rows)}.values())[::-1]


def _mean(rows: list[Row]) -> Row:
    """Mean and sample standard deviation over seeds; a class that any seed leaves out is left out."""

    def mean(values: list[float]) -> Cell:
        if any(math.isnan(value) for value in values):
            return Cell(math.nan)
        return Cell(statistics.fmean(values), statistics.stdev(values))

    columns = zip(*(row.cells for row in rows), strict=True)
    cells = tuple(mean([cell.value for cell in column]) for column in columns)
    splits = {row.result.split for row in rows}
    shown = rows[0].result if len(splits) == 1 else replace(rows[0].result, split=without_seed(rows[0].result.split))
    return replace(rows[0], result=shown, cells=cells, seeds=len(rows))


def _mark_best(rows: list[Row]) -> list[Row]:
    """Marks the highest number of each column and metric, and those that print the same, unless all rows do."""
    best: dict[str, list[float]] = {}
    for metric in {row.metric for row in rows}:
        for column in zip(*(row.cells for row in rows if row.metric == metric), strict=True):
            shown = {round(cell.value, 1) for cell in column if not math.isnan(cell.value)}
            best.setdefault(metric, []).append(max(shown) if len(shown) > 1 else math.nan)
    return [
        replace(
            row,
            cells=tuple(
                replace(c, best=round(c.value, 1) == top) for c, top in zip(row.cells, best[row.metric], strict=True)
            ),
        )
        for row in rows
    ]
