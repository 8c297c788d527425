from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ssl3d.data.synthetic.ground import LOT_COLUMNS, Ground
from ssl3d.data.synthetic.kernels import stamp
from ssl3d.data.synthetic.street import generate_street


@pytest.fixture(scope="session")
def streets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny streets of seed 0, generated once; tests do not write into them."""
    out = tmp_path_factory.mktemp("streets") / "tiny"
    generate_street(out, "tiny", 0)
    return out


@pytest.fixture
def flat_ground() -> Ground:
    """An even plane at z = 0, all of it one road along x."""
    meters = 122
    return Ground(
        seed=1,
        origin=np.array([-60.0, -60.0, 0.5]),
        height=np.zeros((241, 241), np.float32),
        main=np.tile(np.array([0.0, 1.0, 0.0]), (meters, 1)),
        streets=np.array([[1.0, 0.0, 0.0, 1.0, 0.0, 60.0, -60.0, 60.0, 0.0, 0.0]]),
        lot_of=np.zeros((1, 2, meters), np.int32),
        lots=np.zeros((1, LOT_COLUMNS)),
        hills=np.zeros((0, 4)),
        stamp=stamp(),
    )
