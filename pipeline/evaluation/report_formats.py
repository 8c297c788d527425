"""How a report is written: terminal, JSON, CSV, Markdown, LaTeX, HTML."""

from __future__ import annotations

import csv
import html
import io
import json
import math
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ssl3d.pipeline.evaluation import instance_ap
from ssl3d.pipeline.evaluation.protocols import PROTOCOLS

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table
    from rich.text import Text

    from ssl3d.pipeline.evaluation.report import Cell, Group, Report, Row
    from ssl3d.pipeline.evaluation.result import EvalResult

SUMMARY = ("mIoU", "Acc", "OA")
_SPACE = 2
"""Blank columns between two columns of a terminal table."""


def json_text(report: Report) -> str:
    runs = [_entry(result, row) for result, row in _lines(report)]
    return json.dumps({"runs": runs}, indent=2, ensure_ascii=False)


def _lines(report: Report) -> list[tuple[EvalResult, Row | None]]:
    """What formats for machines have a line for: runs and protocols; None where instances alone were predicted."""
    alone = [result for result in report.results if not result.semantic]
    return [*((row.result, row) for row in report.rows), *((result, None) for result in alone)]


def _entry(result: EvalResult, row: Row | None) -> dict[str, Any]:
    return {
        "run": result.run,
        "method": result.method,
        "backbone": result.backbone,
        "dataset": result.dataset,
        "split": result.split,
        "protocol": row.protocol if row is not None else instance_ap.PROTOCOL,
        "weights": result.weights,
        "miou": _number(row.cells[0]) if row is not None else None,
        "accuracy": _number(row.cells[1]) if row is not None else None,
        **({name.lower(): _number(cell) for name, cell in _others(row).items()} if row is not None else {}),
        "iou": dict(zip(result.classes, map(_number, row.iou), strict=True)) if row is not None else {},
        **({"folds": dict(zip(result.held, result.folds, strict=True))} if result.folds else {}),
        **({"instances": _instances(result)} if result.instances is not None else {}),
    }


def _instances(result: EvalResult) -> dict[str, Any]:
    """Average precisions in percent, of all classes together and of each; ``targets``: its true instances."""
    found = result.instances
    assert found is not None
    columns = zip(found.classes, found.ap, found.ap50, found.ap25, found.targets, strict=True)
    return {
        "protocol": instance_ap.PROTOCOL,
        "ap": _percent(found.mean_ap),
        "ap50": _percent(found.mean_ap50),
        "ap25": _percent(found.mean_ap25),
        "classes": {
            result.classes[index]: {
                "ap": _percent(ap),
                "ap50": _percent(ap50),
                "ap25": _percent(ap25),
                "targets": targets,
            }
            for index, ap, ap50, ap25, targets in columns
        },
    }


def _percent(share: float) -> float | None:
    return None if math.isnan(share) else 100 * share


def csv_text(report: Report) -> str:
    classes = list(dict.fromkeys(name for row in report.rows for name in row.result.classes))
    more = list(dict.fromkeys(name for row in report.rows for name in _others(row)))
    averages = list(dict.fromkeys(name for result in report.results for name in _averages(result)))
    trained = ("run", "method", "backbone", "dataset", "split", "seed")
    facts = (*trained, "subset", "checkpoint", "weights", "step", "scans", "points")
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    scores = ("miou", "accuracy", "overall_accuracy", *(name.lower() for name in more), "head_miou", "tail_miou")
    writer.writerow([*facts, "protocol", *scores, *(f"iou:{name}" for name in classes), *averages])
    for result, row in _lines(report):
        values: list[float | None] = [None] * (len(scores) + len(classes))
        if row is not None:
            iou = dict(zip(result.classes, row.iou, strict=True))
            others = _others(row)
            parts = [row.mean_over(result.head), row.mean_over(result.tail)]
            first = [*row.cells[: len(SUMMARY)], *(others.get(name) for name in more)]
            cells = [*first, *parts, *(iou.get(name) for name in classes)]
            values = [None if cell is None else _number(cell) for cell in cells]
        found = _averages(result)
        values += [found.get(name) for name in averages]
        protocol = row.protocol if row is not None else instance_ap.PROTOCOL
        written = ["" if value is None else repr(value) for value in values]
        writer.writerow([*(getattr(result, fact) for fact in facts), protocol, *written])
    return out.getvalue()


def _averages(result: EvalResult) -> dict[str, float | None]:
    """Average precisions of instances by the head of their column."""
    if result.instances is None:
        return {}
    found = _instances(result)
    means = {name: found[name] for name in ("ap", "ap50", "ap25")}
    return means | {f"{metric}:{name}": values[metric] for metric in means for name, values in found["classes"].items()}


