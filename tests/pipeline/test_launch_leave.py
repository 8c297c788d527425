"""How a process of a training ends."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

SCRIPT = """
import atexit, sys
from ssl3d.pipeline.launch import leave
atexit.register(print, "torn down")
sys.stdout.write("said")
leave(3)
"""


@pytest.mark.parametrize("processes", [1, 2])
def test_one_of_several_skips_the_teardown_and_says_all(processes: int) -> None:
    together = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "here"}
    environment = {**os.environ, **(together if processes == 2 else {})}
    done = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True)
    assert done.returncode == 3
    assert done.stdout == ("said" if processes == 2 else "saidtorn down\n")
