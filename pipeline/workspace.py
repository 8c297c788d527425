"""The workspace: one folder with everything that is derived from the data (products of stages, runs, caches).

``<workspace>/workspace.json`` names the schema and the dataset prepared last; ``data/<dataset>/dataset.json`` the
product of each stage that is current. Nothing is written before the first command that has something to write.
"""

from __future__ import annotations

import atexit
import json
import os
import re
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from ssl3d.data.errors import Ssl3dError, UsageError
from ssl3d.pipeline.files import read_json, temporary_files, write_json, writing
from ssl3d.pipeline.progress import Progress, Silent

if TYPE_CHECKING:
    from ssl3d.pipeline.product import Product

SCHEMA = 1
_OWN = re.compile(r"\.gitignore|\.?workspace[.-]json(\..*)?|locks|cache")
_OWN_BESIDE_LOCKS = {"data", "runs"}  # common names: ours only where our locks are
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class Workspace:
    """A folder that belongs to ssl3d. Use ``Workspace.open``."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @classmethod
    def open(cls, path: Path | str, create: bool = True) -> Workspace:
        """The workspace at ``path``.

        Args:
            path: the folder; it need not exist when ``create``.
            create: False for commands that only read.

        Raises:
            UsageError: ``path`` is a file, a folder with other things in it, or (``create=False``) absent.
            Ssl3dError: the workspace was written by a newer ssl3d, or its description is unreadable.
        """
        root = Path(path).expanduser().absolute()
        for place in (root, *root.parents):
            if (place.exists() or place.is_symlink()) and not place.is_dir():
                raise UsageError(
                    f"the workspace has to be a folder, this is a {'file' if place.exists() else 'link to nowhere'}",
                    where={"workspace": root, "file": place},
                    hint="choose another place with --workspace DIR",
                )
        workspace = cls(root)
        try:
            described = (root / "workspace.json").is_file()
        except OSError as error:
            raise Ssl3dError(f"the workspace cannot be read: {error.strerror}", where={"workspace": root}) from error
        if described:
            workspace._description()
        elif not create:
            raise UsageError(
                "there is no workspace here",
                where={"workspace": root},
                hint="make one with `ssl3d prepare semantickitti --root DIR`, or name yours with --workspace DIR",
            )
        else:
            workspace._refuse_foreign_folder()
        return workspace

    def _refuse_foreign_folder(self) -> None:
        if not self.root.exists():
            return
        with writing(self.root):
            names = sorted(entry.name for entry in self.root.iterdir())
            own = _OWN_BESIDE_LOCKS if "locks" in names else set()
            foreign = [name for name in names if name not in own and not _OWN.fullmatch(name)]
        if foreign:
            raise UsageError(
                "this folder is not a workspace and not empty",
                where={"workspace": self.root, "holds": ", ".join(foreign[:3]) + (" ..." if len(foreign) > 3 else "")},
                hint="choose an empty or new folder with --workspace DIR",
            )

    def _description(self) -> dict[str, Any]:
        path = self.root / "workspace.json"
        value = read_json(path)
        schema = value.get("schema") if value else None
        if value is None or not isinstance(schema, int):
            raise Ssl3dError(
                "the description of the workspace is unreadable",
                where={"file": path},
                hint="delete this file and run your prepare command again: finished units are found again",
            )
        if schema > SCHEMA:
            raise Ssl3dError(
                f"the workspace was written by a newer ssl3d (schema {schema}, this version knows {SCHEMA})",
                where={"file": path},
                hint="upgrade ssl3d (pip install -U ssl3d), or choose another workspace with --workspace DIR",
            )
        return value

    def ensure(self) -> Workspace:
        """Creates the folder and its description where absent; an error when it cannot be written."""
        if not (self.root / "workspace.json").exists():
            self._make_folder()
            with writing(self.root), FileLock(self.root / "locks" / "workspace.lock"):
                (self.root / ".gitignore").write_text("*\n", encoding="utf-8")
                if not (self.root / "workspace.json").exists():  # another process may have been quicker
                    write_json(self.root / "workspace.json", {"schema": SCHEMA, "current": None})
        return self

    def _make_folder(self) -> None:
        try:
            with writing(self.root):
                (self.root / "locks").mkdir(parents=True, exist_ok=True)
        except OSError as error:  # a place where nothing can be made, e.g. below /proc
            raise Ssl3dError(
                f"the workspace cannot be made here: {error.strerror}",
                where={"workspace": self.root},
                hint="choose another place with --workspace DIR",
            ) from error

    @property
    def runs_dir(self) -> Path:
        """Where runs are kept (it may not exist yet)."""
        return self.root / "runs"

    @property
    def data_dir(self) -> Path:
        return self.root / "data"

    @property
    def numba_cache(self) -> Path:
        return self.root / "cache" / "numba"

    @contextmanager
    def lock(self, name: str, progress: Progress | None = None) -> Iterator[None]:
        """Holds the lock ``name`` of this workspace; waits, and says for whom, while another process holds it.

        The system releases it when the holder dies, so a kill leaves nothing to clean up.
        """
        self.ensure()
        folder = self.root / "locks"
        with writing(folder):
            folder.mkdir(exist_ok=True)
            lock = FileLock(folder / f"{name}.lock")
            try:
                lock.acquire(timeout=0)
            except Timeout:
                (progress or Silent()).say(f"waiting for {_holder(folder / f'{name}.json')}, which works on {name}")
                lock.acquire(poll_interval=0.1)
        holder = {"pid": os.getpid(), "host": socket.gethostname(), "command": _command(), "since": time.time()}
        try:
            with suppress(OSError):  # only a courtesy to who waits: `clean` has to work on a full disk
                write_json(folder / f"{name}.json", holder)
            yield
        finally:
            (folder / f"{name}.json").unlink(missing_ok=True)
            lock.release()

    @property
    def current(self) -> str | None:
        """Name of the dataset prepared last."""
        value = self._description().get("current") if (self.root / "workspace.json").exists() else None
        return value if isinstance(value, str) and (self.data_dir / value / "dataset.json").exists() else None

    def set_current(self, name: str) -> None:
        with self.lock("workspace"), writing(self.root):
            for leftover in temporary_files(self.root):
                leftover.unlink()
            write_json(self.root / "workspace.json", {**self._description(), "current": name})

    def datasets(self) -> list[DatasetHandle]:
        """Every dataset with products in this workspace, by name."""
        found = sorted(path.parent.name for path in self.data_dir.glob("*/dataset.json"))
        return [DatasetHandle(self, name) for name in found]

    def dataset(self, name: str | None = None) -> DatasetHandle:
        """The dataset ``name``, or the one prepared last. UsageError when there is none."""
        known = [handle.name for handle in self.datasets()]
        if name is None and (name := self.current) is None:
            raise UsageError(
                "no dataset has been prepared in this workspace",
                where={"workspace": self.root},
                hint="type: ssl3d prepare semantickitti --root DIR"
                + (f" (or choose one with --dataset: {', '.join(known)})" if known else ""),
            )
        if name not in known:
            raise UsageError(
                f"there is no dataset '{name}' in this workspace",
                where={"workspace": self.root, "prepared": ", ".join(known) or "none"},
                hint="type: ssl3d prepare semantickitti --root DIR",
            )
        return DatasetHandle(self, name)


@dataclass(frozen=True)
class DatasetHandle:
    """A dataset in a workspace: which product of each stage is current, and where it lies."""

    workspace: Workspace
    name: str

    @property
    def folder(self) -> Path:
        return self.workspace.data_dir / self.name

    def record(self) -> dict[str, Any]:
        """``{"name", "stages": {stage: key}, ...}``; no stages when nothing was made yet, or the file is damaged."""
        record = read_json(self.folder / "dataset.json") or {}
        stages = record.get("stages")
        known = {name: key for name, key in stages.items() if isinstance(key, str)} if isinstance(stages, dict) else {}
        return {**record, "name": self.name, "stages": known}

    def update(self, stage: str, key: str) -> None:
        """Makes the product ``key`` the current one of ``stage`` (call it with the dataset's lock held)."""
        record = self.record()
        record["stages"] = {**record["stages"], stage: key}
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self.folder / "dataset.json", record)

    def product(self, stage: str, key: str | None = None) -> Product | None:
        """The product of ``stage`` with this key (a prefix of 4 or more letters will do), or the current one."""
        from ssl3d.pipeline.product import Product

        if key is None and (key := self.record()["stages"].get(stage)) is None:
            return None
        folders = sorted(self.folder.glob(f"{stage}/{key}*")) if len(key) < 12 else [self.folder / stage / key[:12]]
        return Product.load(folders[0]) if len(folders) == 1 else None

    def products(self, stage: str) -> list[Product]:
        """All products of ``stage`` that are on disk, current or not."""
        from ssl3d.pipeline.product import Product

        found = [Product.load(path.parent) for path in sorted(self.folder.glob(f"{stage}/*/stage.json"))]
        return [product for product in found if product is not None]