def markdown(report: Report) -> str:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cells) + " |"

    def escape(text: str) -> str:
        return re.sub(r"([\\|*_<`\[])", r"\\\1", text)

    parts = []
    for group in report.groups:
        head = ["Run", "Labels", "Protocol", *group.summary, *group.classes]
        rule = ["---"] * 3 + ["---:"] * (len(head) - 3)
        rows = [
            [*map(escape, (row.name, row.result.split, row.measure)), *_texts(row, lambda text: f"**{text}**")]
            for row in group.rows
        ]
        parts.append("\n".join([f"**{escape(group.title)}**", "", *map(line, [head, rule, *rows]), "", _legend(group)]))
    return "\n\n".join(parts) + "\n"


_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    **{sign: "\\" + sign for sign in "&%$#_{}"},
}


def latex(report: Report) -> str:
    def escape(text: str) -> str:
        return "".join(_LATEX.get(letter, letter) for letter in text)

    parts = ["% needs \\usepackage{booktabs,graphicx}"]
    for group in report.groups:
        heads = [*group.summary, *(f"\\rotatebox{{90}}{{{escape(name)}}}" for name in group.classes)]
        lines = [
            " & ".join(
                [
                    *map(escape, (row.name, row.result.split, row.measure)),
                    *(f"\\textbf{{{escape(cell.text())}}}" if cell.best else escape(cell.text()) for cell in row.cells),
                ]
            )
            + r" \\"
            for row in group.rows
        ]
        parts += [
            r"\begin{table*}[t]",
            r"  \centering\footnotesize\setlength{\tabcolsep}{3pt}",
            f"  \\caption{{{escape(group.title)}. {escape(_legend(group))}}}",
            r"  \resizebox{\linewidth}{!}{%",
            f"  \\begin{{tabular}}{{lll{'r' * len(heads)}}}",
            r"    \toprule",
            "    " + " & ".join(["Run", "Labels", "Protocol", *heads]) + r" \\",
            r"    \midrule",
            *("    " + line for line in lines),
            r"    \bottomrule",
            r"  \end{tabular}}",
            r"\end{table*}",
        ]
    return "\n".join(parts) + "\n"


_STYLE = """
body { font: 15px/1.4 system-ui, sans-serif; margin: 2rem; color: #1b1f24; background: #fff; }
h1 { font-size: 1.3rem; } h2 { font-size: 1rem; margin: 2rem 0 .5rem; } p { color: #57606a; margin: .4rem 0; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .55rem; text-align: right; white-space: nowrap; }
th:nth-child(-n+3), td:nth-child(-n+3) { text-align: left; }
thead th { border-bottom: 2px solid #1b1f24; vertical-align: bottom; }
thead th.class { padding: .25rem; } thead th.class span { writing-mode: vertical-rl; transform: rotate(180deg); }
i.chip { display: block; width: 1rem; height: 1rem; margin: .3rem auto 0; border-radius: 3px; border: 1px solid #0003; }
tbody tr:nth-child(even) { background: #f6f8fa; } tbody tr.mean { font-style: italic; border-top: 1px solid #1b1f24; }
tbody td:nth-child(4) { border-left: 1px solid #d0d7de; } b { color: #0a3069; }
@media (prefers-color-scheme: dark) { body { background: #0d1117; color: #e6edf3; } p { color: #9198a1; }
 thead th { border-color: #e6edf3; } tbody tr:nth-child(even) { background: #161b22; } b { color: #79c0ff; } }
"""


def html_page(report: Report) -> str:
    parts = []
    for group in report.groups:
        heads = "".join(f"<th>{name}</th>" for name in ("Run", "Labels", "Protocol", *group.summary))
        heads += "".join(
            f'<th class="class"><span>{html.escape(name)}</span>'
            f'<i class="chip" style="background:{html.escape(color)}"></i></th>'
            for name, color in zip(group.classes, group.colors, strict=True)
        )
        body = "\n".join(_html_row(row) for row in group.rows)
        parts.append(
            f"<h2>{html.escape(group.title)}</h2>\n<p>{html.escape(_legend(group))}</p>\n"
            f'<div class="wide"><table><thead><tr>{heads}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>'
        )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>ssl3d report</title>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<style>{_STYLE}</style></head>\n<body>\n<h1>ssl3d report</h1>\n" + "\n".join(parts) + "\n</body></html>\n"
    )


def _html_row(row: Row) -> str:
    facts = "".join(f"<td>{html.escape(text)}</td>" for text in (row.name, row.result.split, row.measure))
    numbers = "".join(f"<td>{text}</td>" for text in _texts(row, lambda text: f"<b>{text}</b>"))
    result = row.result
    title = f"{result.method}, {result.backbone}, step {result.step}, weights: {result.weights}"
    mean = ' class="mean"' if row.seeds > 1 else ""
    return f'<tr{mean} title="{html.escape(title)}">{facts}{numbers}</tr>'


