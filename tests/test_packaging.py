"""The wheel holds everything, and runs in a folder that has its own ``data`` and ``models``."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def wheel(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    # A copy of the tracked files: building in place would leave build/ in the checkout and pick up stale files from it.
    source = out / "source"
    files = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=repository,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split("\0")
    for name in filter(None, files):
        if (repository / name).is_file() and not name.startswith("typings/"):
            target = source / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((repository / name).read_bytes())
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(source)],
        check=True,
        capture_output=True,
    )
    (built,) = out.glob("*.whl")
    return built


def test_wheel_holds_code_tables_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    for needed in (
        "ssl3d/cli/app.py",
        "ssl3d/pipeline/stages/prepare.py",
        "ssl3d/models/methods/supervised.py",
        "ssl3d/models/sparse/backends/minkowski.py",
        "ssl3d/data/datasets/semantickitti.toml",
        "ssl3d/data/datasets/lists/semantickitti_lasermix_1pct.txt",
        "ssl3d/data/datasets/lists/index.toml",
        "ssl3d/benchmarks/stages.py",
        "ssl3d/benchmarks/published/ddsemi.toml",
        "ssl3d/benchmarks/rivals/worker.py",
        "ssl3d/data/py.typed",
    ):
        assert needed in names
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"ssl3d"}
    assert not [name for name in names if "results/" in name or "/tests/" in name]


def test_wheel_runs_beside_the_users_own_data_folder(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site), str(wheel)], check=True
    )
    work = tmp_path / "work"
    for folder in ("data", "models", "pipeline"):
        (work / folder).mkdir(parents=True)
        (work / folder / "__init__.py").write_text("raise ImportError('the user\\'s own folder was imported')\n")
    # The packages of this environment without its .pth files, so that only the wheel provides ssl3d.
    path = os.pathsep.join([str(site), sysconfig.get_path("purelib"), sysconfig.get_path("platlib")])
    environment = {**os.environ, "PYTHONPATH": path}

    def ssl3d(*args: str) -> str:
        command = [sys.executable, "-S", "-c", "from ssl3d.cli.app import main; main()", *args]
        done = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    ssl3d("doctor")
    ssl3d("synth", "street", "--preset", "tiny", "--seed", "0", "--out", "street")
    ssl3d("prepare", "semantickitti", "--root", "street", "--jobs", "1")
    ssl3d("split", "--ratio", "50%")
    ssl3d("train", "supervised", "--backbone", "minkunet-micro", "--steps", "2", "--jobs", "2")
    assert "semantickitti" in ssl3d("eval", "--report", "json")
