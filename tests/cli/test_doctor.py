"""``ssl3d doctor`` and ``ssl3d bench``: what they find, and that one bad part does not hide the others."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from ssl3d.cli import checks
from ssl3d.cli.commands.bench import describe_machine

REQUIRED = {"Python", "ssl3d", "packages", "PyTorch", "numba", "HDF5", "pykdtree", "threads", "memory", "disk"}


def test_doctor_finds_a_working_machine(ssl3d, here: Path) -> None:
    answer = ssl3d("doctor", "--json")
    value = json.loads(answer.out)
    found = {check["name"]: check for check in value["checks"]}
    assert found.keys() >= REQUIRED
    assert all(found[name]["state"] in ("ok", "warn") for name in REQUIRED), found
    assert answer.code == 0 and value["ok"]
    assert list(here.iterdir()) == []  # nothing is left behind, and no workspace was made
    assert all(check["fix"] for check in value["checks"] if check["state"] != "ok")


def test_doctor_fails_where_the_workspace_cannot_be_written(ssl3d, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks.os, "access", lambda *_: False)
    answer = ssl3d("doctor")
    assert answer.code == 1
    assert "HDF5" in answer.out and "--workspace DIR" in answer.out


def test_a_crash_in_a_library_is_reported_not_shared() -> None:
    assert checks._try("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)") == (
        None,
        "the process died with signal 11",
    )
    assert checks._try("raise ImportError('libusb-1.0.so.0: cannot open')")[1].endswith("libusb-1.0.so.0: cannot open")
    assert checks._try("print('noise'); print('{\"version\": 1}')") == ({"version": 1}, "")


def test_folders_of_the_user_are_not_taken_for_libraries(here: Path) -> None:
    (here / "numpy").mkdir()
    (here / "numpy" / "__init__.py").write_text("raise RuntimeError('not this one')")
    assert checks._try("import numpy; print('{}')") == ({}, "")


def _package(folder: Path, name: str, text: str) -> None:
    (folder / f"{name}.py").write_text(text, encoding="utf-8")


def test_open3d_without_libusb_names_the_apt_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _package(tmp_path, "open3d", "raise OSError('libusb-1.0.so.0: cannot open shared object file')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path))
    check = checks.check_open3d()
    assert check.state == "warn" and "libusb-1.0.so.0" in check.found and "apt-get install" in check.fix


def test_an_engine_that_does_not_compute_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _package(tmp_path, "spconv", "raise RuntimeError('no kernel image')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path))
    check = checks.check_spconv()
    assert check.state == "warn" and "no kernel image" in check.found


def test_threads_held_down_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(checks, "usable_cores", lambda: 8)
    check = checks.check_threads()
    assert check.state == "warn" and "unset OMP_NUM_THREADS" in check.fix


def test_the_machine_of_a_figure() -> None:
    machine = describe_machine("ssl3d bench stages")
    assert machine["versions"]["python"] == sys.version.split()[0]
    assert machine["versions"]["torch"] and machine["processor"] and machine["usable_cores"] >= 1
    json.dumps(machine)