def terminal(report: Report, width: int) -> RenderableType:
    from rich.console import Group as Stack
    from rich.text import Text

    parts: list[RenderableType] = []
    for group in report.groups:
        wide = _wide(group)
        parts.append(Text(group.title, style="bold"))
        if _fits(wide, width):
            parts.append(wide)
        else:
            numbers = _number_rows(group)
            parts += [_overview(group, numbers), Text("")]
            parts += _per_class(group, numbers, width)
        parts += [Text(_legend(group), style="dim"), Text("")]
    return Stack(*parts[:-1])


def _table(*heads: str) -> Table:
    """An empty table whose first columns have these heads."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)  # and the box adds one blank: _SPACE
    for head in heads:
        table.add_column(head, overflow="fold", no_wrap=head != "Run")
    return table


def _fits(table: Table, width: int) -> bool:
    from rich.console import Console

    return Console(width=10_000).measure(table).maximum <= width


def _wide(group: Group) -> Table:
    """A run per row."""
    table = _table("Run", "Labels", "Protocol")
    for head in _plain(*group.summary, *short_names(group.classes)):
        table.add_column(head, justify="right", no_wrap=True)
    for row in group.rows:
        table.add_row(*_plain(row.name, row.result.split, row.measure), *map(_rich, row.cells))
    return table


def _number_rows(group: Group) -> list[str]:
    if len({row.name for row in group.rows}) == 1 < len(group.rows):  # the metrics of one run
        return [row.metric for row in group.rows]
    return [f"#{number}" for number in range(1, len(group.rows) + 1)]


def _overview(group: Group, numbers: Sequence[str]) -> Table:
    several = len(group.rows) > 1
    table = _table(*([""] if several else []), "Run", "Labels", "Protocol")
    for name in group.summary:
        table.add_column(name, justify="right", no_wrap=True)
    for number, row in zip(numbers, group.rows, strict=True):
        cells = map(_rich, row.cells[: len(row.summary)])
        facts = _plain(*([number] if several else []), row.name, row.result.split, row.measure)
        table.add_row(*facts, *cells)
    return table


def _per_class(group: Group, numbers: Sequence[str], width: int) -> list[Table]:
    """A class per row and a run per column, as many tables as the width needs."""
    from rich.text import Text

    column = max(len(cell.text()) for row in group.rows for cell in row.cells) + _SPACE
    label = max(map(len, group.classes)) + len("■ ") + _SPACE
    share = max(1, (width - label) // column)
    tables = []
    for start in range(0, len(group.rows), share):
        table = _table(f"{'AP' if group.rows[0].metric else 'IoU'} ({group.protocol})")
        chosen = group.rows[start : start + share]
        for number in numbers[start : start + share]:
            table.add_column(number if len(group.rows) > 1 else "", justify="right", no_wrap=True)
        for index, (name, color) in enumerate(zip(group.classes, group.colors, strict=True)):
            head = Text.assemble(("■ ", color), name)
            table.add_row(head, *(_rich(row.iou[index]) for row in chosen))
        table.add_section()
        first = group.rows[0].result
        for name, classes in (("head", first.head), ("tail", first.tail)):
            if set(classes) & set(group.classes):
                means = (_rich(row.mean_over(classes)) for row in chosen)
                table.add_row(f"{name}, mean of {len(set(classes) & set(group.classes))}", *means)
        tables.append(table)
    return tables


def _plain(*texts: str) -> list[Text]:
    """Names of users may hold square brackets, which rich would read as markup."""
    from rich.text import Text

    return [Text(text) for text in texts]


def _rich(cell: Cell) -> Text:
    from rich.text import Text

    return Text(cell.text(), style="bold" if cell.best else "")


def short_names(classes: Sequence[str]) -> list[str]:
    """Heads of at most five letters, all different: ``car``, ``o-veh``, ``trunk``, ``bicle`` and ``bicst``."""

    def first(name: str) -> str:
        words = name.replace("_", "-").replace(" ", "-").split("-")
        return name[:5] if len(words) == 1 else f"{words[0][:1]}-{words[-1][:3]}"

    short = [first(name) for name in classes]
    short = [name[:3] + name[-2:] if short.count(head) > 1 else head for name, head in zip(classes, short, strict=True)]
    return [head if short.count(head) == 1 else f"{index}" for index, head in enumerate(short)]


def _legend(group: Group) -> str:
    if group.rows[0].metric:
        return f"{group.protocol}: {instance_ap.LEGEND}."
    rule = PROTOCOLS[group.protocol]
    return f"{group.protocol}: a class without any point {rule.absent}; {rule.columns}."


def _others(row: Row) -> dict[str, Cell]:
    """The columns that only some protocols have."""
    return dict(zip(row.summary[len(SUMMARY) :], row.cells[len(SUMMARY) :], strict=False))  # the classes follow


def _texts(row: Row, strong: Callable[[str], str]) -> list[str]:
    return [strong(cell.text()) if cell.best else cell.text() for cell in row.cells]


def _number(cell: Cell) -> float | None:
    return None if math.isnan(cell.value) else cell.value
