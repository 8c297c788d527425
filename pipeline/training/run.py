"""A run on disk: what it is, how far it got, and all that it wrote. Listing runs imports no torch.

``config.json`` (resolved), ``environment.json`` (one entry per session), ``command.txt``, ``metrics.jsonl``,
``status.json``, ``tb/`` (TensorBoard), ``checkpoints/last.pt``, and what evaluation adds.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from filelock import FileLock, Timeout

from ssl3d.data.atomic import write_whole
from ssl3d.data.errors import Ssl3dError, UsageError
from ssl3d.data.text import nearest
from ssl3d.pipeline.files import read_json, remove_tree, write_json, writing
from ssl3d.pipeline.training.config import RunConfig

if TYPE_CHECKING:
    from ssl3d.pipeline.workspace import Workspace

State = Literal["new", "running", "unfinished", "interrupted", "failed", "finished"]
Lines = list[dict[str, Any]]
LOCK = ".lock"

_NUMBER = (int, float)
_RECORD: dict[str, Any] = {
    "created": _NUMBER, "method": str, "backbone": str, "seed": int, "dataset": dict, "split": dict, "train": dict
}  # fmt: skip
_STATUS: dict[str, Any] = {
    "state": str, "step": int, "steps": int, "seconds": _NUMBER, "updated": _NUMBER, "losses": dict, "time_split": dict
}  # fmt: skip
_LINE: dict[str, Any] = {"step": int, "losses": dict, "lr": _NUMBER}


class RunDirectory:
    """One run. ``RunDirectory(path)`` opens nothing; ``open`` finds one by name."""

    checkpoint_name = "last"

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def name(self) -> str:
        return self.path.name

    @classmethod
    def open(cls, workspace: Workspace, name: str) -> RunDirectory:
        """The run with this name, a unique beginning or ending of it, or a path to its folder.

        Raises:
            UsageError: there is none (names the nearest), or several.
        """
        if (Path(name) / "config.json").is_file():
            return cls(Path(name).absolute())
        known = {run.name: run for run in cls.list(workspace)}
        if name in known:
            return known[name]
        fits = [run for key, run in known.items() if name and (key.startswith(name) or key.endswith(name))]
        if len(fits) == 1:
            return fits[0]
        if fits:
            raise UsageError(f"several runs are called {name!r}", where={"runs": ", ".join(run.name for run in fits)})
        near = nearest(name, known, 0.3)
        hint = f"did you mean {near}?" if near else "ssl3d runs lists them; ssl3d train supervised makes one"
        raise UsageError(f"there is no run {name!r}", where={"folder": workspace.runs_dir}, hint=hint)

    @classmethod
    def list(cls, workspace: Workspace) -> list[RunDirectory]:
        """All runs, the oldest first."""
        found = [cls(path.parent) for path in workspace.runs_dir.glob("*/config.json") if path.is_file()]
        return sorted(found, key=lambda run: (run.record().get("created", 0), run.name))

    @classmethod
    def create(cls, workspace: Workspace, config: RunConfig) -> RunDirectory:
        """The folder of a bound config, with ``config.json`` (kept as it is when the run exists)."""
        return cls.create_at(workspace.runs_dir / config.run_name, config)

    @classmethod
    def create_at(cls, path: Path, config: RunConfig) -> RunDirectory:
        """The same in a folder of one's own (of a stage that trains a network)."""
        run = cls(path)
        with writing(run.path):
            run.path.mkdir(parents=True, exist_ok=True)
            if not run.exists:
                write_json(run.path / "config.json", {"created": time.time(), **config.to_dict()})
        return run

    @property
    def exists(self) -> bool:
        return (self.path / "config.json").is_file()

    def record(self) -> dict[str, Any]:
        """``config.json`` without what has not even the right type; empty when unreadable."""
        return _fitting(read_json(self.path / "config.json"), _RECORD)

    @cached_property
    def config(self) -> RunConfig:
        """The resolved configuration. ``Ssl3dError`` when it is missing, unreadable or of a newer version."""
        if not self.exists:
            raise Ssl3dError("the run has no configuration", where={"file": self.path / "config.json"})
        value = self.record()
        value.pop("created", None)
        try:
            return RunConfig.from_dict(value)
        except Ssl3dError as error:
            error.where.setdefault("file", self.path / "config.json")
            raise

    # ------------------------------------------------------------ state

    def status(self) -> dict[str, Any]:
        """``status.json``: state, step, steps, seconds, peak memory, time split, last losses; empty for a new run, or
        without what has not the right type."""
        value = _fitting(read_json(self.path / "status.json"), _STATUS)
        return value if value.get("state", "new") in get_args(State) else {}

    def write_status(self, state: State, **more: Any) -> None:
        value = {**self.status(), **more, "state": state, "updated": time.time(), "pid": os.getpid()}
        with writing(self.path):
            write_json(self.path / "status.json", {**value, "host": socket.gethostname()})

    @property
    def state(self) -> State:
        """``running`` only while a process trains it; one that was killed is ``unfinished``."""
        state: State = self.status().get("state", "new")
        return "unfinished" if state == "running" and not self.is_locked() else state

    @property
    def finished(self) -> bool:
        return self.status().get("state") == "finished"

    def is_locked(self) -> bool:
        """Whether some process trains this run now."""
        if not (self.path / LOCK).exists():
            return False
        lock = FileLock(self.path / LOCK)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return True
        except OSError:
            return False
        lock.release()
        return False

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Only one process trains a run. ``Ssl3dError`` at once when another does."""
        lock = FileLock(self.path / LOCK)
        with writing(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            try:
                lock.acquire(timeout=0)
            except Timeout as error:
                held = self.status()
                who = f"process {held['pid']} on {held.get('host')}" if "pid" in held else "another process"
                raise Ssl3dError(
                    f"{who} is training this run",
                    where={"run": self.name},
                    hint="wait for it (ssl3d runs shows how far it is), or train another: --seed 1",
                ) from error
        try:
            yield
        finally:
            lock.release()

    def clear(self) -> None:
        """Removes all but the configuration and the lock (call it with the lock held)."""
        with writing(self.path):
            for entry in self.path.iterdir():
                if entry.name not in ("config.json", LOCK):
                    remove_tree(entry)

    # ------------------------------------------------------------ results

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def tensorboard(self) -> Path:
        return self.path / "tb"

    def checkpoint_path(self) -> Path:
        """The checkpoint that counts; ``UsageError`` while there is none."""
        path = self.checkpoints / f"{self.checkpoint_name}.pt"
        if not path.exists():
            hint = f"train it first: ssl3d train --resume {self.name}"
            raise UsageError("the run has no checkpoint yet", where={"run": self.name}, hint=hint)
        return path

    def checkpoint_step(self) -> int:
        """Steps of training in the checkpoint that counts."""
        from ssl3d.pipeline.training import checkpoint

        return int(checkpoint.load(self.checkpoint_path())["step"])

    def metrics(self) -> Lines:
        """The lines of ``metrics.jsonl``, oldest first; what is no such line (a kill cut it short) is left out."""
        lines: Lines = []
        with suppress(FileNotFoundError):
            for line in (self.path / "metrics.jsonl").read_bytes().splitlines():
                with suppress(ValueError):
                    value = _fitting(json.loads(line), _LINE)
                    if _LINE.keys() <= value.keys():
                        lines.append(value)
        return lines

    def truncate_metrics(self, step: int) -> None:
        """Forgets what was logged after ``step``, so that a resumed run repeats nothing."""
        kept = [line for line in self.metrics() if line.get("step", 0) <= step]
        path = self.path / "metrics.jsonl"
        with writing(self.path):
            write_whole(path, "".join(json.dumps(line) + "\n" for line in kept).encode())


class Onlooker(RunDirectory):
    """The folder of a run for a process that trains it together with the one that owns it: it only reads."""

    def write_status(self, state: State, **more: Any) -> None:
        pass

    @contextmanager
    def lock(self) -> Iterator[None]:
        yield

    def clear(self) -> None:
        pass

    def truncate_metrics(self, step: int) -> None:
        pass


def _fitting(value: Any, types: Mapping[str, Any]) -> dict[str, Any]:
    """An object without the entries that have another type than ``types`` says: one bad folder must not hide all runs
    from who lists them."""
    if not isinstance(value, dict):
        return {}
    return {key: item for key, item in value.items() if key not in types or isinstance(item, types[key])}


__all__ = ["Onlooker", "RunDirectory", "State"]
