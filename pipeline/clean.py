"""Removes what is not needed any more, and tells what that is and how large."""

from __future__ import annotations

from pathlib import Path

from ssl3d.data.errors import UsageError
from ssl3d.pipeline.files import remove_tree, temporary_files, tree_bytes, write_json, writing
from ssl3d.pipeline.graph import STAGES, stale_reason
from ssl3d.pipeline.progress import Progress, Silent
from ssl3d.pipeline.workspace import DatasetHandle, Workspace


def clean(
    workspace: Workspace, *, what: str = "stale", dry_run: bool = False, progress: Progress | None = None
) -> list[tuple[Path, int]]:
    """Removes parts of a workspace; waits for other commands that work on the same dataset.

    Args:
        what: ``stale`` (products that no current command would use: of other parameters or versions, and what
            killed processes left), the name of a stage (all its products, and of what needs it nothing: those
            become stale), ``runs``, or ``all``.
        dry_run: only list.

    Returns:
        (path, bytes) of each removed thing.

    Raises:
        UsageError: unknown ``what``.
    """
    if what not in {"stale", "runs", "all", *STAGES}:
        raise UsageError(
            f"'{what}' is nothing that can be cleaned", hint=f"one of: stale, runs, all, {', '.join(STAGES)}"
        )
    progress = progress or Silent()
    removed: list[tuple[Path, int]] = []
    if what in ("runs", "all"):
        removed += _remove(sorted(workspace.runs_dir.glob("*")), dry_run)
    if what != "runs":
        for handle in workspace.datasets():
            if dry_run:
                removed += _remove(_candidates(handle, what), dry_run)
            else:
                with workspace.lock(f"data-{handle.name}", progress):
                    removed += _remove(_candidates(handle, what), dry_run)
                    _forget(handle, what)
    if what == "all":
        removed += _remove(sorted((workspace.root / "cache").glob("*")), dry_run)
    return removed


def _candidates(handle: DatasetHandle, what: str) -> list[Path]:
    if what == "all":
        return [handle.folder]
    if what != "stale":
        return sorted(handle.folder.glob(f"{what}/*"))
    products = {name: handle.product(name) for name in STAGES}
    found: list[Path] = []
    for folder in sorted(handle.folder.glob("*/*")):
        stage = STAGES.get(folder.parent.name)
        if not folder.is_dir():
            continue
        product = handle.product(folder.parent.name, folder.name)
        current = products.get(folder.parent.name)
        is_root = stage is not None and not stage.needs  # of those only the current product is used
        if (
            stage is None
            or product is None
            or (is_root and current is not None and current.folder != folder)
            or stale_reason(stage, product, products)
        ):
            found.append(folder)
        else:
            found += temporary_files(folder)
    return found


def _remove(paths: list[Path], dry_run: bool) -> list[tuple[Path, int]]:
    sizes = [(path, tree_bytes(path)) for path in paths]
    if not dry_run:
        for path in paths:
            with writing(path.parent):
                remove_tree(path)
    return sizes


def _forget(handle: DatasetHandle, what: str) -> None:
    """Keeps the record in step with what is on disk."""
    if what != "all":
        record = handle.record()
        record["stages"] = {name: key for name, key in record["stages"].items() if handle.product(name, key)}
        with writing(handle.folder):
            write_json(handle.folder / "dataset.json", record)
