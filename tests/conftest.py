"""Shared by all tests: where the real recordings are, and one thread a process (pytest runs several)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

from ssl3d.data.workers import THREAD_VARIABLES

settings.register_profile("ssl3d", deadline=None)  # a busy machine is no failure
settings.load_profile("ssl3d")
for name in THREAD_VARIABLES:
    os.environ.setdefault(name, "1")

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def repository() -> Path:
    return REPOSITORY


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real recordings kept beside the checkout; their licenses keep them out of the repository."""
    folder = REPOSITORY.parent / "shared" / "data" / "real"
    if not folder.is_dir():
        pytest.skip(f"no real recordings at {folder}")
    return folder


@pytest.fixture(scope="session")
def real_kitti(real_data: Path) -> Path:
    """Root of the real SemanticKITTI frames (sequences 00 and 07, four labelled frames)."""
    root = real_data / "semantickitti"
    if not (root / "dataset" / "sequences").is_dir():
        pytest.skip(f"no SemanticKITTI frames at {root}")
    return root
