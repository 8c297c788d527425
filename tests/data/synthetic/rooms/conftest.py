from __future__ import annotations

from pathlib import Path

import pytest

from ssl3d.data.synthetic.rooms.generate import generate_rooms


@pytest.fixture(scope="session")
def scannet_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny rooms of seed 0 as ScanNet, generated once; tests do not write into them."""
    out = tmp_path_factory.mktemp("rooms") / "scannet"
    generate_rooms(out, "tiny", 0, layout="scannet")
    return out


@pytest.fixture(scope="session")
def s3dis_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as S3DIS."""
    out = tmp_path_factory.mktemp("rooms") / "s3dis"
    generate_rooms(out, "tiny", 0, layout="s3dis")
    return out
