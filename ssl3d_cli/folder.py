"""What ``ssl3d prepare`` says about folders of anyone's scans: ``--config`` and ``--guess``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from ssl3d.cli import console, options
from ssl3d.data.errors import UsageError

READER = "folder"


class Source(NamedTuple):
    """Where a dataset comes from. ``config``: what its reader is made with; ``name``: what it calls itself."""

    root: Path
    config: str
    name: str | None


def source_of(dataset: str, root: Path | None, config: Path | None) -> Source:
    """The root and the description of what is to be prepared.

    Raises:
        UsageError: the option is missing that says where it is.
        DataError: the description is wrong.
    """
    if dataset != READER:
        if config is not None:
            raise UsageError(f"--config describes a folder of own scans, not {dataset}", hint="ssl3d prepare folder")
        if root is None:
            hint = options.command_line("prepare", dataset, "--root", "/where/it/was/unpacked")
            raise UsageError("the option --root is missing: where the dataset was unpacked", hint=hint)
        return Source(root, "", None)
    if config is None:
        hint = options.command_line("prepare", READER, "--guess", root or "DIR", "--out", "my.toml") + " writes one"
        raise UsageError("the option --config is missing: a .toml that says what is in the folder", hint=hint)
    from ssl3d.data.datasets.folder_config import read_config

    described = read_config(config)
    place = Path(os.path.abspath((root or described.base()).expanduser()))  # noqa: PTH100  keeps links
    described = described.model_copy(update={"root": str(place)})
    return Source(place, described.text(), described.name)


def write_guess(dataset: str, folder: Path | None, out: Path | None) -> None:
    """Looks at the files of a folder and writes a description of them.

    Raises:
        UsageError: another dataset, no folder, or ``out`` is there already.
        DataError: nothing in the folder can be read.
    """
    if dataset != READER or folder is None:
        hint = options.command_line("prepare", READER, "--guess", "DIR", "--out", "my.toml")
        raise UsageError("--guess looks at a folder of own scans; --out says where to write what it found", hint=hint)
    from ssl3d.data.atomic import write_whole
    from ssl3d.data.datasets.folder_guess_text import guess_text

    text = guess_text(folder)
    if out is None:
        print(text, end="")
        return
    out = out.expanduser().absolute()
    if out.exists():
        raise UsageError("the file is there already", where={"file": out}, hint="remove it, or choose another --out")
    if not out.parent.is_dir():
        raise UsageError("there is no such folder", where={"folder": out.parent}, hint="make it first")
    write_whole(out, text.encode())
    then = [options.command_line("prepare", READER, "--config", out, "--check")]
    console.done("described what was seen; read it through", {"file": str(out)}, then=then)
