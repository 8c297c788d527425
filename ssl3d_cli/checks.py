"""What ``ssl3d doctor`` looks at. Each check returns what it found and, for a problem, the line to type."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from ssl3d.data.text import size_text
from ssl3d.data.workers import THREAD_VARIABLES
from ssl3d.pipeline.machine import usable_cores

State = Literal["ok", "warn", "fail", "absent"]
TIMEOUT = 120
"""Seconds that a check in a subprocess may take (a cold import of torch from a network disk is slow)."""


_NOT_FROM_HERE = "import sys; sys.path[:] = [place for place in sys.path if place]\n"
"""``python -c`` looks for modules in the working directory first, where a user may have a folder called ``numpy``."""


@dataclass(frozen=True)
class Check:
    """``state``: ok, warn (works, but), fail (a required part does not work), absent (optional and not installed)."""

    name: str
    state: State
    found: str
    fix: str = ""


def _installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _try(script: str, python: str = sys.executable) -> tuple[dict[str, Any] | None, str]:
    """Runs Python code in a fresh process: a library that crashes takes only that down.

    Returns the JSON of its last line of output, or None and the reason.
    """
    try:
        done = subprocess.run([python, "-c", _NOT_FROM_HERE + script], capture_output=True, text=True, timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        return None, f"no answer within {TIMEOUT} s"
    if done.returncode < 0:
        return None, f"the process died with signal {-done.returncode}"
    if done.returncode:
        lines = [line for line in done.stderr.strip().splitlines() if line.strip()]
        return None, lines[-1][:300] if lines else f"exit code {done.returncode}"
    return json.loads(done.stdout.strip().splitlines()[-1]), ""


# ---------------------------------------------------------------- Python and packages


def check_python() -> Check:
    found = f"{sys.version.split()[0]} at {sys.executable}"
    if sys.maxsize < 2**32:
        return Check("Python", "fail", f"{found}, 32 bit", "install a 64-bit Python")
    return Check("Python", "ok", found)


def check_ssl3d() -> Check:
    import ssl3d.data

    found = f"{version('ssl3d')} from {Path(next(iter(ssl3d.data.__path__))).parent}"
    command = shutil.which("ssl3d")
    if command and Path(command).parent != Path(sys.executable).parent:
        return Check("ssl3d", "warn", f"{found}; but `ssl3d` on PATH is {command}", "activate the environment you mean")
    return Check("ssl3d", "ok", found)


def check_packages() -> Check:
    """Every core dependency is installed (versions are read, nothing is imported)."""
    names = []
    for line in requires("ssl3d") or []:
        if "extra ==" in line or ("python_version" in line and sys.version_info >= (3, 11)):
            continue
        match = re.match(r"[A-Za-z0-9._-]+", line)
        if match:
            names.append(match[0])
    missing = [name for name in names if _installed(name) is None]
    if missing:
        return Check("packages", "fail", f"missing: {', '.join(missing)}", f"pip install {' '.join(missing)}")
    shown = ("numpy", "numba", "h5py", "pydantic", "matplotlib", "tensorboard")
    return Check("packages", "ok", ", ".join(f"{name} {_installed(name)}" for name in shown))


def check_torch() -> Check:
    result, why = _try("""
import json, torch
x = torch.randn(64, 64); (x @ x).sum().item()
names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
if names:
    y = torch.randn(64, 64, device="cuda"); (y @ y).sum().item()
print(json.dumps({"version": torch.__version__, "cuda": torch.version.cuda, "names": names}))
""")
    if result is None:
        return Check("PyTorch", "fail", why, "pip install torch  (https://pytorch.org/get-started/locally)")
    devices = ", ".join(result["names"])
    cuda = f"CUDA {result['cuda']}: {devices or 'no device'}" if result["cuda"] else "CPU only"
    found = f"{result['version']}, {cuda}"
    if Path("/dev/nvidia0").exists() or shutil.which("nvidia-smi"):
        if not result["cuda"]:
            fix = "pip install --force-reinstall torch --index-url https://download.pytorch.org/whl/cu126"
            return Check("PyTorch", "warn", f"{found}, but this machine has an NVIDIA device", fix)
        if not devices:
            fix = "nvidia-smi  (the driver has to be as new as the CUDA version of this PyTorch)"
            return Check("PyTorch", "warn", found, fix)
    return Check("PyTorch", "ok", found)


def check_numba() -> Check:
    result, why = _try("""
