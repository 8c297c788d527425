"""Readers of loose files, against ``cp`` of the same bytes and against the CSV readers that are installed.

Those of published layouts are in ``readers.py``.

The rivals for text (polars, pyarrow, pandas) are no dependencies of the project: those that can be imported are
measured, numpy's ``loadtxt`` always, and the fastest of them is the rival of the row.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import xxhash

from ssl3d.benchmarks.readers import binary_layouts, fastest, text_layouts
from ssl3d.benchmarks.stages import row
from ssl3d.data.formats import Labelled, Options, read_blocks, read_table, update_digest, write_labelled

NAMES = ("x", "y", "z", "intensity", "red", "green", "blue")
FULL = 5_000_000
_OPTIONS = Options(names=NAMES)
_STYLES = {
    "millimeters and whole numbers": ["%.3f"] * 3 + ["%d"] * 4,  # as Semantic3D is published
    "numpy.savetxt": ["%.18e"] * 7,
}


def formats(folder: Path, *, points: int, repeats: int) -> list[dict[str, Any]]:
    """All rows. ``folder``: empty; ``points``: rows of each binary file, a text file has a tenth of them.

    Published layouts are smaller than real ones where ``points`` are fewer than ``FULL``.
    """
    scale = points / FULL
    return [
        *binary(folder, points=points, repeats=repeats),
        *text(folder, points=points // 10, repeats=repeats),
        *binary_layouts(folder, repeats=repeats, scale=scale),
        *text_layouts(folder, csv_readers(), repeats=repeats, scale=scale),
    ]


def binary(folder: Path, *, points: int, repeats: int) -> list[dict[str, Any]]:
    """Every column of a file block by block, its digest included, in one process."""
    bar = "cp --reflink=never, warm (bar: a ratio of at least 0.2)"
    found = []
    for path, options in _binary_files(folder, _points(points)):
        copy = path.with_name("copy")
        ours = partial(_read_and_digest, path, options)
        theirs = partial(subprocess.run, ["cp", "--reflink=never", str(path), str(copy)], check=True)
        best = fastest({"ours": ours, "cp": theirs}, repeats)
        size = path.stat().st_size / 1e6
        found.append(row(f"read {path.name}, {size:.0f} MB, with digest", bar, best["ours"], best["cp"], "s"))
        copy.unlink()
        path.unlink()
    return found


def text(folder: Path, *, points: int, repeats: int) -> list[dict[str, Any]]:
    """Whole text files as columns; ours and theirs with as many threads as they like."""
    found = []
    for style, numbers in _STYLES.items():
        path = folder / "cloud.txt"
        np.savetxt(path, _points(points), fmt=numbers)
        sides: dict[str, Callable[[], object]] = {"ours": partial(read_table, path, _OPTIONS)}
        sides |= {name: partial(read, path) for name, read in csv_readers().items()}
        best = fastest(sides, repeats)
        rival = min(csv_readers(), key=lambda name: best[name])
        others = ", ".join(f"{name} {best[name]:.2f}" for name in csv_readers() if name != rival)
        bar = f"{rival} (bar: a ratio of at least 0.67{f'; {others}' if others else ''})"
        size = path.stat().st_size / 1e6
        found.append(row(f"read text, {style}, {size:.0f} MB", bar, best["ours"], best[rival], "s"))
        path.unlink()
    return found


def csv_readers() -> Mapping[str, Callable[[Path], object]]:
    """Readers of whole text files with spaces between the numbers and without a header, by name."""
    readers: dict[str, Callable[[Path], object]] = {"numpy.loadtxt": np.loadtxt}
    try:
        import pandas

        readers["pandas"] = lambda path: pandas.read_csv(path, sep=" ", header=None)
    except ImportError:
        pass
    try:
        import polars

        readers["polars"] = lambda path: polars.read_csv(path, separator=" ", has_header=False)
    except ImportError:
        pass
    try:
        from pyarrow import csv

        named, spaced = csv.ReadOptions(autogenerate_column_names=True), csv.ParseOptions(delimiter=" ")
        readers["pyarrow"] = lambda path: csv.read_csv(path, read_options=named, parse_options=spaced)
    except ImportError:
        pass
    return readers


def _points(rows: int) -> npt.NDArray[np.float64]:
    """(rows, 7) of ``NAMES``."""
    rng = np.random.default_rng(0)
    return np.concatenate([rng.normal(0, 40, (rows, 3)), rng.integers(0, 256, (rows, 4))], axis=1)


def _read_and_digest(path: Path, options: Options) -> None:
    digest = xxhash.xxh3_128()
    update_digest(path, digest)
    for _ in read_blocks(path, options):
        pass


def _binary_files(folder: Path, points: npt.NDArray[np.float64]) -> Iterator[tuple[Path, Options]]:
    """One file after the other with ``points``, of each binary format."""
    single = points.astype(np.float32)
    labelled = Labelled(single[:, :3], np.arange(len(points)) % 20, single[:, 3], points[:, 4:].astype(np.uint8))
    path = folder / "cloud.bin"
    single.tofile(path)
    yield path, _OPTIONS
    np.save(path.with_suffix(".npy"), single)
    yield path.with_suffix(".npy"), _OPTIONS
    header = f"VERSION 0.7\nFIELDS {' '.join(NAMES)}\nSIZE{' 4' * 7}\nTYPE{' F' * 7}\nCOUNT{' 1' * 7}\n"
    header += f"WIDTH {len(points)}\nHEIGHT 1\nPOINTS {len(points)}\nDATA binary\n"
    path.with_suffix(".pcd").write_bytes(header.encode() + single.tobytes())
    yield path.with_suffix(".pcd"), Options()
    with h5py.File(path.with_suffix(".h5"), "w") as file:
        file["points"], file["label"] = single[:, :3], labelled.label.astype(np.uint8)
    yield path.with_suffix(".h5"), Options()
    for suffix in (".npz", ".ply", *([".las"] if find_spec("laspy") else [])):
        write_labelled(path.with_suffix(suffix), labelled)
        yield path.with_suffix(suffix), Options()
