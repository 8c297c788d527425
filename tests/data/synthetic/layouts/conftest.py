from __future__ import annotations

from pathlib import Path

import pytest

from ssl3d.data.synthetic.street import generate_street


def _generated(layout: str, factory: pytest.TempPathFactory) -> Path:
    out = factory.mktemp("layouts") / layout
    generate_street(out, "tiny", 0, layout=layout)
    return out


@pytest.fixture(scope="session")
def nuscenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny streets of seed 0 in the layout of nuScenes; tests do not write into them."""
    return _generated("nuscenes", tmp_path_factory)


@pytest.fixture(scope="session")
def semanticposs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _generated("semanticposs", tmp_path_factory)


@pytest.fixture(scope="session")
def semantic3d(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _generated("semantic3d", tmp_path_factory)
