"""``ssl3d bench sparse``: the sparse-convolution engine against MinkowskiEngine and spconv on the CPU.

Each side runs in a process of its own, with the same coordinates, features, labels, weights and number of threads; they
take turns, and the figure is the median of the ratios of neighbouring turns. A row is only reported where both computed
the same numbers.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import sys
import tempfile
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ssl3d.benchmarks.sparse_plan import Measurement, measurements
from ssl3d.benchmarks.sparse_scans import CLASSES, Voxels, real_scans, street_scans
from ssl3d.benchmarks.sparse_sides import Compared, Library, Side, SideError, compare, native, thread_settings
from ssl3d.data.errors import UsageError
from ssl3d.pipeline.files import write_json
from ssl3d.pipeline.machine import processor_name
from ssl3d.pipeline.progress import Progress

NETWORKS = {"MinkUNet18": "minkunet18", "MinkUNet34": "minkunet34"}
SECONDS = {"step": 60.0, "infer": 40.0, "maps": 10.0, "operator": 2.0}
"""For the turns of both sides; at least three each, however long they take."""
QUICK_SECONDS = 2.0
ALONE = ("spconv",)
"""Run with one thread: with more, convolutions of spconv 2.3.8 on the CPU get some rows wrong, others each time."""
PACKAGES = {"minkowski": "MinkowskiEngine", "spconv": "spconv"}
NOT_BUILT = {
    "minkowski": "MinkowskiEngine 0.5.4: not measured: build it with `make minkowski`",
    "spconv": "spconv 2.3.8: not measured: build it with `make minkowski`",
}
PROBED: tuple[Mapping[str, str], ...] = ({}, {"OMP_WAIT_POLICY": "PASSIVE"}, {"OPENBLAS_NUM_THREADS": "1"})
"""Settings of the rival besides equal threads; its fastest is used. Its OpenMP and OpenBLAS threads may fight."""
PROBE = Measurement("probe", "step", "minkowski", network="MinkUNet18", size=0.2)

Row = dict[str, Any]


def default_python(engine: str) -> str | None:
    """Where a rival usually is: in the environment that ``make minkowski`` builds, or beside ourselves."""
    built = Path(".venv-minkowski", "bin", "python")
    if built.exists():
        return str(built.absolute())
    return sys.executable if importlib.util.find_spec(PACKAGES[engine]) is not None else None


@dataclass
class Bench:
    """What a benchmark needs to know.

    Attributes:
        folder: keeps what later runs need again: scans, and the settings that were found for the rival.
        pythons: engine -> interpreter that has it, for the rivals that are there.
        guessed: engines that nobody asked for: one that does not start is left out.
        threads: of every side that can.
        quick: small inputs: a look, not a claim.
    """

    folder: Path
    pythons: Mapping[str, str]
    threads: int
    progress: Progress
    quick: bool = False
    guessed: frozenset[str] = frozenset()
    failed: dict[str, SideError] = field(default_factory=dict)
    """Measurements that could not be made, by name."""
    versions: dict[str, str] = field(default_factory=dict)
    libraries: dict[str, Library] = field(default_factory=dict)

    def meet(self, needed: Collection[str]) -> None:
        """Asks the rivals who they are. ``UsageError`` when one that was asked for cannot be started or imported."""
        for engine, python in self.pythons.items():
            if engine not in needed:
                continue
            library = Library(engine, python, thread_settings(self.threads_of(engine)))
            try:
                with Side(library) as side:
                    said = side.ask("hello")
            except (OSError, SideError) as error:
                where = error.where if isinstance(error, SideError) else {"python": python}
                what = error.what if isinstance(error, SideError) else str(error)
                if engine in self.guessed:
                    self.progress.say(f"left out: {what} ({python})")
                    continue
                raise UsageError(what, where=where, hint=f"name a Python that has it with --{engine} PYTHON") from error
            self.versions[engine] = f"{said['version']} (torch {said['versions']['torch'].split('+')[0]})"
            self.libraries[engine] = library

    def label(self, engine: str) -> str:
        if engine not in self.libraries:
            return NOT_BUILT[engine]
        threads = self.threads_of(engine)
        return f"{self.versions[engine]}, {threads} thread{'s' if threads > 1 else ''}"

    def threads_of(self, engine: str) -> int:
        return 1 if engine in ALONE else self.threads

    def rivals(self) -> dict[str, dict[str, Any]]:
        """What they are, and how they were run."""
        return {
            engine: {"version": self.versions[engine], "settings": dict(library.settings)}
            for engine, library in self.libraries.items()
        }

    def state(self, engine: str) -> str:
        """What a figure depends on: the code, the machine and the rival."""
        parts = [code_digest(), processor_name(), str(self.threads), self.label(engine)]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def code_digest() -> str:
    """Of everything that is measured and that measures."""
    from ssl3d.data.synthetic.street import GENERATOR_VERSION
    from ssl3d.models import sparse
    from ssl3d.models.backbones import minkunet

    engine, here = Path(str(sparse.__file__)).parent, Path(__file__).parent
    files = [*engine.rglob("*.py"), Path(str(minkunet.__file__)), *(here / "rivals").glob("*.py")]
    content = b"".join(file.read_bytes() for file in sorted(files))
    return hashlib.sha256(content + bytes([GENERATOR_VERSION])).hexdigest()


# ---------------------------------------------------------------- running


def run(
    bench: Bench,
    *,
    only: str = "",
    real: Path | None = None,
    kept: Sequence[Row] = (),
    done: Callable[[list[Row]], None] = lambda rows: None,
) -> list[Row]:
    """All rows whose name contains ``only``, and those that are kept.

    Args:
        real: a recording of SemanticKITTI, or a folder of them: rows for them too, named ``... real``.
        kept: rows of an earlier run; those of the same state are not measured again, whatever ``only`` says.
        done: called with all rows so far after each measurement. One that fails hinders no other (``bench.failed``).
    """
    scans = {"real": real_scans(real, 4)} if real is not None else {}
    every = measurements(bench.quick, len(scans.get("real", ())))
    plan = [m for m in every if any(only in n for n in m.names)]
    if not plan:
        raise UsageError(
            "no row has such a name", where={"--only": only}, hint="`ssl3d bench sparse --list` prints them"
        )
    bench.meet({m.rival for m in plan})
    old = {row["name"]: row for row in kept}
    states = {engine: bench.state(engine) for engine in ("minkowski", "spconv")}
    have = [m for m in every if all(old.get(name, {}).get("state") == states[m.rival] for name in m.names)]
    left = [m for m in plan if m not in have]
    rows = {name: old[name] for m in have for name in m.names}
    if left:
        count = max(m.batch for m in left)
        with bench.progress.task("scans", count, "scans") as task:
            clouds = {**scans, "": street_scans(bench.folder, count, task.advance)}
        with tempfile.TemporaryDirectory(prefix="ssl3d-bench-") as temporary:
            voxels = Voxels(Path(temporary), clouds)
            _say_plan(bench, left, voxels, len(have))
            _choose_settings(bench, left, voxels)
            with bench.progress.task("measure", len(left), "rows") as task:
                for measurement, found in _measured(bench, left, voxels, task.note):
                    for row in found:
                        rows[row["name"]] = {**row, "state": states[measurement.rival]}
                    task.advance()
                    done(_ordered(every, rows))
    return _ordered(every, rows)


def _ordered(plan: Sequence[Measurement], rows: Mapping[str, Row]) -> list[Row]:
    return [rows[name] for measurement in plan for name in measurement.names if name in rows]


def _say_plan(bench: Bench, left: Sequence[Measurement], voxels: Voxels, have: int) -> None:
    seconds = 0.0
    for measurement in left:
        count = voxels.count(voxels.batch(measurement.scans, measurement.size, measurement.batch))
        budget = QUICK_SECONDS if bench.quick else SECONDS[measurement.kind]
        seconds += measurement.estimate(count, budget, measurement.rival in bench.libraries)
    kept = f", {have} kept" if have else ""
    bench.progress.say(
        f"{len(left)} measurements{kept}, about {max(1, round(seconds / 60))} min "
        f"with {bench.threads} threads; rivals: {', '.join(bench.versions.values()) or 'none'}"
    )


def _measured(
    bench: Bench, left: Sequence[Measurement], voxels: Voxels, note: Callable[[str], None]
) -> Iterable[tuple[Measurement, list[Row]]]:
    """Measurement after measurement. Operators share their processes; everything else starts fresh ones."""
    with contextlib.ExitStack() as stack:
        group: str | None = None
        for measurement in left:
            note(measurement.name)
            if measurement.group != group:
                stack.close()
                group = measurement.group
                ours = stack.enter_context(Side(native(bench.threads)))
                library = bench.libraries.get(measurement.rival)
                theirs = stack.enter_context(Side(library)) if library else None
            seconds = QUICK_SECONDS if bench.quick else SECONDS[measurement.kind]
            try:
                found = compare(_task(bench, measurement, voxels), ours, theirs, seconds)
            except SideError as error:
                bench.progress.say(f"failed: {measurement.name}: {error.what}")
                bench.failed[measurement.name] = error
                group = None  # the next one gets new processes
                yield measurement, []
            else:
                yield measurement, _rows(bench, measurement, found)


def _task(bench: Bench, measurement: Measurement, voxels: Voxels) -> dict[str, Any]:
    """The order to a side."""
    path = voxels.batch(measurement.scans, measurement.size, measurement.batch)
    task: dict[str, Any] = {"kind": measurement.kind, "data": str(path.absolute()), **measurement.details}
    if measurement.network:
        task |= _weights(voxels.folder, measurement.network)
    return task


def _weights(folder: Path, network: str) -> dict[str, Any]:
    """The shape of a network, and a file of the weights that all sides start from."""
    import torch

    from ssl3d.data.atomic import replacing
    from ssl3d.models.backbones.registry import make_backbone

    torch.manual_seed(0)
    net: Any = make_backbone(NETWORKS[network])
    head = net.head(CLASSES)
    path = folder / f"{network}.pt"
    with replacing(path) as temporary:
        torch.save({**net.state_dict(), **{f"final.{k}": v for k, v in head.state_dict().items()}}, temporary)
    shape = {"blocks": list(net.params.blocks), "inputs": net.params.in_channels, "classes": CLASSES}
    return {"weights": str(path.absolute()), **shape}


def _rows(bench: Bench, measurement: Measurement, found: Compared) -> list[Row]:
    label = bench.label(measurement.rival)
    unit, scale = ("s", 1.0) if measurement.kind in ("step", "infer") else ("ms", 1e3)
    ours, theirs = (sorted(times)[len(times) // 2] * scale if times else None for times in (found.ours, found.theirs))
    row: Row = {
        "name": measurement.name,
        "rival": label,
        "ours": ours,
        "theirs": theirs,
        "ratio": found.ratio,
        "unit": unit,
        "voxels": found.sites,
        "turns": len(found.ours),
    }
    if found.theirs:
        row |= {"ratios": [min(found.ratios), max(found.ratios)], "difference": found.difference}
    if found.pairs is not None and measurement.details.get("operator") != "maxpool2":
        passes = 3 if measurement.details["backward"] else 1
        flops = 2.0 * passes * found.pairs * measurement.details["channels"] ** 2
        row["gflops"] = flops / min(found.ours) / 1e9
    if measurement.kind != "step":
        return [row]
    mine, other = found.peak_mb
    memory = {"ours": mine, "theirs": other, "ratio": None if other is None else other / mine, "unit": "MB"}
    return [row, {"name": measurement.names[1], "rival": label, **memory, "voxels": found.sites}]


# ---------------------------------------------------------------- the rival's settings


def _choose_settings(bench: Bench, left: Sequence[Measurement], voxels: Voxels) -> None:
    """Gives MinkowskiEngine the settings with which it is fastest here; found once, and kept in the folder."""
    library = bench.libraries.get("minkowski")
    if library is None or bench.quick or all(m.rival != "minkowski" for m in left):
        return
    path = bench.folder / "minkowski-settings.json"
    known = {"machine": processor_name(), "label": bench.label("minkowski"), "probed": [dict(s) for s in PROBED]}
    with contextlib.suppress(OSError, ValueError, KeyError):
        kept = json.loads(path.read_text(encoding="utf-8"))
        if kept["for"] == known:
            bench.libraries["minkowski"] = replace(library, settings={**library.settings, **kept["best"]})
            return
    task, seconds = _task(bench, PROBE, voxels), []
    with bench.progress.task("rival's settings", len(PROBED)) as bar:
        for settings in PROBED:
            bar.note(" ".join(f"{name}={value}" for name, value in settings.items()) or "as usual")
            with Side(replace(library, settings={**library.settings, **settings})) as side:
                side.ask("load", task=task)
                seconds.append(min(side.ask("turn")["seconds"] for _ in range(2)))
            bar.advance()
    best = dict(PROBED[seconds.index(min(seconds))])
    write_json(path, {"for": known, "best": best, "seconds": seconds})
    bench.libraries["minkowski"] = replace(library, settings={**library.settings, **best})


__all__ = ["Bench", "Row", "default_python", "run"]
