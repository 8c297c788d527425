"""``ssl3d submit --check``: is an archive what a benchmark's server takes? Nothing is unpacked to the disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ssl3d.data.datasets.source import Problem
from ssl3d.data.errors import DataError, UsageError
from ssl3d.data.text import nearest
from ssl3d.pipeline.progress import Progress, Silent
from ssl3d.pipeline.submission.archive import Archive
from ssl3d.pipeline.submission.nuscenes import NuScenesRules
from ssl3d.pipeline.submission.rules import SHOWN, Expected, Found, Rules
from ssl3d.pipeline.submission.scannet import ScanNetRules
from ssl3d.pipeline.submission.semantic3d import Semantic3DRules
from ssl3d.pipeline.submission.semantickitti import SemanticKittiRules

BENCHMARKS: Mapping[str, Rules] = {
    rules.name: rules for rules in (SemanticKittiRules(), NuScenesRules(), ScanNetRules(), Semantic3DRules())
}


@dataclass(frozen=True)
class SubmissionReport:
    """What a check found.

    Attributes:
        expected: files of a complete submission; 0 where only their number is checked.
        measure: what the archive was compared with.
    """

    benchmark: str
    path: Path
    files: int
    expected: int
    size: int
    measure: str
    problems: tuple[Problem, ...]

    @property
    def ok(self) -> bool:
        return all(problem.severity != "error" for problem in self.problems)


def check_submission(
    path: Path, benchmark: str | None = None, expected: Expected | None = None, *, progress: Progress | None = None
) -> SubmissionReport:
    """Checks every name, length and value of an archive.

    Args:
        benchmark: name in ``BENCHMARKS``; None: found from the names in the archive.
        expected: the scans of a prepared dataset, with their points; None: what is known of the official dataset.

    Raises:
        UsageError: no such file or benchmark, or the archive looks like none of them.
        DataError: it is no zip.
    """
    progress = progress or Silent()
    with Archive(path) as archive:
        rules = _rules(archive, benchmark)
        measure = expected or rules.official()
        problems = [*_names(archive, rules, measure), *rules.layout(archive, measure)]
        if expected is not None:
            problems += rules.beyond(archive, expected)
        found = Found()
        names = [name for name in archive.entries if name in measure.points or _unlisted(rules, measure, name)]
        with progress.task("check", total=len(names), unit="file") as task:
            for name in names:
                try:
                    content = archive.read(name)
                except DataError as error:
                    found.add("a file of the archive is damaged", f"{name}: {error.what}")
                else:
                    for kind, detail in rules.content(name, content, measure.points.get(name)):
                        found.add(kind, detail)
                task.advance()
        problems += found.problems()
        return SubmissionReport(
            rules.name, path, len(archive.entries), len(measure.points), archive.size, measure.source, tuple(problems)
        )


def _unlisted(rules: Rules, expected: Expected, name: str) -> bool:
    """A prediction file where the expected names are not known."""
    return not expected.points and rules.extra(name) and not name.endswith(".json")


def _rules(archive: Archive, benchmark: str | None) -> Rules:
    if benchmark is not None:
        if benchmark not in BENCHMARKS:
            near = nearest(benchmark, BENCHMARKS)
            hint = f"did you mean {near}? " if near else ""
            raise UsageError(
                f"there is no benchmark '{benchmark}' with a server", hint=f"{hint}known: {', '.join(BENCHMARKS)}"
            )
        return BENCHMARKS[benchmark]
    fitting = [rules for rules in BENCHMARKS.values() if rules.looks_like(archive)]
    if len(fitting) != 1:
        raise UsageError(
            "the archive looks like a submission to " + (" or ".join(r.name for r in fitting) or "no known benchmark"),
            where={"file": archive.path, "entries": ", ".join(list(archive.entries)[:SHOWN]) or "none"},
            hint=f"name it with --benchmark: {', '.join(BENCHMARKS)}",
        )
    return fitting[0]


def _names(archive: Archive, rules: Rules, expected: Expected) -> list[Problem]:
    problems = []
    unsafe = [name for name in archive.entries if name.startswith("/") or ".." in PurePosixPath(name).parts]
    if unsafe or archive.repeated:
        what = "entries that lead out of the archive" if unsafe else f"{archive.repeated} names that occur twice"
        problems.append(Problem("error", what, {"first": unsafe[0]} if unsafe else {}))
    missing = [name for name in expected.points if name not in archive.entries]
    if missing:
        problems.append(_missing(archive, expected, missing))
    unknown = [name for name in archive.entries if name not in expected.points and not rules.extra(name)]
    if unknown:
        shown = ", ".join(unknown[:SHOWN]) + (", ..." if len(unknown) > SHOWN else "")
        problems.append(Problem("warning", f"{len(unknown)} files that are not asked for", {"files": shown}))
    return problems


def _missing(archive: Archive, expected: Expected, missing: list[str]) -> Problem:
    where: dict[str, object] = {"expected": f"{len(expected.points)} files: {expected.source}", "first": missing[0]}
    deeper = next((name for name in archive.entries if name.endswith("/" + missing[0])), None)
    if deeper is not None:
        where["found"] = deeper
        hint = f"zip the content of {deeper.removesuffix('/' + missing[0])}/, not the folder itself"
    else:
        hint = "predict all test scans: a server counts them, however complete your own download is"
    return Problem("error", f"{len(missing)} files are missing", where, hint)
