"""The machine and the libraries that work is done with."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

REPORTED = ("ssl3d", "torch", "numpy", "numba", "h5py", "pykdtree", "pydantic")
"""Packages whose versions are kept beside results."""


def usable_cores() -> int:
    """CPU cores this process may use: its affinity, and the quota of its control group (containers)."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # macOS, Windows
        cores = os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        if quota != "max":
            cores = min(cores, max(1, int(quota) // int(period)))
    except (OSError, ValueError):
        pass
    return max(1, cores)


def package_versions() -> dict[str, str]:
    """Versions of Python and of the packages that results depend on, as far as they are installed."""
    found = {"python": platform.python_version()}
    for name in REPORTED:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def processor_name() -> str:
    """The name of the CPU, e.g. ``AMD EPYC 7763``; where the system does not tell, its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
