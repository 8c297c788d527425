"""Running command lines: in this process (quick), or as a user does."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from ssl3d.cli import app


@dataclass(frozen=True)
class Answer:
    code: int
    out: str
    err: str


Run = Callable[..., Answer]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, without a user's settings."""
    monkeypatch.chdir(tmp_path)
    for name in ("SSL3D_WORKSPACE", "COLUMNS", "FORCE_COLOR", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture
def ssl3d(here: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """``ssl3d("status", "--json")`` in this process, in an empty directory."""

    def run(*words: object) -> Answer:
        capsys.readouterr()
        code = app.run([str(word) for word in words])
        captured = capsys.readouterr()
        return Answer(code, captured.out, captured.err)

    return run


@pytest.fixture
def shell(here: Path) -> Run:
    """The same in a process of its own."""

    def run(*words: object, timeout: float = 120) -> Answer:
        command = [sys.executable, "-m", "ssl3d.cli.app", *(str(word) for word in words)]
        done = subprocess.run(command, cwd=here, capture_output=True, text=True, timeout=timeout)
        return Answer(done.returncode, done.stdout, done.stderr)

    return run
