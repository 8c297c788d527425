"""The page that ``ssl3d bench sparse --docs FILE`` writes: rows of its file of figures as tables."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

_OPERATOR = re.compile(
    r"op (?P<operator>\w+) (?P<channels>\d+)ch stride(?P<stride>\d+) (?P<passes>forward\S*)(?P<rest>.*)"
)

Row = Mapping[str, Any]


def markdown(rows: Sequence[Row], machine: Mapping[str, Any]) -> str:
    """The section: what was typed and on what, one table of the whole, one of the operators."""
    versions = machine.get("versions", {})
    facts = [
        f"{machine.get('processor')}, {machine.get('date')}, torch {versions.get('torch')}, "
        f"numba {versions.get('numba')}, Python {versions.get('python')}",
        *(f"{rival['version']}: {_settings(rival['settings'])}" for rival in machine.get("rivals", {}).values()),
    ]
    lines = [f"`{machine.get('command')}`", "", *(f"- {fact}" for fact in facts), ""]
    whole = [row for row in rows if not _OPERATOR.fullmatch(row["name"])]
    if whole:
        lines += ["| row | voxels | ours | theirs | ratio | rival |", "|---|--:|--:|--:|--:|---|"]
        lines += [
            f"| {row['name']} | {row['voxels']:,} | {_amount(row, 'ours')} | {_amount(row, 'theirs')} | {_ratio(row)} "
            f"| {row['rival']} |"
            for row in whole
        ]
        lines.append("")
    return "\n".join([*lines, *_operators(rows)]).rstrip() + "\n"


def _operators(rows: Sequence[Row]) -> list[str]:
    """One line for each operator, channels and stride: ours in ms and the ratio, forward and with backward."""
    found: dict[tuple[str, str, str, str], dict[str, Row]] = {}
    for row in rows:
        if match := _OPERATOR.fullmatch(row["name"]):
            key = match["operator"], match["channels"], match["stride"], match["rest"]
            found.setdefault(key, {})[match["passes"]] = row
    if not found:
        return []
    passes = ("forward", "forward+backward")
    head = ["operator", "channels", "stride", "sites", *(f"{name}, ms | ratio" for name in passes)]
    lines = ["| " + " | ".join(head) + " |", "|---|" + "--:|" * 7]
    for (operator, channels, stride, rest), both in found.items():
        cells = [operator + rest, channels, stride, f"{next(iter(both.values()))['voxels']:,}"]
        for name in passes:
            cells += [f"{both[name]['ours']:.3g}", _ratio(both[name])] if name in both else ["", ""]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _amount(row: Row, side: str) -> str:
    return "-" if row[side] is None else f"{row[side]:.4g} {row['unit']}"


def _ratio(row: Row) -> str:
    return "-" if row["ratio"] is None else f"{row['ratio']:.2f}"


def _settings(settings: Mapping[str, str]) -> str:
    return " ".join(f"{name}={value}" for name, value in settings.items() if name[:3] in ("OMP", "OPE"))


__all__ = ["markdown"]
