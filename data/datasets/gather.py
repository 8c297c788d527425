"""Problems of many scans: those of one kind are told once, with the scans that have it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from ssl3d.data.datasets.source import Problem
from ssl3d.data.errors import DataError

_SHOWN = 5


@dataclass(slots=True)
class Gathered:
    """Problems in the order in which their kinds were met.

    Args:
        noun: what one of the members is called, in the plural.
    """

    noun: str
    _found: dict[tuple[str, str], tuple[Problem, list[str]]] = field(default_factory=dict)

    def add(
        self,
        member: str,
        severity: Literal["error", "warning"],
        what: str,
        where: Mapping[str, object],
        hint: str | None = None,
    ) -> None:
        """A problem of a member. Texts that differ in numbers only are of one kind."""
        key = (severity, re.sub(r"\d+", "0", what))
        _, members = self._found.setdefault(key, (Problem(severity, what, dict(where), hint), []))
        if member not in members:
            members.append(member)

    def add_error(self, member: str, error: DataError, **where: object) -> None:
        """What reading a small file of a member raised."""
        self.add(member, "error", error.what, {**error.where, **where}, error.hint)

    def problems(self) -> list[Problem]:
        """One of each kind: the first, and the members that have it."""
        return [_merged(problem, members, self.noun) for problem, members in self._found.values()]


def _merged(problem: Problem, members: list[str], noun: str) -> Problem:
    others = len(members) - 1
    if not others:
        return problem
    listed = ", ".join(members[:_SHOWN]) + (", ..." if len(members) > _SHOWN else "")
    what = f"{problem.what}; in {len(members)} {noun}"
    return replace(problem, what=what, where={**problem.where, noun: listed})
