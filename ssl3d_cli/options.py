"""The options that commands share, with their defaults, checks and shell completion. Imports nothing heavy."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ssl3d.data.errors import UsageError
from ssl3d.pipeline.machine import usable_cores

if TYPE_CHECKING:
    from ssl3d.pipeline.workspace import Workspace as WorkspaceFolder

DEFAULT_WORKSPACE = Path("workspace")
WORKSPACE_VARIABLE = "SSL3D_WORKSPACE"


class _State:
    """What the shared options of the running command say."""

    debug = False
    workspace: Path | None = None


STATE = _State()


# ---------------------------------------------------------------- machine


def _all_cores(value: int) -> int:
    return value or usable_cores()


def _check_device(value: str) -> str:
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", value):
        raise UsageError(
            f"'{value}' is not a device.", hint="Use --device auto, --device cpu, --device cuda or --device cuda:0."
        )
    return value


def resolve_device(value: str) -> str:
    """``auto|cpu|cuda[:i]`` -> a device that torch has here. Imports torch. ``UsageError`` when CUDA is missing."""
    if value == "cpu":
        return "cpu"
    from ssl3d.pipeline.training.device import select_device

    return str(select_device(value))


@contextmanager
def sparse_backend(name: BackendName) -> Iterator[None]:
    """Convolutions are computed by this library in the block. ``UsageError`` when it is missing or unknown."""
    if name == "native":
        yield
        return
    from ssl3d.models.sparse.backends import use_backend

    with use_backend(name):
        yield


# ---------------------------------------------------------------- next commands


def _remember_workspace(value: Path) -> Path:
    STATE.workspace = value
    return value


def _remember_debug(value: bool) -> bool:
    STATE.debug = STATE.debug or value
    return value


def command_line(*words: object) -> str:
    """``ssl3d WORDS``, quoted for a shell, with the ``--workspace`` of this command where it is not the default."""
    parts = ["ssl3d", *(str(word) for word in words)]
    given = STATE.workspace
    default = Path(os.environ.get(WORKSPACE_VARIABLE, str(DEFAULT_WORKSPACE)))
    if given is not None and given != default:
        parts += ["--workspace", str(given)]
    return shlex.join(parts)


# ---------------------------------------------------------------- completion


def _starting(values: Sequence[str], incomplete: str) -> list[str]:
    return [value for value in sorted(set(values)) if value.startswith(incomplete)]


def complete_dataset(incomplete: str) -> list[str]:
    from ssl3d.data.datasets.registry import list_readers

    return _starting(list_readers(), incomplete)


def complete_method(incomplete: str) -> list[str]:
    from ssl3d.models.methods.registry import list_methods

    return _starting(list_methods(), incomplete)


def complete_backbone(incomplete: str) -> list[str]:
    from ssl3d.models.backbones.registry import list_backbones

    return _starting(list_backbones(), incomplete)


def complete_run(ctx: typer.Context, incomplete: str) -> list[str]:
    root = Path(ctx.params.get("workspace") or os.environ.get(WORKSPACE_VARIABLE) or DEFAULT_WORKSPACE) / "runs"
    names = [path.name for path in root.iterdir() if path.is_dir()] if root.is_dir() else []
    return _starting(names, incomplete)


# ---------------------------------------------------------------- the options

COMMON = "Common"

Workspace = Annotated[
    Path,
    typer.Option(
        "--workspace",
        "-w",
        envvar=WORKSPACE_VARIABLE,
        metavar="DIR",
        callback=_remember_workspace,
        help="Where everything made is kept.",
        rich_help_panel=COMMON,
    ),
]
Jobs = Annotated[
    int,
    typer.Option(
        "--jobs",
        "-j",
        min=0,
        metavar="N",
        callback=_all_cores,
        show_default="all usable cores",
        help="Threads in total: workers x threads per worker.",
        rich_help_panel=COMMON,
    ),
]
Device = Annotated[
    str,
    typer.Option(
        "--device",
        metavar="auto|cpu|cuda[:i]",
        callback=_check_device,
        help="Where to compute; auto takes the first CUDA device.",
        rich_help_panel=COMMON,
    ),
]
BackendName = Literal["native", "minkowski", "spconv"]
SparseBackend = Annotated[
    BackendName,
    typer.Option(
        "--sparse-backend",
        help="The library that computes sparse convolutions; spconv trains on CUDA only.",
        rich_help_panel=COMMON,
    ),
]
TestTime = Annotated[
    str,
    typer.Option(
        "--tta",
        metavar="WORDS",
        help="Test-time augmentation: copies of a scan vote too; of flip, rotate, scale, by commas, or none.",
    ),
]
Debug = Annotated[
    bool,
    typer.Option(
        "--debug",
        callback=_remember_debug,
        is_eager=True,
        help="Show the traceback of an error.",
        rich_help_panel=COMMON,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout, and nothing else.")]
Dataset = Annotated[
    str | None,
    typer.Option(
        "--dataset",
        metavar="NAME",
        autocompletion=complete_dataset,
        help="Which dataset; else the one prepared last.",
        show_default=False,
    ),
]


def print_json(value: Any) -> None:
    """``value`` as JSON on stdout; numbers that JSON has no word for (NaN) become null."""
    import json
    import math

    def clean(item: Any) -> Any:
        if isinstance(item, dict):
            return {str(key): clean(inner) for key, inner in item.items()}
        if isinstance(item, (list, tuple)):
            return [clean(inner) for inner in item]
        if isinstance(item, float) and not math.isfinite(item):
            return None
        return item

    print(json.dumps(clean(value), indent=2, default=str))


def open_workspace(path: Path, create: bool = True) -> WorkspaceFolder:
    """The workspace, with numba's cache sent there when the package folder is read-only."""
    from ssl3d.pipeline.workspace import Workspace as Folder
    from ssl3d.pipeline.workspace import ensure_numba_cache

    found = Folder.open(path, create=create)
    ensure_numba_cache(found)
    return found
