"""Checkpoints: tensors and plain containers only. They open with ``weights_only=True`` and run nobody's code."""

from __future__ import annotations

import errno
import os
import pickle
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

import torch

from ssl3d.data.atomic import replacing, temporary_beside
from ssl3d.data.errors import Ssl3dError
from ssl3d.pipeline.files import writing

SCHEMA = 2
"""1: before phases could be entered; batches were drawn otherwise then."""
LAST, PREVIOUS = "last.pt", "last.prev.pt"
_IS_FOLDER = 0x10  # in a ZIP index; torch reads nothing then, and returns memory as it was
DAMAGE = (zipfile.BadZipFile, zlib.error, pickle.UnpicklingError, RuntimeError, EOFError, KeyError, ValueError)
"""What opening a damaged file raises."""


def save(path: Path, value: Mapping[str, Any]) -> None:
    """Writes a checkpoint, whole or not at all, and waits until it is on the disk.

    Raises:
        Ssl3dError: the disk is full or the folder cannot be written; ``path`` is then as it was.
    """
    with writing(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path, durable=True) as temporary, temporary.open("wb") as file:
            writer = _Writer(file)
            try:
                torch.save(dict(value), cast(IO[bytes], writer))
            except RuntimeError as error:  # torch's zip writer hides the reason
                raise writer.error or error from error


def save_last(folder: Path, value: Mapping[str, Any]) -> None:
    """``last.pt``, keeping the one before as ``last.prev.pt``. At every instant a whole checkpoint is in the folder."""
    last, previous = folder / LAST, folder / PREVIOUS
    with writing(folder):
        if last.exists():
            link = temporary_beside(previous)
            link.unlink(missing_ok=True)
            try:
                os.link(last, link)
                link.replace(previous)
            except OSError:  # a file system without hard links: for an instant only the previous name exists
                last.replace(previous)
    save(last, value)


def exists(folder: Path) -> bool:
    """Whether ``load_last`` has something to look at."""
    return any((folder / name).exists() for name in (LAST, PREVIOUS))


def load_last(folder: Path, say: Callable[[str], None]) -> dict[str, Any] | None:
    """The last checkpoint, or the one before when the last is damaged (and then says so). None when there is none.

    Raises:
        Ssl3dError: every checkpoint in the folder is damaged, a newer version wrote it, or an older one, which this
            version cannot go on from (it can evaluate the weights).
    """
    damaged: list[str] = []
    for name in (LAST, PREVIOUS):
        if not (folder / name).exists():
            continue
        try:
            found = load(folder / name)
        except DamagedCheckpointError as error:
            damaged.append(name)
            say(f"the checkpoint {folder / name} is damaged ({error.where.get('cause')}): trying the one before")
            continue
        if found["schema"] < SCHEMA:
            raise Ssl3dError(
                "an older ssl3d has begun this run, and drew its batches otherwise: this one cannot go on with it",
                where={"file": folder / name, "step": found.get("step")},
                hint="begin it again with --overwrite, or begin another from its weights with --init-from",
            )
        return found
    if damaged:
        raise Ssl3dError(
            "every checkpoint of the run is damaged",
            where={"folder": folder, "files": ", ".join(damaged)},
            hint="train it again with --overwrite",
        )
    return None


class DamagedCheckpointError(Ssl3dError):
    """A checkpoint that cannot be believed."""


def load(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Opens a checkpoint after checking its checksums (torch itself does not).

    Raises:
        DamagedCheckpointError: truncated, altered, or no checkpoint of ssl3d.
        Ssl3dError: absent, or written by a newer version.
    """
    if not path.exists():
        raise Ssl3dError("there is no checkpoint", where={"file": path}, hint="train the run first")
    try:
        check_archive(path)
        value = torch.load(path, map_location=device, weights_only=True)
    except (*DAMAGE, OSError) as error:
        if isinstance(error, OSError) and error.errno != errno.EINVAL:  # EINVAL: sent to a place that no file has
            raise
        cause = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DamagedCheckpointError(
            "the checkpoint is damaged", where={"file": path, "cause": cause}, hint="train the run with --overwrite"
        ) from error
    schema = value.get("schema") if isinstance(value, dict) else None
    if not isinstance(schema, int) or "model" not in value:
        raise DamagedCheckpointError("this is no checkpoint of ssl3d", where={"file": path, "cause": "no schema"})
    if schema > SCHEMA:
        raise Ssl3dError(
            f"the checkpoint was written by a newer ssl3d (schema {schema}, this version knows {SCHEMA})",
            where={"file": path},
            hint="upgrade ssl3d (pip install -U ssl3d)",
        )
    return value


def check_archive(path: Path) -> None:
    """Raises ``zipfile.BadZipFile`` unless every checksum of a file of torch fits, and every entry of its index."""
    with zipfile.ZipFile(path) as archive:
        if (bad := archive.testzip()) is not None:
            raise zipfile.BadZipFile(f"checksum of {bad}")
        for item in archive.infolist():  # torch reads by the index, which has no checksum
            if item.compress_size != item.file_size or item.external_attr & _IS_FOLDER:
                raise zipfile.BadZipFile(f"index of {item.filename}")


def load_weights(module: torch.nn.Module, checkpoint: Mapping[str, Any], num_classes: int, path: Path) -> None:
    """Strictly loads ``checkpoint["model"]``.

    Raises:
        Ssl3dError: another number of classes, other tensors, or weights that are not finite; the first few are named.
    """
    if checkpoint.get("num_classes") != num_classes:
        raise Ssl3dError(
            f"the checkpoint has {checkpoint.get('num_classes')} classes, the run has {num_classes}",
            where={"file": path},
            hint="use the checkpoint of a run on the same dataset and class set, or train again with --overwrite",
        )
    here, there = module.state_dict(), checkpoint["model"]
    problems = [f"missing {name}" for name in here if name not in there]
    problems += [f"unexpected {name}" for name in there if name not in here]
    problems += [
        f"{name} is {tuple(there[name].shape)}, not {tuple(here[name].shape)}"
        for name in here
        if isinstance(here[name], torch.Tensor) and name in there and there[name].shape != here[name].shape
    ]
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise Ssl3dError(
            "the checkpoint does not fit the network of the run",
            where={"file": path, "tensors": "; ".join(problems[:3]) + more},
            hint="check method, backbone and their parameters against config.json of the run that wrote it",
        )
    # other buffers may well be infinite (a smallest distance before there was one), and extra state is no tensor
    weights = {name for name, _ in module.named_parameters(remove_duplicate=False)}
    weights |= {name for name in here if name.endswith(("running_mean", "running_var"))}
    spoiled = [name for name in here if name in weights and not bool(there[name].isfinite().all())]
    if spoiled:
        raise Ssl3dError(
            "the checkpoint holds weights that are not numbers",
            where={"file": path, "tensors": ", ".join(spoiled[:3])},
            hint="its training diverged: train it again with --overwrite and a smaller learning rate",
        )
    module.load_state_dict(there)


class _Writer:
    """A file that remembers why a write failed."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        try:
            return self.file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self.file.flush()


__all__ = [
    "DAMAGE",
    "LAST",
    "PREVIOUS",
    "DamagedCheckpointError",
    "check_archive",
    "exists",
    "load",
    "load_last",
    "load_weights",
    "save",
    "save_last",
]