def check_dataset_name(name: str) -> str:
    """``name`` itself if it can be a folder name; UsageError otherwise."""
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"'{name}' cannot be the name of a dataset",
            hint="use letters, digits, '.', '_' and '-', beginning with a letter or digit",
        )
    return name


def ensure_numba_cache(workspace: Workspace | None) -> None:
    """Sends numba's cache to the workspace when the package folder is read-only. Call it before numba is imported.

    A command that has no workspace leaves it to numba, which uses the home folder, or without one takes a temporary
    folder for as long as it runs (a lasting one that others can write would let them run code here).

    Without a writable place, ``cache=True`` kernels fail at import ("no locator available", numba issue 4032).
    """
    import ssl3d.data

    if os.environ.get("NUMBA_CACHE_DIR") or os.access(Path(str(ssl3d.data.__file__)).parent, os.W_OK):
        return
    if workspace is not None:
        place = str(workspace.numba_cache)
    elif _can_make(Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))):  # noqa: PTH111  no error
        return
    else:
        place = tempfile.mkdtemp(prefix="ssl3d-numba-")
        atexit.register(shutil.rmtree, place, ignore_errors=True)
    os.environ["NUMBA_CACHE_DIR"] = place
    if "numba" in sys.modules:
        sys.modules["numba"].config.CACHE_DIR = place


def _can_make(folder: Path) -> bool:
    return os.access(next(place for place in (folder, *folder.absolute().parents) if place.exists()), os.W_OK)


def _command() -> str:
    return " ".join([Path(sys.argv[0]).name or "python", *sys.argv[1:]])[:200]


def _holder(path: Path) -> str:
    try:
        value = json.loads(path.read_bytes())
        return f"process {value['pid']} on {value['host']} (`{value['command']}`)"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
