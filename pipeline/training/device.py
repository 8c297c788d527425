"""Where training computes, in which precision, and with how many threads."""

from __future__ import annotations

import contextlib
import platform
import subprocess
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from ssl3d.data.errors import UsageError
from ssl3d.models.sparse.backends import chosen_backend
from ssl3d.pipeline.machine import package_versions, processor_name

Precision = Literal["fp32", "bf16", "fp16"]


def select_device(name: str) -> torch.device:
    """``auto``, ``cpu``, ``cuda`` or ``cuda:1``. ``UsageError`` when it does not exist here."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise UsageError(f"there is no device {name!r}", hint="choose auto, cpu, cuda or cuda:0")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        found = torch.cuda.device_count()
        raise UsageError(
            f"this machine has no device {name!r}: torch sees {found} GPUs",
            hint="choose --device cpu; ssl3d doctor says why a GPU is not seen",
        )
    return device


@dataclass(frozen=True)
class Compute:
    """The device and the number format of a session."""

    device: torch.device
    precision: Precision

    @classmethod
    def choose(cls, device: torch.device, asked: str) -> Compute:
        """``UsageError`` for fp16 on the CPU (its gradients underflow there without help from the hardware)."""
        if asked == "auto":
            if device.type == "cpu":
                return cls(device, "fp32")
            with torch.cuda.device(device):  # emulated bf16 (before Ampere) is slower than fp32
                return cls(device, "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16")
        if asked == "fp16" and device.type == "cpu":
            raise UsageError("fp16 needs a GPU", where={"field": "train.precision"}, hint="use bf16 or fp32 on the CPU")
        precision: Precision = "bf16" if asked == "bf16" else "fp16" if asked == "fp16" else "fp32"
        return cls(device, precision)

    def autocast(self) -> AbstractContextManager[Any]:
        if self.precision == "fp32":
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16 if self.precision == "bf16" else torch.float16)

    def scaler(self) -> torch.amp.GradScaler:
        return torch.amp.GradScaler("cuda", enabled=self.precision == "fp16")


def plan_threads(jobs: int, workers: int | None, device: torch.device) -> tuple[int, int]:
    """(loader processes, threads of the main process), ``jobs`` in all.

    On a CPU making a batch takes a fiftieth of a step: a process for it would take a core from the network, and costs
    seconds to start. With a GPU it is the other way round.
    """
    jobs = max(1, jobs)
    if workers is None:
        wanted = jobs // 8 if device.type == "cpu" else jobs - 1
        workers = min(4, wanted)
    return workers, max(1, jobs - workers)


@contextmanager
def reproducible(threads: int, device: torch.device) -> Iterator[None]:
    """``threads`` threads, and on the CPU only algorithms whose result does not depend on the order of threads.

    On CUDA torch's own fast kernels run as they are: the last bits may differ from run to run.
    """
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    fill = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    torch.set_num_threads(threads)
    if device.type == "cpu":
        torch.use_deterministic_algorithms(True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        torch.use_deterministic_algorithms(before[1])
        torch.utils.deterministic.fill_uninitialized_memory = fill  # type: ignore[attr-defined]


def describe_environment(compute: Compute, threads: int, workers: int, processes: int = 1) -> dict[str, Any]:
    """What this session runs on: versions, commit, machine."""
    gpu = torch.cuda.get_device_name(compute.device) if compute.device.type == "cuda" else None
    return {
        "versions": package_versions(),
        "commit": _commit(),
        "platform": platform.platform(),
        "cpu": processor_name(),
        "device": str(compute.device),
        "gpu": gpu,
        "cuda": torch.version.cuda,
        "precision": compute.precision,
        "sparse_backend": chosen_backend().library,
        "threads": threads,
        "workers": workers,
        "processes": processes,
    }


def _commit() -> str | None:
    """The commit of the checkout that this package is run from (``+`` when it was edited since), if it is one."""
    here = Path(__file__).resolve().parents[2]
    if not (here / ".git").exists():
        return None
    try:
        head = subprocess.run(
            ["git", "-C", str(here), "describe", "--always", "--dirty=+", "--abbrev=12", "--exclude=*"],
            capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return head.stdout.strip() or None


__all__ = ["Compute", "describe_environment", "plan_threads", "reproducible", "select_device"]