import json, time, numba
start = time.perf_counter()
total = numba.njit(lambda n: n * (n + 1) // 2)(100)
assert total == 5050, total
print(json.dumps({"version": numba.__version__, "seconds": time.perf_counter() - start}))
""")
    if result is None:
        return Check("numba", "fail", why, "pip install --upgrade numba llvmlite")
    import ssl3d.data

    folder = os.environ.get("NUMBA_CACHE_DIR") or next(iter(ssl3d.data.__path__))
    place = "its folder is writable" if os.access(folder, os.W_OK) else "it is kept in the workspace"
    return Check("numba", "ok", f"{result['version']} compiles in {result['seconds']:.1f} s; cache: {place}")


def check_pykdtree() -> Check:
    result, why = _try("""
import json, pathlib, numpy
from pykdtree.kdtree import KDTree
points = numpy.random.default_rng(0).random((100, 3), dtype=numpy.float32)
assert (KDTree(points).query(points)[1] == numpy.arange(100)).all()
maps = pathlib.Path("/proc/self/maps")
loaded = maps.read_text() if maps.exists() else ""
print(json.dumps({"openmp": any(name in loaded for name in ("libgomp", "libomp", "libiomp"))}))
""")
    if result is None:
        return Check("pykdtree", "fail", why, "pip install --force-reinstall --no-deps pykdtree")
    threads = "with OpenMP" if result["openmp"] else "one thread" if sys.platform == "linux" else "found"
    return Check("pykdtree", "ok", f"{_installed('pykdtree')}, {threads}")


# ---------------------------------------------------------------- the workspace's disk


def existing_parent(path: Path) -> Path:
    """The nearest folder above (or at) ``path`` that exists: doctor makes no workspace."""
    place = path.expanduser().absolute()
    while not place.is_dir() and place != place.parent:
        place = place.parent
    return place


def check_hdf5(workspace: Path) -> Check:
    folder = existing_parent(workspace)
    if not os.access(folder, os.W_OK):
        return Check("HDF5", "fail", f"{folder} cannot be written", "use --workspace DIR with a folder of your own")
    script = f"""
import json, tempfile, pathlib, h5py, numpy
with tempfile.TemporaryDirectory(dir={str(folder)!r}, prefix=".ssl3d-doctor-") as place:
    path = pathlib.Path(place) / "shard.h5"
    with h5py.File(path, "w", locking=False) as file:
        file["points"] = numpy.arange(30, dtype="f4").reshape(10, 3)
    with h5py.File(path, "r", locking=False) as file:
        assert (file["points"][4] == [12, 13, 14]).all()
    try:
        h5py.File(path, "r", locking=True).close()
        locks = True
    except OSError:
        locks = False
print(json.dumps({{"h5py": h5py.version.version, "hdf5": h5py.version.hdf5_version, "locks": locks}}))
"""
    result, why = _try(script)
    if result is None:
        return Check("HDF5", "fail", why, "pip install --force-reinstall --no-deps h5py")
    locks = "" if result["locks"] else "; no file locks on this disk (ssl3d opens shards without them)"
    return Check("HDF5", "ok", f"h5py {result['h5py']}, HDF5 {result['hdf5']}: written and read in {folder}{locks}")


def check_disk(workspace: Path) -> Check:
    folder = existing_parent(workspace)
    free = shutil.disk_usage(folder).free
    found = f"{size_text(free)} free at {folder}"
    if free < 1e9:
        return Check("disk", "fail", found, "ssl3d clean  (or use --workspace DIR on another disk)")
    if free < 20e9:
        return Check(
            "disk", "warn", f"{found}; SemanticKITTI needs about 50 GB", "use --workspace DIR on a larger disk"
        )
    return Check("disk", "ok", found)


# ---------------------------------------------------------------- the machine


def check_threads() -> Check:
    cores, installed = usable_cores(), os.cpu_count() or 1
    limits = {name: os.environ[name] for name in THREAD_VARIABLES if name in os.environ}
    found = f"{cores} usable of {installed} cores" if cores < installed else f"{cores} cores"
    low = [name for name, value in limits.items() if value.isdigit() and int(value) < cores]
    if low:
        shown = ", ".join(f"{name}={limits[name]}" for name in low)
        return Check("threads", "warn", f"{found}, but {shown}", f"unset {' '.join(low)}  (--jobs says how many)")
    return Check("threads", "ok", found)


def check_memory() -> Check:
    import psutil

    memory = psutil.virtual_memory()
    total, available = memory.total, memory.available
    with contextlib.suppress(OSError, ValueError):  # no control group, or "max"
        total = min(total, int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii")))
    available = min(available, total)
    found = f"{size_text(available)} available of {size_text(total)}"
    if available < 3e9:
        return Check("memory", "warn", found, "close other programs, or lower --jobs")
    return Check("memory", "ok", found)


def check_shared_memory() -> Check:
    place = Path("/dev/shm")
    if not place.is_dir():
        return Check("shared memory", "ok", "not needed on this system")
    free = shutil.disk_usage(place).free
    if free < 256e6:
        fix = "docker run --shm-size=2g ...  (loader workers hand batches over through it)"
        return Check("shared memory", "warn", f"{size_text(free)} free in /dev/shm", fix)
    return Check("shared memory", "ok", f"{size_text(free)} free in /dev/shm")


def check_temporary() -> Check:
    folder = Path(tempfile.gettempdir())
    free = shutil.disk_usage(folder).free
    if free < 200e6:
        return Check("temporary files", "warn", f"{size_text(free)} free in {folder}", "export TMPDIR=/a/larger/disk")
    return Check("temporary files", "ok", f"{size_text(free)} free in {folder}")


def check_open_files() -> Check:
    try:
        import resource
    except ImportError:  # Windows
        return Check("open files", "ok", "no limit to check")
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < 1024:
        return Check("open files", "warn", f"at most {soft} at once", "ulimit -n 4096")
    return Check("open files", "ok", f"up to {soft} at once")


# ---------------------------------------------------------------- optional parts

_BACKEND = """
import json, torch
from ssl3d.data.errors import UsageError
from ssl3d.models.sparse import Convolution, SparseTensor
from ssl3d.models.sparse.backends import check_backend, use_backend
device = torch.device("cuda" if {cuda} and torch.cuda.is_available() else "cpu")
try:
    check_backend("{name}", device, training=True)
    work = "trains"
except UsageError:
    work = "predicts"
coords = torch.cat([torch.zeros(10, 1), torch.arange(30).reshape(10, 3)], 1).int().to(device)
with use_backend("{name}") as backend, torch.set_grad_enabled(work == "trains"):
    out = Convolution(4, 8, 3).to(device)(SparseTensor(torch.ones(10, 4, device=device), coords)).F
    assert out.shape == (10, 8)
    if work == "trains":
        out.sum().backward()
print(json.dumps({{"library": backend.library, "work": work, "device": device.type}}))
"""
_TORCHSPARSE = """
import json, torch, torchsparse
from torchsparse import SparseTensor, nn
device = "cuda" if torch.cuda.is_available() else "cpu"
coords = torch.cat([torch.zeros(10, 1), torch.arange(30).reshape(10, 3)], 1).int().to(device)
out = nn.Conv3d(4, 8, 3).to(device)(SparseTensor(torch.ones(10, 4, device=device), coords))
assert out.feats.shape == (10, 8)
print(json.dumps({"version": torchsparse.__version__}))
"""
_OPEN3D = """
import json, open3d
cloud = open3d.geometry.PointCloud(open3d.utility.Vector3dVector([[0.0, 0.0, 0.0]] * 10))
assert len(cloud.points) == 10
print(json.dumps({"version": open3d.__version__}))
"""


def _check_backend(name: str, module: str, install: str, cuda: bool) -> Check:
    """A backend of the sparse engine: here, or where `make minkowski` puts it (it needs an older numpy)."""
    python, place, fix = sys.executable, "", install
    if find_spec(module) is None:
        own = Path(".venv-minkowski/bin/python")
        if not own.exists():
            return Check(module, "absent", "not installed (optional)", install)
        python, place, fix = str(own), " in .venv-minkowski", "make minkowski"
    result, why = _try(_BACKEND.format(name=name, cuda=cuda), python)
    if result is None:
        if place and "is not installed" in why:
            return Check(module, "absent", "not installed (optional)", install)
        return Check(module, "warn", f"installed{place}, but: {why}", fix)
    found = f"{result['library'].rpartition(' ')[2]}{place}: a layer {result['work']} on {result['device']}"
    return Check(module, "ok", f"{found} (--sparse-backend {name})")


def check_minkowski() -> Check:
    return _check_backend("minkowski", "MinkowskiEngine", "make minkowski", cuda=False)


def check_spconv() -> Check:
    line = "pip install spconv  (CPU, inference only); with a GPU the wheel of torch's CUDA, as spconv-cu126"
    return _check_backend("spconv", "spconv", line, cuda=True)


def check_torchsparse() -> Check:
    line = "pip install git+https://github.com/mit-han-lab/torchsparse.git  (needs a CUDA toolkit)"
    if find_spec("torchsparse") is None:
        return Check("torchsparse", "absent", "not installed (optional)", line)
    result, why = _try(_TORCHSPARSE)
    if result is None:
        return Check("torchsparse", "warn", f"installed, but: {why}", line)
    return Check("torchsparse", "ok", f"{result['version']}: a layer on 10 points works")


def check_open3d() -> Check:
    if find_spec("open3d") is None:
        return Check("open3d", "absent", "not installed (optional: mesh files, viewing)", "pip install 'ssl3d[open3d]'")
    result, why = _try(_OPEN3D)
    if result is not None:
        return Check("open3d", "ok", result["version"])
    library = re.search(r"(lib[\w.+-]+\.so[\d.]*)", why)
    if library:
        fix = "sudo apt-get install -y libusb-1.0-0 libgl1 libgomp1"
        return Check("open3d", "warn", f"the system library {library[1]} is missing", fix)
    return Check("open3d", "warn", f"installed, but: {why}", "pip install --force-reinstall open3d")


def check_extra(package: str, extra: str, purpose: str) -> Check:
    found = _installed(package)
    if found is None:
        return Check(package, "absent", f"not installed (optional: {purpose})", f"pip install 'ssl3d[{extra}]'")
    return Check(package, "ok", found)


def all_checks(workspace: Path) -> list[Callable[[], Check]]:
    """Every check, in the order shown."""
    return [
        check_python,
        check_ssl3d,
        check_packages,
        check_torch,
        check_numba,
        lambda: check_hdf5(workspace),
        check_pykdtree,
        check_threads,
        check_memory,
        lambda: check_disk(workspace),
        check_temporary,
        check_shared_memory,
        check_open_files,
        check_minkowski,
        check_spconv,
        check_torchsparse,
        check_open3d,
        lambda: check_extra("laspy", "las", "airborne .las/.laz files"),
        lambda: check_extra("dask", "dask", "preparing on several machines"),
        lambda: check_extra("transformers", "vlm", "captions by a vision-language model"),
    ]
